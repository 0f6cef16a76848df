"""Frameworks without an integration of ours: the plain adapters observe them, and one line names the route."""

import asyncio
import io
import sys

import bottle
import falcon
import falcon.asgi
import pytest
from litestar import Litestar, get
from litestar.params import FromPath
from quart import Quart
from starlette.testclient import TestClient
from werkzeug.test import Client

from audit_integrations.entry_points import entry_points
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, ConfigurationError, audited, current_audit
from audit_middleware.capture.entry_points import application_of
from tests.capture.kit import make_pipeline, records


def call(app, path, method="GET"):
    """Serve one request as a WSGI server does; return status and body."""
    answer = []
    environ = {
        "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "", "REMOTE_ADDR": "10.1.2.3",
        "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.multithread": True,
        "wsgi.multiprocess": True, "wsgi.run_once": False,
    }  # fmt: skip
    result = app(environ, lambda status, headers, exc_info=None: answer.append(status))
    body = b"".join(result)
    if hasattr(result, "close"):
        result.close()
    return answer[-1], body


def said(tmp_path):
    return [(record["action"], record["http"]["status"], record.get("defects")) for record in records(tmp_path)]


def test_bottle_leaves_its_route_where_we_look(tmp_path):
    app = bottle.Bottle()

    @app.get("/orders/<order_id:int>")
    def read(order_id):
        return str(order_id)

    audited = AuditWSGIMiddleware(app, pipeline=make_pipeline(tmp_path))
    assert call(audited, "/orders/7") == ("200 OK", b"7")
    call(audited, "/nowhere")
    assert Client(audited).get("/orders/7", environ_overrides={"REMOTE_ADDR": "10.1.2.3"}).text == "7"
    routed = ("GET /orders/<order_id:int>", 200, None)
    assert said(tmp_path) == [routed, ("GET none", 404, None), routed]
    assert records(tmp_path)[0]["resource"] == {"type": "orders", "id": "7"}


class NameRoute:
    """What docs tell a Falcon project to write: its router is the only one who knows."""

    def process_resource(self, request, response, resource, params):
        audit = current_audit()
        audit.route = request.uri_template
        audit.resource = ("order", params["order_id"])

    async def process_resource_async(self, request, response, resource, params):
        self.process_resource(request, response, resource, params)


class Order:
    def on_get(self, request, response, order_id):
        current_audit().principal = "alice"
        response.media = {"id": order_id}


class AsyncOrder:
    async def on_get(self, request, response, order_id):
        current_audit().principal = "alice"
        response.media = {"id": order_id}


def test_falcon_names_its_route_in_three_lines(tmp_path):
    app = falcon.App(middleware=[NameRoute()])
    app.add_route("/orders/{order_id}", Order())
    audited = AuditWSGIMiddleware(app, pipeline=make_pipeline(tmp_path))
    assert call(audited, "/orders/7")[0] == "200 OK"
    call(audited, "/nowhere")
    assert said(tmp_path) == [("GET /orders/{order_id}", 200, None), ("GET none", 404, None)]
    assert records(tmp_path)[0]["principal"]["id"] == "alice"


def test_falcon_asgi(tmp_path):
    app = falcon.asgi.App(middleware=[NameRoute()])
    app.add_route("/orders/{order_id}", AsyncOrder())
    client = TestClient(AuditMiddleware(app, pipeline=make_pipeline(tmp_path)))
    assert client.get("/orders/7").status_code == 200
    assert said(tmp_path) == [("GET /orders/{order_id}", 200, None)]


def test_litestar_leaves_its_path_template_in_the_scope(tmp_path):
    @get("/orders/{order_id:int}")
    async def read(order_id: FromPath[int]) -> str:
        current_audit().principal = "alice"
        return str(order_id)

    @get("/sync", sync_to_thread=True)
    def sync() -> str:
        current_audit().principal = "bob"
        return "x"

    client = TestClient(AuditMiddleware(Litestar([read, sync]), pipeline=make_pipeline(tmp_path)))
    assert client.get("/orders/7").text == "7"
    client.get("/sync")
    client.get("/nowhere")
    assert said(tmp_path) == [
        ("GET /orders/{order_id}", 200, None),
        ("GET /sync", 200, None),
        ("GET none", 404, None),
    ]
    assert [record["principal"]["id"] for record in records(tmp_path)] == ["alice", "bob", "anonymous"]
    assert records(tmp_path)[0]["resource"] == {"type": "orders", "id": "7"}


def test_an_exempt_view_of_litestar_is_not_recorded_and_its_routes_are_not_taken_for_starlettes(tmp_path):
    @get("/health", sync_to_thread=False)
    @audited(exempt="the load balancer asks twice a second")
    def health() -> str:
        return "ok"

    app = Litestar([health])
    assert TestClient(AuditMiddleware(app, pipeline=make_pipeline(tmp_path))).get("/health").text == "ok"
    assert said(tmp_path) == []
    assert [event["action"] for event in records(tmp_path, "event")] == ["audit.exempt"]
    assert application_of(app, {}) is None
    with pytest.raises(ConfigurationError, match="what can be called in Litestar cannot be seen"):
        entry_points(app)


@pytest.mark.anyio
async def test_quart_names_its_route_in_a_before_request(tmp_path):
    from quart import request

    app = Quart("shop")

    @app.before_request
    async def name_route():
        if request.url_rule is not None:
            audit = current_audit()
            audit.route = request.url_rule.rule
            audit.resource = ("order", request.view_args["order_id"])

    @app.get("/orders/<int:order_id>")
    async def read(order_id):
        return str(order_id)

    audited = AuditMiddleware(app, pipeline=make_pipeline(tmp_path))
    sent = []
    scope = {
        "type": "http", "method": "GET", "path": "/orders/7", "raw_path": b"/orders/7", "headers": [(b"host", b"shop")],
        "root_path": "", "query_string": b"", "client": ("10.1.2.3", 4711), "scheme": "http", "http_version": "1.1",
        "server": ("shop", 80), "asgi": {"version": "3.0", "spec_version": "2.4"}, "extensions": {},
    }  # fmt: skip
    messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive():
        for message in messages:
            return message
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await audited(scope, receive, send)
    assert sent[0]["status"] == 200
    assert said(tmp_path) == [("GET /orders/<int:order_id>", 200, None)]
