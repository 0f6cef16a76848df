"""One suite over every adapter: the same request leaves the same record, whatever the framework and protocol."""

import io

import bottle
import falcon
import pytest
from fastapi import FastAPI, HTTPException, Request
from flask import Flask, Response, abort
from starlette.applications import Starlette
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.responses import Response as StarletteResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from audit_integrations.flask import Audit
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, current_audit
from tests.capture.kit import make_pipeline, records

CHUNKS = [b"a" * 10, b"b" * 10, b"c" * 10]


def say(order_id):
    audit = current_audit()
    audit.principal, audit.action, audit.resource = "alice", "orders.act", ("order", order_id)
    audit.details["cents"] = 1250


def starlette(pipeline):
    async def order(request):
        say(request.path_params["order_id"])
        return PlainTextResponse("order!")

    async def create(request):
        await request.body()
        return StarletteResponse(status_code=204)

    async def denied(request):
        raise StarletteHTTPException(403)

    async def broken(request):
        raise KeyError("secret")

    async def stream(request):
        return StreamingResponse(iter(CHUNKS))

    routes = [
        Route("/orders/{order_id}", order), Route("/orders", create, methods=["POST"]), Route("/denied", denied),
        Route("/broken", broken), Route("/stream", stream),
    ]  # fmt: skip
    app = Starlette(routes=routes)
    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    client = TestClient(app, raise_server_exceptions=False)
    return lambda method, path, body: client.request(method, path, content=body).status_code


def fastapi(pipeline):
    app = FastAPI()

    @app.api_route("/orders/{order_id}", methods=["GET", "HEAD"])
    def order(order_id: int):
        say(order_id)
        return PlainTextResponse("order!")

    @app.post("/orders", status_code=204)
    async def create(request: Request):
        await request.body()

    @app.get("/denied")
    def denied():
        raise HTTPException(403)

    @app.get("/broken")
    async def broken():
        raise KeyError("secret")

    @app.get("/stream")
    def stream():
        return StreamingResponse(iter(CHUNKS))

    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    client = TestClient(app, raise_server_exceptions=False)
    return lambda method, path, body: client.request(method, path, content=body).status_code


def flask(pipeline):
    app = Flask("shop")

    @app.get("/orders/<int:order_id>")
    def order(order_id):
        say(order_id)
        return "order!"

    @app.post("/orders")
    def create():
        return "", 204

    app.get("/denied", endpoint="denied")(lambda: abort(403))
    app.get("/broken", endpoint="broken")(lambda: {}["secret"])
    app.get("/stream", endpoint="stream")(lambda: Response(iter(CHUNKS)))
    Audit(app, pipeline=pipeline)
    client = app.test_client()
    return lambda method, path, body: client.open(path, method=method, data=body, buffered=True).status_code


def wsgi_client(app):
    def call(method, path, body):
        answer = []
        environ = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "shop",
            "REMOTE_ADDR": "testclient", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(body), "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True, "wsgi.multiprocess": True, "wsgi.run_once": False,
            "CONTENT_LENGTH": str(len(body)),
        }  # fmt: skip
        try:
            result = app(environ, lambda status, headers, exc_info=None: answer.append(int(status[:3])))
            b"".join(result)
            if hasattr(result, "close"):
                result.close()
        except KeyError:
            return 500  # what every server makes of it
        return answer[-1]

    return call


def bottle_app(pipeline):
    app = bottle.Bottle()
    app.config["catchall"] = False

    @app.route("/orders/<order_id:int>", method=["GET", "HEAD"])
    def order(order_id):
        say(order_id)
        return "order!"

    @app.post("/orders")
    def create():
        bottle.response.status = 204

    app.get("/denied")(lambda: bottle.abort(403))
    app.get("/broken")(lambda: {}["secret"])
    app.get("/stream")(lambda: iter(CHUNKS))
    return wsgi_client(AuditWSGIMiddleware(app, pipeline=pipeline))


def falcon_app(pipeline):
    class Named:
        def process_resource(self, request, response, resource, params):
            current_audit().route = request.uri_template

    class Order:
        def on_get(self, request, response, order_id):
            say(order_id)
            response.text = "order!"

        on_head = on_get

    class Orders:
        def on_post(self, request, response):
            request.bounded_stream.read()
            response.status = 204

    class Denied:
        def on_get(self, request, response):
            raise falcon.HTTPForbidden

    class Broken:
        def on_get(self, request, response):
            raise KeyError("secret")

    class Stream:
        def on_get(self, request, response):
            response.stream = iter(CHUNKS)

    app = falcon.App(middleware=[Named()])
    app.add_error_handler(KeyError, lambda request, response, error, params: raise_again(error))
    for path, resource in {
        "/orders/{order_id}": Order(), "/orders": Orders(), "/denied": Denied(), "/broken": Broken(),
        "/stream": Stream(),
    }.items():  # fmt: skip
        app.add_route(path, resource)
    return wsgi_client(AuditWSGIMiddleware(app, pipeline=pipeline))


def raise_again(error):
    raise error


def django(pipeline):
    from django.test import Client

    client = Client(raise_request_exception=False)

    def call(method, path, body):
        response = client.generic(method, f"/conformance{path}", body)
        if response.streaming:
            b"".join(response.streaming_content)
        response.close()
        return response.status_code

    return call


ADAPTERS = [starlette, fastapi, flask, bottle_app, falcon_app, django]
SCENARIOS = {
    "read": ("GET", "/orders/7", b""),
    "head": ("HEAD", "/orders/7", b""),
    "create": ("POST", "/orders", b"x" * 100),
    "denied": ("GET", "/denied", b""),
    "broken": ("GET", "/broken", b""),
    "stream": ("GET", "/stream", b""),
    "nowhere": ("GET", "/nowhere", b""),
}
EXPECTED = {
    "read": ("orders.act", "alice", "success", 200, "complete", 0, 6, None, {"cents": 1250}),
    "head": ("orders.act", "alice", "success", 200, "complete", 0, 0, None, {"cents": 1250}),
    "create": ("POST", "anonymous", "success", 204, "complete", 100, 0, None, None),
    "denied": ("GET", "anonymous", "denied", 403, "complete", 0, None, None, None),
    "broken": ("GET", "anonymous", "failure", 500, "exception", 0, None, "KeyError", None),
    "stream": ("GET", "anonymous", "success", 200, "complete", 0, 30, None, None),
    "nowhere": ("GET none", "anonymous", "failure", 404, "complete", 0, None, None, None),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_same_request_leaves_the_same_record(tmp_path, django_project, adapter, scenario):
    from django.test import override_settings

    pipeline = make_pipeline(tmp_path)
    with override_settings(AUDIT={"PIPELINE": pipeline}):
        status = adapter(pipeline)(*SCENARIOS[scenario])
    (record,) = records(tmp_path)
    http = record["http"]
    action, principal, outcome, expected_status, ended, received, sent, reason, details = EXPECTED[scenario]
    assert record["action"].startswith(action)
    assert record["principal"]["id"] == principal
    assert status == http["status"] == expected_status
    assert (record["outcome"], http["ended"], record.get("reason")) == (outcome, ended, reason)
    assert http["request_bytes"] == received
    assert sent is None or http["response_bytes"] == sent
    assert record.get("details") == details
    assert record.get("defects") is None
    assert len(records(tmp_path, "attempt")) == (SCENARIOS[scenario][0] == "POST")
