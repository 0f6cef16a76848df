import secrets

import pytest

from tests.stores.gateway import Gateway
from tests.stores.kit import OpenStore, s3_settings
from tests.stores.weed import Weed


@pytest.fixture(autouse=True)
def _credentials(monkeypatch):
    """No credentials and no configuration of the user's own reach a test."""
    for name, value in {"ACCESS_KEY_ID": "AKWRITER", "SECRET_ACCESS_KEY": "SKWRITER"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in (
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL",
        "AWS_CA_BUNDLE",
        "AWS_DEFAULT_REGION",
        "HTTP_PROXY",
        "http_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def gateway():
    opened = Gateway()
    yield opened
    opened.close()


@pytest.fixture
def store(gateway):
    with OpenStore(s3_settings(gateway.endpoint)) as opened:
        yield opened


@pytest.fixture(scope="session")
def weed(tmp_path_factory):
    """One server for the whole run."""
    server = Weed(tmp_path_factory.mktemp("weed") / "server")
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.remove()


@pytest.fixture
def bucket(weed):
    """A new bucket with Object Lock."""
    return weed.make_bucket(f"audit-{secrets.token_hex(4)}")
