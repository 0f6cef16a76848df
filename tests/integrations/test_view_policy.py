"""What a view's own policy does when records cannot be kept, under every framework and every way to mount it."""

import contextlib
import functools
import time

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.responses import JSONResponse
from flask import Blueprint, Flask
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from audit_integrations.flask import Audit
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, audited
from audit_middleware.errors import JournalError, RequestRefused
from audit_middleware.testing import FaultyFiles
from tests.capture.kit import make_pipeline, records

RAN = []


@audited("orders.export", on_failure="deny")
def strict():
    RAN.append("strict")
    return "strict"


@audited("orders.note", on_failure="allow")
def lenient():
    RAN.append("lenient")
    return "lenient"


def ordinary():
    RAN.append("ordinary")
    return "ordinary"


VIEWS = {"strict": strict, "lenient": lenient, "ordinary": ordinary}


def fastapi(pipeline, names=None):
    app = FastAPI()

    @app.exception_handler(RequestRefused)
    def swallowed(request, error):  # an application that answers everything itself
        return JSONResponse({"all": "fine"})

    for name, view in VIEWS.items():
        app.api_route(f"/{name}", methods=["GET", "POST"])(view)
    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    return requester(TestClient(app, raise_server_exceptions=False))


def starlette(pipeline):
    class Strict(HTTPEndpoint):
        @audited(on_failure="deny")
        async def get(self, request):
            return PlainTextResponse(ordinary())

        post = get

    class Lenient(HTTPEndpoint):
        async def get(self, request):
            return PlainTextResponse(ordinary())

        @audited(on_failure="allow")
        async def post(self, request):
            return PlainTextResponse(ordinary())

    async def plain(request):
        return PlainTextResponse(ordinary())

    inner = [Route("/strict", Strict), Route("/lenient", Lenient), Route("/ordinary", plain, methods=["GET", "POST"])]
    app = Starlette(routes=[Mount("/in", routes=inner), Mount("/sub", Starlette(routes=inner))])
    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    return requester(TestClient(app, raise_server_exceptions=False), "/in")


def mounted(pipeline):
    app = Starlette(
        routes=[
            Mount(
                "/sub",
                FastAPI(
                    routes=[
                        Route(f"/{name}", methods=["GET", "POST"], endpoint=endpoint(view))
                        for name, view in VIEWS.items()
                    ]
                ),
            )
        ]
    )
    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    return requester(TestClient(app, raise_server_exceptions=False), "/sub")


def included(pipeline):
    """Routers in routers, of an app that stands behind middleware and is mounted by a router of another one."""
    views, middle, outer = APIRouter(prefix="/p"), APIRouter(), APIRouter()
    for name, view in VIEWS.items():
        views.api_route(f"/{name}", methods=["GET", "POST"])(view)
    middle.include_router(views, prefix="/of/{tenant}")
    inner = FastAPI()
    inner.include_router(middle, prefix="/v1")
    outer.mount("/in/{region}", GZipMiddleware(inner))
    app = FastAPI()
    app.include_router(outer, prefix="/out")
    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    return requester(TestClient(app, raise_server_exceptions=False), "/out/in/eu/v1/of/acme/p")


def around(pipeline):
    """The middleware stands around the application, which it calls through another one."""
    app = FastAPI()
    for name, view in VIEWS.items():
        app.api_route(f"/{name}", methods=["GET", "POST"])(view)
    outermost = AuditMiddleware(GZipMiddleware(app), pipeline=pipeline)
    return requester(TestClient(outermost, raise_server_exceptions=False))


def endpoint(view):
    @functools.wraps(view)
    async def answering(request):
        return PlainTextResponse(view())

    return answering


def requester(client, prefix=""):
    def call(method, path):
        response = client.request(method, prefix + path)
        return response.status_code, response.text

    return call


def flask(pipeline):
    app = Flask("shop")
    for name, view in VIEWS.items():
        app.route(f"/{name}", endpoint=name, methods=["GET", "POST"])(view)
    Audit(app, pipeline=pipeline)
    return flask_requester(app)


def flask_requester(app, prefix=""):
    def call(method, path):
        response = Client(app).open(prefix + path, method=method)
        return response.status_code, response.text

    return call


def flask_blueprints(pipeline):
    inner, outer = Blueprint("inner", __name__), Blueprint("outer", __name__, url_prefix="/out")
    for name, view in VIEWS.items():
        inner.route(f"/{name}", endpoint=name, methods=["GET", "POST"])(view)
    outer.register_blueprint(inner, url_prefix="/of/<tenant>")
    app = Flask("shop")
    app.url_value_preprocessor(lambda _endpoint, values: (values or {}).pop("tenant", None))
    app.register_blueprint(outer)
    Audit(app, pipeline=pipeline)
    return flask_requester(DispatcherMiddleware(Flask("else"), {"/shop": app}), "/shop/out/of/acme")


def flask_classes(pipeline):
    class Strict(MethodView):
        @audited(on_failure="deny")
        def get(self):
            return ordinary()

        post = get

    class Lenient(MethodView):
        get = staticmethod(ordinary)

        @audited(on_failure="allow")
        def post(self):
            return ordinary()

    app = Flask("shop")
    app.testing = True  # exceptions propagate out of Flask
    app.add_url_rule("/strict", view_func=Strict.as_view("strict"))
    app.add_url_rule("/lenient", view_func=Lenient.as_view("lenient"))
    app.route("/ordinary", methods=["GET", "POST"])(ordinary)
    Audit(app, pipeline=pipeline)
    return flask_requester(app)


def django(pipeline, prefix="/rules"):
    from django.test import Client

    def call(method, path):
        response = Client(raise_request_exception=False).generic(method, prefix + path)
        return response.status_code, response.content.decode()

    return call


def django_rest(pipeline):
    return django(pipeline, "/rules/rest")


def django_mounted(pipeline):
    from django.core.asgi import get_asgi_application

    app = FastAPI()
    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    app.mount("/of/{tenant}", get_asgi_application())
    return requester(TestClient(app, raise_server_exceptions=False), "/of/acme/rules")


def django_below_wsgi(pipeline):
    from django.core.wsgi import get_wsgi_application

    return flask_requester(AuditWSGIMiddleware(get_wsgi_application(), pipeline=pipeline), "/rules")


@pytest.fixture(autouse=True)
def forgetful():
    RAN.clear()


ADAPTERS = [
    fastapi, starlette, mounted, included, around, flask, flask_classes, flask_blueprints, django, django_rest,
    django_mounted, django_below_wsgi,
]  # fmt: skip


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("policy", "method", "view", "runs"),
    [
        ("auto", "GET", "strict", False),
        ("allow", "GET", "strict", False),
        ("allow", "POST", "strict", False),
        ("auto", "POST", "lenient", True),
        ("deny", "POST", "lenient", True),
        ("auto", "POST", "ordinary", False),
        ("auto", "GET", "ordinary", True),
        ("auto", "POST", "nowhere", False),
    ],
)
def test_the_policy_of_a_view_overrules_that_of_the_settings(audit, adapter, policy, method, view, runs):
    pipeline, disk = audit(on_failure=policy)
    call = adapter(pipeline)
    assert call("GET", "/ordinary")[0] == 200
    disk.room = 0
    with contextlib.suppress(JournalError):  # the first one finds out only when it is done
        call(method, f"/{view}")
    RAN.clear()
    status, body = call(method, f"/{view}")
    assert bool(RAN) is runs
    if runs:
        assert status == 200
    else:
        assert status == 503
        assert "not carried out" in body


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_requests_to_nowhere_on_a_full_disk_log_one_line_a_minute_and_no_traceback(audit, adapter, caplog, monkeypatch):
    pipeline, disk = audit()
    call = adapter(pipeline)
    assert call("GET", "/ordinary")[0] == 200
    disk.room = 0
    with contextlib.suppress(JournalError):
        call("POST", "/nowhere")
    for path in ("/nowhere", "/no/where", "/" + "x" * 5000, "/a%0Ab"):
        assert call("POST", path)[0] == 503
    ours = [each for each in caplog.records if each.name == "audit_middleware"]
    assert not any(each.exc_info for each in ours)
    said = [each.getMessage() for each in ours if "no view could be asked" in each.getMessage()]
    assert len(said) <= 1
    assert all(len(line) < 400 and "\n" not in line for line in said)
    caplog.clear()
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 61)
    call("POST", "/nowhere")
    again = [each for each in caplog.records if "no view could be asked" in each.getMessage()]
    assert len(again) == len(said)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_views_with_a_policy_answer_as_ever_while_records_are_kept(audit, tmp_path, adapter):
    pipeline, _ = audit()
    call = adapter(pipeline)
    assert call("GET", "/strict")[0] == call("POST", "/lenient")[0] == 200
    assert {record["outcome"] for record in records(tmp_path)} == {"success"}


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_refused_view_is_on_record_if_there_is_room_again(audit, tmp_path, adapter):
    """The disk has no room when the view is asked, and some when its request ends."""
    pipeline, disk = audit(on_failure="allow", attempts="none")
    call = adapter(pipeline)
    call("GET", "/ordinary")
    vouches = pipeline.vouches

    def full(exchange):
        disk.room = 0
        with contextlib.suppress(JournalError):
            pipeline.event(exchange.event("test.fill"))
        disk.room = None
        found = vouches(exchange)
        pipeline.recorder._writer._retry_at = 0.0  # time passes
        return found

    pipeline.vouches = full
    assert call("GET", "/strict")[0] == 503
    record = records(tmp_path)[-1]
    assert (record["http"]["status"], record["outcome"], record["reason"]) == (503, "failure", "RequestRefused")
    assert record["http"]["ended"] == "complete"


def test_an_exempt_function_of_django_rest_framework_is_not_recorded(audit, tmp_path):
    pipeline, _ = audit()
    call = django(pipeline)
    assert call("GET", "/exempt")[0] == 200
    assert call("GET", "/rest/ordinary")[0] == 200
    assert [record["http"]["path"] for record in records(tmp_path)] == ["/rules/rest/ordinary"]


def test_a_websocket_that_must_be_on_record_is_closed_before_it_is_accepted(audit):
    pipeline, disk = audit(on_failure="allow")
    app = FastAPI()

    @app.websocket("/feed")
    @audited(on_failure="deny")
    async def feed(websocket: WebSocket):
        await websocket.accept()
        RAN.append("feed")
        await websocket.close()

    app.get("/ordinary")(ordinary)
    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    client = TestClient(app)
    disk.room = 0
    client.get("/ordinary")
    RAN.clear()
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/feed"):
        pass
    assert closed.value.code == 1013
    assert RAN == []


def test_outside_a_request_a_policy_holds_too(tmp_path):
    files = FaultyFiles()
    make_pipeline(tmp_path, files=files)
    assert (strict(), lenient()) == ("strict", "lenient")
    files.room = 0
    with pytest.raises(RequestRefused):
        strict()
    assert lenient() == "lenient"
