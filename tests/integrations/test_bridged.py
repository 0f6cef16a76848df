"""WSGI that a bridge puts into an ASGI application, both with an audit trail: one record, with what the inner one knows."""

import pytest
from asgiref.wsgi import WsgiToAsgi
from fastapi import FastAPI
from flask import Blueprint, Flask, g
from starlette.testclient import TestClient

from audit_integrations.entry_points import entry_points
from audit_integrations.flask import Audit
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, audited
from audit_middleware.testing import FaultyFiles
from tests.capture.kit import make_pipeline, records

PLACE = "/of/{tenant}"


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
