"""The events that auditors ask for: fixed names, in a request, in a task, and outside of any."""

import json

import pytest

from audit_middleware import audited, events
from audit_middleware.capture.current import enter, leave
from audit_middleware.capture.exchange import Exchange
from audit_middleware.record import Principal
from audit_middleware.testing import FaultyFiles
from tests.capture.kit import make_pipeline, records


@pytest.fixture
def pipeline(tmp_path):
    return make_pipeline(tmp_path)


@pytest.fixture
def request_of_alice(pipeline):
    exchange = Exchange(pipeline.service, pipeline.recorder.new_request_id(), "POST", "/", 0)
    exchange.gate, exchange.user = pipeline, Principal("alice", "user", "session")
    exchange.source = ("203.0.113.7", "peer", "203.0.113.7")
    token = enter(exchange)
    yield exchange
    leave(token)


@pytest.mark.parametrize(
    ("happens", "action", "resource", "said"),
    [
        (lambda: events.password_changed("bob"), "auth.password_change", ("user", "bob"), {}),
        (
            lambda: events.user_created("bob", roles=["clerk"]),
            "auth.user_create", ("user", "bob"), {"details": {"roles": ["clerk"]}},
        ),
        (lambda: events.user_deleted("bob"), "auth.user_delete", ("user", "bob"), {}),
        (lambda: events.user_activated("bob"), "auth.user_activate", ("user", "bob"), {}),
        (lambda: events.user_deactivated("bob"), "auth.user_deactivate", ("user", "bob"), {}),
        (
            lambda: events.permission_changed(("group", "clerks"), revoked=["refund"]),
            "auth.permission_change", ("group", "clerks"), {"details": {"granted": [], "revoked": ["refund"]}},
        ),
        (
            lambda: events.role_changed("bob", before=["clerk"], after=["clerk", "admin"]),
            "auth.role_change", ("user", "bob"), {"details": {"before": ["clerk"], "after": ["clerk", "admin"]}},
        ),
        (
            lambda: events.permission_changed("bob", granted={"refund"}),
            "auth.permission_change", ("user", "bob"), {"details": {"granted": ["refund"], "revoked": []}},
        ),
        (
            lambda: events.exported("invoices:2026", rows=41, to="csv"),
            "data.export", ("invoices", "2026"), {"details": {"rows": 41, "to": "csv"}},
        ),
        (lambda: events.admin_access(("order", 7), reason="T-1"), "admin.access", ("order", "7"), {"reason": "T-1"}),
        (
            lambda: events.configuration_changed("SMTP_PASSWORD", reason="rotated"),
            "configuration.change", ("setting", "SMTP_PASSWORD"), {"reason": "rotated"},
        ),
    ],
)  # fmt: skip
def test_an_event_in_a_request_says_who_did_what_to_whom(request_of_alice, tmp_path, happens, action, resource, said):
    happens()
    (record,) = records(tmp_path, "event")
    assert (record["action"], record["outcome"], record["principal"]["id"]) == (action, "success", "alice")
    assert (record["resource"]["type"], record["resource"]["id"]) == resource
    assert record["trace"]["request_id"] == request_of_alice.request_id
    assert {name: record.get(name) for name in said} == said
    assert "defects" not in record


def test_who_signs_in_or_out_acts_and_who_is_not_let_in_is_nobody_known(request_of_alice, tmp_path):
    events.sign_in("bob")
    events.sign_out("bob")
    events.sign_in_failed("bob", reason="bad password")
    said = [(each["action"], each["outcome"], each["principal"]["id"]) for each in records(tmp_path, "event")]
    assert said == [
        ("auth.sign_in", "success", "bob"), ("auth.sign_out", "success", "bob"), ("auth.sign_in", "denied", "anonymous"),
    ]  # fmt: skip


def test_an_event_in_a_task_is_of_its_principal_and_outside_of_any_of_the_service(pipeline, tmp_path):
    with audited("orders.rotate", principal="cron"):
        events.configuration_changed("key", reason="rotated")
    events.configuration_changed("key", reason="started")
    inside, outside = records(tmp_path, "event")
    (task,) = records(tmp_path, "task")
    assert (inside["principal"]["id"], inside["trace"]["request_id"]) == ("cron", task["trace"]["request_id"])
    assert (outside["principal"]["id"], outside["source"]["verdict"]) == ("orders", "local")


def test_names_that_are_none_are_defects_and_a_full_disk_fails_nobody(tmp_path, pipeline, caplog):
    class Broken:
        def __str__(self):
            raise RuntimeError

    events.exported(("invoices", Broken()), rows=1, to=Broken())
    (record,) = records(tmp_path, "event")
    assert {"resource.id", "details.to"} <= set(record["defects"])
    assert "Broken object" not in json.dumps(record)
    files = FaultyFiles()
    files.room = 0
    full = make_pipeline(tmp_path / "full", files=files)
    events.sign_in("bob")
    assert "auth.sign_in is not on record" in caplog.text
    full.close()
