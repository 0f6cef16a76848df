"""A view that runs without a record, as it says, lets no other one run so where middleware changes path or method."""

import contextlib
import types

import pytest
from fastapi import FastAPI
from flask import Flask
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from audit_integrations.flask import Audit
from audit_middleware import AuditMiddleware, audited
from audit_middleware.errors import JournalError

RAN = []
OVERRIDE = {"X-HTTP-Method-Override": "DELETE"}


def lenient():
    RAN.append("lenient")
    return "lenient"


def other():
    RAN.append("other")
    return "other"


class Rewriting:
    """Takes a version away from the path, and the method from a header, in the scope itself."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        headers = dict(scope.get("headers", ()))
        if scope["type"] == "http":
            scope["path"] = scope["path"].removeprefix("/v1")
            scope["method"] = headers.get(b"x-http-method-override", scope["method"].encode()).decode()
        await self.app(scope, receive, send)


class Endpoint(HTTPEndpoint):
    @audited(on_failure="allow")
    async def post(self, request):
        return PlainTextResponse(lenient())

    async def delete(self, request):
        return PlainTextResponse(other())


def fastapi(pipeline):
    app = FastAPI()
    app.get("/")(lambda: "home")
    app.post("/things")(other)
    app.delete("/{path:path}")(other)
    app.post("/{path:path}")(audited(on_failure="allow")(lambda path: lenient()))
    return asgi(app, pipeline)


def starlette(pipeline):
    async def things(request):
        return PlainTextResponse(other())

    routes = [Route("/things", things, methods=["POST"]), Route("/{path:path}", Endpoint)]
    return asgi(Starlette(routes=[Mount("/", Starlette(routes=routes))]), pipeline)


def asgi(app, pipeline):
    app.add_middleware(Rewriting)
    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    return TestClient(app, raise_server_exceptions=False).request


def flask(pipeline):
    class Things(MethodView):
        post = staticmethod(audited(on_failure="allow")(lambda path: lenient()))
        delete = staticmethod(lambda path: other())

    app = Flask("shop")
    app.add_url_rule("/", "home", lambda: "home")
    app.add_url_rule("/things", "things", other, methods=["POST"])
    app.add_url_rule("/<path:path>", view_func=Things.as_view("all"))
    inner = app.wsgi_app

    def rewriting(environ, start):
        method = environ.get("HTTP_X_HTTP_METHOD_OVERRIDE", environ["REQUEST_METHOD"])
        path = environ["PATH_INFO"].removeprefix("/v1")
        return inner({**environ, "REQUEST_METHOD": method, "PATH_INFO": path}, start)

    app.wsgi_app = rewriting
    Audit(app, pipeline=pipeline)
    return lambda method, path, headers=None: app.test_client().open(path, method=method, headers=headers)


def django(pipeline):
    from django.http import HttpResponse
    from django.test import Client
    from django.urls import path
    from django.views import View

    class Things(View):
        post = staticmethod(audited(on_failure="allow")(lambda request, path: HttpResponse(lenient())))
        delete = staticmethod(lambda request, path: HttpResponse(other()))

    async def things(_request):
        return HttpResponse(other())

    URLS.urlpatterns = [path("things", things), path("<path:path>", Things.as_view())]
    return lambda method, path, headers=None: Client().generic(method, path, headers=headers)


URLS = types.ModuleType("urls")


def rewriting(get_response):
    def rewritten(request):
        request.method = request.headers.get("X-HTTP-Method-Override", request.method)
        request.path_info = request.path_info.removeprefix("/v1")
        return get_response(request)

    return rewritten


@pytest.fixture
def ask(request, audit):
    from django.conf import settings
    from django.test import override_settings

    pipeline, disk = audit(on_failure="deny")
    around = [settings.MIDDLEWARE[0], f"{__name__}.rewriting"]
    with override_settings(ROOT_URLCONF=URLS, MIDDLEWARE=around):
        ask = request.param(pipeline)
        ask("GET", "/")
        disk.room = 0
        for _ in range(2):  # the first one finds out only when it is done
            with contextlib.suppress(JournalError):
                ask("GET", "/")
        RAN.clear()
        yield ask


@pytest.mark.parametrize("ask", [fastapi, starlette, flask, django], indirect=True)
def test_the_policy_of_one_view_does_not_hold_for_the_one_that_middleware_leads_to(ask):
    assert ask("POST", "/v1/else").status_code == 200
    assert ask("POST", "/v1/things").status_code == 503
    assert ask("POST", "/else", headers=OVERRIDE).status_code == 503
    assert RAN == ["lenient"]


def test_djangos_middleware_is_not_asked_before_each_view(django_project):
    """Under ASGI, with middleware that is not asynchronous, each such question is a hop to a thread and back."""
    from audit_integrations.django import AuditMiddleware as OfDjango

    assert not hasattr(OfDjango(lambda _request: None), "process_view")
