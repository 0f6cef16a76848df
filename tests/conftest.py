"""What every test shares: an environment without the developer's own settings, and pipelines that end."""

import os
from collections.abc import Iterator

import pytest

from audit_middleware import pipeline as pipelines
from tests.capture import kit


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No AUDIT_* variable and no development key of the user reaches a test."""
    for name in list(os.environ):
        if name.startswith(("AUDIT_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(autouse=True)
def _pipelines_end() -> Iterator[None]:
    """No test leaves a keeper thread to the next one."""
    yield
    while kit.OPEN:
        kit.OPEN.pop().close()
    while pipelines._shared:
        pipelines._shared.popitem()[1].close()


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, as the servers we support do."""
    return "asyncio"
