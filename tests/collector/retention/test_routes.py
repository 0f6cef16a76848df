"""Retention over HTTP and on the command line."""

import json

import httpx
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from audit_middleware.cli import cli
from audit_middleware.collector.app import create_app
from audit_middleware.collector.auth import parse_tokens
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.retention.policy import RetentionSetting
from tests.collector.kit import App, settings_for
from tests.collector.retention.test_expiry import at

TOKENS = (
    "ann:ann-0123456789abcdef:*:admin|reader,bob:bob-0123456789abcdef:*:admin,"
    "rea:rea-0123456789abcdef:*:reader,one:one-0123456789abcdef:orders:reader|admin"
)


@pytest.fixture
def collector(tmp_path):
    rules = [RetentionSetting(keep="2y")]
    with Collector(settings_for(tmp_path, retention=rules, tokens=parse_tokens(TOKENS))) as collector:
        app = App()
        app.requests(3)
        collector._open.desk.clock = lambda: at("2023-05-01")
        collector.deliver(app.lines)
        yield collector


@pytest.fixture
def ask(collector):
    with TestClient(create_app(collector)) as client:

        def ask(method, path, body=None, who="ann"):
            headers = {"authorization": f"Bearer {who}-0123456789abcdef"} if who else {}
            content = body if isinstance(body, bytes) else json.dumps(body) if body is not None else None
            return client.request(method, path, content=content, headers=headers)

        yield ask


def test_a_plan_is_shown_and_carried_out(ask):
    plan = ask("GET", "/v1/retention", who="rea").json()["plan"]
    assert [item["class"] for item in plan["items"] if item["verdict"] == "delete"] == ["default"]
    deleted = ask("POST", "/v1/retention", {"plan": plan["id"]}).json()["deleted"]
    assert [item["period"] for item in deleted] == ["2023h1"]
    again = ask("POST", "/v1/retention", {"plan": plan["id"]})
    assert (again.status_code, again.json()["type"]) == (409, "urn:audit-ready:problem:retention-refused")
    assert ask("GET", "/log/default/2023h1/expired").status_code == 200
    assert ask("GET", "/log/default/2023h1/checkpoint").status_code == 200
    assert ask("GET", "/log/default/2023h1/tile/entries/000.p/5").status_code == 404
    assert ask("GET", "/log/collector/2023h1/expired").status_code == 404


def test_a_hold_takes_two_tokens_to_end(ask):
    body = {"case": "c 1/x", "reason": "litigation", "services": ["orders"]}
    assert ask("POST", "/v1/holds", body).json()["state"] == "placed"
    assert ask("POST", "/v1/holds/c 1%2Fx/confirm", {"reason": "yes"}).status_code in {404, 409}
    assert [held["case"] for held in ask("GET", "/v1/retention").json()["holds"]] == ["c 1/x"]


def test_a_hold_ends_by_two_people(ask):
    ask("POST", "/v1/holds", {"case": "c-1", "reason": "litigation"})
    assert ask("POST", "/v1/holds/c-1/confirm", {"reason": "yes"}).status_code == 409
    assert ask("POST", "/v1/holds/c-1/confirm", {"reason": "yes"}, who="bob").json()["state"] == "confirmed"
    assert ask("POST", "/v1/holds/c-1/release", {"reason": "settled"}).json()["state"] == "release_asked"
    assert ask("POST", "/v1/holds/c-1/release", {"reason": "settled"}).status_code == 409
    assert ask("POST", "/v1/holds/c-1/release", {"reason": "settled"}, who="bob").json()["state"] == "released"


@pytest.mark.parametrize(
    ("method", "path", "body", "who", "status"),
    [
        ("GET", "/v1/retention", None, None, 401),
        ("GET", "/v1/retention", None, "bob", 403),
        ("GET", "/v1/retention", None, "one", 403),
        ("POST", "/v1/retention", {"plan": "x"}, "rea", 403),
        ("POST", "/v1/retention", {"plan": 5}, "ann", 400),
        ("POST", "/v1/retention", b"\xff", "ann", 400),
        ("POST", "/v1/retention", {"plan": "x", "force": True}, "ann", 400),
        ("POST", "/v1/retention", b"x" * 100_000, "ann", 413),
        ("POST", "/v1/holds", {"case": "c"}, "ann", 400),
        ("POST", "/v1/holds", {"case": "", "reason": "x"}, "ann", 400),
        ("POST", "/v1/holds", {"case": "c", "reason": " "}, "ann", 409),
        ("POST", "/v1/holds", {"case": "c", "reason": "x", "since": "soon"}, "ann", 409),
        ("POST", "/v1/holds", {"case": "c", "reason": "x"}, "rea", 403),
        ("POST", "/v1/holds/c/release", {"reason": "x"}, "ann", 409),
        ("DELETE", "/v1/retention", None, "ann", 405),
    ],
)
def test_bad_input_is_refused_with_its_reason(ask, method, path, body, who, status):
    answer = ask(method, path, body, who)
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_the_command_line_shows_plans_and_holds(collector, monkeypatch):
    app = create_app(collector)
    client = TestClient(app, base_url="http://collector")
    real = httpx.Client

    def instead(*, base_url, headers, **_):
        client.headers.update(headers)
        return client

    monkeypatch.setattr(httpx, "Client", instead)
    monkeypatch.setenv("AUDIT_COLLECTOR_URL", "http://collector")

    def run(*arguments, who="ann"):
        monkeypatch.setenv("AUDIT_TOKEN", f"{who}-0123456789abcdef")
        return CliRunner().invoke(cli, ["retention", *arguments])

    with client:
        assert "placed by ann" in run("hold", "c-1", "--reason", "litigation", "--service", "orders").output
        shown = run("plan").output
        assert "held    default/2023h1" in shown
        assert "expired on 2025-07-01, held for c-1" in shown
        assert "nothing would be deleted" in shown
        run("release", "c-1", "--reason", "settled")
        assert run("release", "c-1", "--reason", "settled").exit_code != 0
        assert "released by bob" in run("release", "c-1", "--reason", "settled", who="bob").output
        plan = json.loads(run("plan", "--json").output)["plan"]
        assert f"audit-ready retention apply {plan['id']}" in run("plan").output
        assert "what remains of them still verifies" in run("apply", plan["id"]).output
        assert run("apply", plan["id"]).exit_code != 0
    assert httpx.Client is not real
