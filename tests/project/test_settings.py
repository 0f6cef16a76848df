"""Settings given as values: what is not of the kind a setting needs is refused at start-up, for every framework."""

import ipaddress
import os
from pathlib import Path

import pytest

from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, ConfigurationError
from audit_middleware.config import load
from audit_middleware.journal.spool import Spool, why_unusable
from tests.capture.kit import KEYS

WRONG = [
    ("service", b"orders"),
    ("durability", {"fsync": 1}),
    ("collector_url", {"http://127.0.0.1:8600": 1}),
    ("collector_url", [b"http://127.0.0.1:8600"]),
    ("keys", b"k1:secret-token"),
    ("keys", [b"k1:secret-token"]),
    ("token", b"secret-token"),
    ("request_id_header", b"X-Request-ID"),
    ("trusted_proxies", {"10.0.0.0/8": 1}),
    ("trusted_proxies", [None]),
    ("spool_dir", {}),
    ("spool_dir", []),
    ("service", ["orders"]),
    ("service", True),
    ("wait_timeout", object()),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_of_another_kind_is_refused_by_name(name, value):
    with pytest.raises(ConfigurationError, match=rf"audit\.E002: {name}: expected text") as refused:
        load({}, **{name: value})
    assert "secret-token" not in str(refused.value)


def test_every_wrong_value_is_named_at_once():
    with pytest.raises(ConfigurationError, match=r"service.*DURABILITY"):
        load({"AUDIT_DURABILITY": "x"}, service=b"x")


@pytest.mark.parametrize(
    ("given", "means"),
    [
        (ipaddress.ip_network("10.0.0.0/24"), ("10.0.0.0/24",)),
        ([ipaddress.ip_network("fd00::/8"), "10.0.0.1"], ("fd00::/8", "10.0.0.1")),
        ("10.0.0.0/24, 10.1.0.0/24", ("10.0.0.0/24", "10.1.0.0/24")),
        ((), ()),
    ],
)
def test_networks_may_be_text_lists_or_networks(given, means):
    assert load({}, trusted_proxies=given).trusted_proxies == means


def test_numbers_paths_and_lists_of_keys_are_taken():
    settings = load({}, spool_max=1024, wait_timeout=0.5, spool_dir=Path("x"), keys=[KEYS, KEYS])
    assert (settings.spool_max, settings.wait_timeout, settings.spool_dir) == (1024, 0.5, Path("x"))
    assert settings.keys == f"{KEYS},{KEYS}"


@pytest.mark.parametrize("middleware", [AuditMiddleware, AuditWSGIMiddleware])
def test_a_middleware_is_not_made_with_wrong_settings(middleware):
    for wrong in ({"spool_dir": {}}, {"service": b"x"}):
        with pytest.raises(ConfigurationError, match=r"E002"):
            middleware(lambda *_: None, **wrong)


@pytest.mark.parametrize("wrong", [{"AUDIT_SERVICE": b"orders"}, {"AUDIT_DURABILITY": {"fsync": 1}}])
def test_a_flask_app_is_not_audited_with_wrong_settings(wrong):
    from flask import Flask

    from audit_integrations.flask import Audit

    app = Flask("shop")
    app.config.update(wrong)
    with pytest.raises(ConfigurationError, match=r"E002"):
        Audit(app)


def test_a_collectors_settings_may_stand_beside_in_a_flask_config_as_in_the_environment(tmp_path):
    from flask import Flask

    from audit_integrations.flask import Audit

    app = Flask("shop")
    app.config.update(AUDIT_COLLECTOR_DATA="audit-data", AUDIT_TOKENS="x:y:z", AUDIT_SPOOL_DIR=tmp_path / "spool")
    Audit(app)
    app = Flask("shop")
    app.config["AUDIT_COLLECTOR_DATE"] = "audit-data"
    with pytest.raises(ConfigurationError, match=r"E001.*AUDIT_COLLECTOR_DATE"):
        Audit(app)


@pytest.fixture(
    params=[
        "good",
        "absent",
        "deep",
        "open",
        "anybody's",
        "anybody's above",
        "file",
        "below a file",
        "link",
        "dangling",
    ]
)
def place(request, tmp_path):
    """A place for a spool, by what is the matter with it."""
    kind, spool = request.param, tmp_path / "spool"
    if kind in {"good", "open"}:
        spool.mkdir(mode=0o700)
        spool.chmod(0o777 if kind == "open" else 0o700)
    elif kind == "deep":
        spool = tmp_path / "a" / "b" / "spool"
    elif kind.startswith("anybody's"):
        tmp_path.chmod(0o1777)
        spool = spool if kind == "anybody's" else spool / "below"
    elif kind == "file":
        spool.write_text("")
    elif kind == "below a file":
        spool.write_text("")
        spool /= "x"
    elif kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        spool.symlink_to("real")
    elif kind == "dangling":
        spool.symlink_to("nowhere")
    return spool


def test_why_a_spool_cannot_be_used_is_what_opening_it_finds_and_makes_nothing(place, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    reason = why_unusable(place)
    assert sorted(tmp_path.rglob("*")) == before
    try:
        Spool(place).close()
        opened = True
    except Exception:
        opened = False
    assert opened is (reason == "")
    assert reason == "" or str(place) in reason


def test_a_folder_nobody_may_write_to_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # what a user who is not root is told
    assert "is not writable by this user" in why_unusable(tmp_path / "spool")
