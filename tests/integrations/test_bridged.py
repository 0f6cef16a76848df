"""WSGI that a bridge puts into an ASGI application, both with an audit trail: one record, with what the inner one knows."""

import pytest
from asgiref.wsgi import WsgiToAsgi, WsgiToAsgiInstance
from fastapi import FastAPI, Request
from flask import Blueprint, Flask, g, request
from starlette.testclient import TestClient

from audit_integrations.entry_points import entry_points
from audit_integrations.flask import Audit
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, audited, current_audit
from audit_middleware.testing import FaultyFiles
from tests.capture.kit import make_pipeline, records

PLACE = "/of/{tenant}"
AGENT = {"User-Agent": "a-client/1"}


@pytest.fixture
def flask():
    app, billing = Flask("billing", static_folder=None), Blueprint("billing", "billing", url_prefix="/bills")

    @app.before_request
    def authenticate():
        g.user = "alice"

    @billing.get("/<int:number>")
    @audited("bills.read", resource="bill:{number}", query=["page"])
    def bill(number):
        return str(number)

    @billing.get("/health")
    @audited(exempt="asked twice a second", on_failure="allow")
    def health():
        return "ok"

    @billing.get("/stream/<name>")
    def stream(name):
        return iter(["a", name])

    app.register_blueprint(billing)
    return app


def around(app, pipeline):
    outer = FastAPI(openapi_url=None)
    outer.mount(PLACE, WsgiToAsgi(app))
    outer.add_middleware(AuditMiddleware, pipeline=pipeline)
    return outer


def test_an_audited_flask_app_in_an_asgi_app_is_one_record_with_its_route_and_user(flask, tmp_path):
    Audit(flask, pipeline=make_pipeline(tmp_path / "inner"))
    client = TestClient(around(flask, make_pipeline(tmp_path)))
    assert client.get("/of/acme/bills/7?page=2&token=x").text == "7"
    assert client.get("/of/acme/bills/stream/b").text == "ab"
    assert client.get("/of/acme/bills/health").text == "ok"
    assert client.get("/of/acme/nothing").status_code == 404
    assert records(tmp_path / "inner") == []
    read, streamed, missing = records(tmp_path)
    assert (read["action"], read["resource"]["id"]) == ("bills.read", "7")
    assert read["details"] == {"query": {"page": ["2"]}}
    assert streamed["resource"] == {"type": "of/bills/stream", "id": "acme/b"}
    assert [each["http"]["route"] for each in (read, streamed, missing)] == [
        f"{PLACE}/bills/<int:number>", f"{PLACE}/bills/stream/<name>", f"{PLACE}/*",
    ]  # fmt: skip
    assert {each["principal"]["id"] for each in (read, streamed, missing)} == {"alice"}
    assert all("defects" not in each for each in (read, streamed, missing))
    assert [event["action"] for event in records(tmp_path, "event")] == ["audit.exempt"]


def test_its_views_are_entry_points_below_the_mount_and_have_their_own_policy(flask, tmp_path):
    Audit(flask, pipeline=make_pipeline(tmp_path / "inner"))
    disk = FaultyFiles()
    app = around(flask, make_pipeline(tmp_path, files=disk, spool_min_free=0, on_failure="deny"))
    assert [(point.route, point.exemption is not None) for point in entry_points(app)] == [
        (f"{PLACE}/bills/<int:number>", False),
        (f"{PLACE}/bills/health", True),
        (f"{PLACE}/bills/stream/<name>", False),
    ]
    client = TestClient(app)
    client.get("/of/acme/bills/7")
    disk.room = 0
    client.get("/of/acme/bills/7")  # finds out when it is done
    assert client.get("/of/acme/bills/7").status_code == 503
    assert client.get("/of/acme/bills/health").text == "ok"


def test_a_plain_wsgi_middleware_in_an_asgi_app_tells_the_route_that_its_framework_leaves_and_who_it_was(
    flask, tmp_path
):
    flask.before_request_funcs.clear()
    inner = AuditWSGIMiddleware(flask, pipeline=make_pipeline(tmp_path / "inner"), identify=lambda _environ: "bob")
    assert TestClient(around(inner, make_pipeline(tmp_path))).get("/of/acme/bills/stream/b").text == "ab"
    assert records(tmp_path / "inner") == []
    (record,) = records(tmp_path)
    assert (record["http"]["route"], record["principal"]["id"]) == (f"{PLACE}/bills/stream/<name>", "bob")


def test_a_request_to_another_path_from_within_is_one_of_its_own(flask, tmp_path):
    Audit(flask, pipeline=make_pipeline(tmp_path / "inner"))
    outer = FastAPI(openapi_url=None)

    @outer.get("/ask")
    def ask():
        return flask.test_client().get("/bills/7").text

    outer.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
    assert TestClient(outer).get("/ask").json() == "7"
    assert [record["http"]["route"] for record in records(tmp_path)] == ["/ask"]
    assert [record["action"] for record in records(tmp_path / "inner")] == ["bills.read"]


def test_a_view_that_asks_wsgi_for_its_own_path_with_the_same_client_is_not_handing_its_request_on(flask, tmp_path):
    """As a proxy in front of an older application does, in one process."""
    Audit(flask, pipeline=make_pipeline(tmp_path / "inner"))
    outer = FastAPI(openapi_url=None)

    @outer.get("/{path:path}")
    def ask(path: str, request: Request):
        agent = {"User-Agent": request.headers["User-Agent"]}
        return [flask.test_client().get(f"/{path}", headers=agent).text for _ in range(2)]

    outer.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
    assert TestClient(outer).get("/bills/7").json() == ["7", "7"]
    (record,) = records(tmp_path)
    assert (record["http"]["route"], record["principal"]["id"]) == ("/{path:path}", "anonymous")
    assert [each["principal"]["id"] for each in records(tmp_path / "inner")] == ["alice", "alice"]


def test_a_wsgi_view_that_asks_its_own_path_makes_another_request_of_somebody_else(tmp_path):
    app = Flask("billing")

    @app.get("/bills")
    def bills():
        current_audit().principal = "service" if "inner" in request.args else "alice"
        return "in" if "inner" in request.args else app.test_client().get("/bills?inner=1", headers=AGENT).text

    Audit(app, pipeline=make_pipeline(tmp_path))
    app.test_client().get("/bills", headers=AGENT)
    assert [record["principal"]["id"] for record in records(tmp_path)] == ["service", "alice"]


def test_a_view_of_a_bridged_app_that_asks_its_own_path_makes_another_request(tmp_path):
    app = Flask("billing")

    @app.get("/bills")
    def bills():
        current_audit().principal = "service" if "inner" in request.args else "alice"
        again = {"path": "/bills", "base_url": "http://localhost/in", "query_string": "inner=1"}
        return "in" if "inner" in request.args else app.test_client().get(**again, headers=AGENT).text

    Audit(app, pipeline=make_pipeline(tmp_path / "inner"))
    outer = FastAPI(openapi_url=None)
    outer.mount("/in", WsgiToAsgi(app))
    outer.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
    assert TestClient(outer).get("/in/bills", headers=AGENT).text == "in"
    assert [record["principal"]["id"] for record in records(tmp_path)] == ["alice"]
    assert [record["principal"]["id"] for record in records(tmp_path / "inner")] == ["service"]


@pytest.mark.parametrize(("method", "path"), [("HEAD", "/of/acme/bills/stream/b"), ("GET", "/of/acme/none")])
def test_who_it_was_is_on_record_of_an_answer_without_a_body(flask, tmp_path, method, path):
    flask.before_request_funcs.clear()
    flask.add_url_rule("/none", view_func=lambda: ("", 204))
    inner = AuditWSGIMiddleware(flask, pipeline=make_pipeline(tmp_path / "inner"), identify=lambda _environ: "bob")
    outer = FastAPI(openapi_url=None)
    outer.mount(PLACE, EagerBridge(inner))
    outer.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
    TestClient(outer).request(method, path)
    (record,) = records(tmp_path)
    assert record["principal"]["id"] == "bob"


class EagerBridge(WsgiToAsgi):
    """Sends the headers when they are there, as most bridges do."""

    async def __call__(self, scope, receive, send):
        await Eager(self.wsgi_application)(scope, receive, send)


class Eager(WsgiToAsgiInstance):
    def start_response(self, *arguments):
        super().start_response(*arguments)
        self.sync_send(self.response_start)
        self.response_started = True
