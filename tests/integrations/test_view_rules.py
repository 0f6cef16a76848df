"""What `@audited` rules for one view, under every framework: the policy when records are lost, and its body's fields."""

import contextlib
import errno
import functools
import io
import json
import time
import types
from functools import partial

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse
from flask import Flask
from flask import request as flask_request
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from audit_integrations.flask import Audit
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, audited
from audit_middleware.capture import ROUTE
from audit_middleware.capture.body import MAX_BODY
from audit_middleware.errors import JournalError, RequestRefused
from audit_middleware.journal.files import Files
from audit_middleware.testing import FaultyFiles
from tests.capture.kit import make_pipeline, records

RAN = []


class Disk(Files):
    is_full = False

    def write(self, fd, data):
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(fd, data)


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


def flask_requester(app):
    def call(method, path):
        response = app.test_client().open(path, method=method)
        return response.status_code, response.text

    return call


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


def django(pipeline):
    from django.test import Client

    def call(method, path):
        response = Client(raise_request_exception=False).generic(method, f"/rules{path}")
        return response.status_code, response.content.decode()

    return call


@pytest.fixture(autouse=True)
def forgetful():
    RAN.clear()


@pytest.fixture
def audit(tmp_path, django_project):
    """A pipeline whose disk can be full, and that Django uses too."""
    from django.test import override_settings

    def make(**settings):
        disk = Disk()
        pipeline = make_pipeline(tmp_path, files=disk, spool_min_free=0, **settings)
        with_it.wrapped = {"AUDIT": {"PIPELINE": pipeline}}
        with_it.options = with_it.wrapped
        with_it.enable()
        return pipeline, disk

    with_it = override_settings()
    yield make
    with_it.disable()


ADAPTERS = [fastapi, starlette, mounted, flask, flask_classes, django]


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
    disk.is_full = True
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
    disk.is_full = True
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
        disk.is_full = True
        with contextlib.suppress(JournalError):
            pipeline.event(exchange.event("test.fill"))
        disk.is_full = False
        found = vouches(exchange)
        pipeline.recorder._writer._retry_at = 0.0  # time passes
        return found

    pipeline.vouches = full
    assert call("GET", "/strict")[0] == 503
    record = records(tmp_path)[-1]
    assert (record["http"]["status"], record["outcome"], record["reason"]) == (503, "failure", "RequestRefused")
    assert record["http"]["ended"] == "complete"


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
    disk.is_full = True
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


FIELDS = audited(body=["amount", "customer.id", "tags"])


def body_fastapi(pipeline):
    app = FastAPI()

    @app.post("/raw")
    @FIELDS
    async def raw(request: Request):
        return len(await request.body())

    app.post("/form")(raw)

    @app.post("/unread")
    @FIELDS
    def unread():
        return "ok"

    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    client = TestClient(app)
    return lambda path, body, kind: client.post(path, content=body, headers={"content-type": kind}).status_code


def body_flask(pipeline):
    app = Flask("shop")

    @app.post("/raw")
    @FIELDS
    def raw():
        return str(len(flask_request.get_data()))

    @app.post("/form")
    @FIELDS
    def form():
        return flask_request.form["amount"]

    @app.post("/unread")
    @FIELDS
    def unread():
        return "ok"

    Audit(app, pipeline=pipeline)
    return lambda path, body, kind: app.test_client().post(path, data=body, content_type=kind).status_code


def body_wsgi(pipeline):
    """An application that reads line by line."""

    @FIELDS
    def app(environ, start_response):
        if environ["PATH_INFO"] != "/unread":
            first = environ["wsgi.input"].readline()
            rest = [*environ["wsgi.input"], *environ["wsgi.input"].readlines()]
            assert first or not rest
        start_response("200 OK", [])
        return [b"ok"]

    wrapped = AuditWSGIMiddleware(app, pipeline=pipeline)

    def call(path, body, kind):
        stream = io.BytesIO(body)
        environ = {
            "REQUEST_METHOD": "POST", "PATH_INFO": path, "wsgi.input": stream, "CONTENT_TYPE": kind,
            "REMOTE_ADDR": "10.1.2.3", ROUTE: (path, {}),
        }  # fmt: skip
        list(wrapped({**environ, "CONTENT_LENGTH": str(len(body))}, lambda *_: None))
        return 200

    return call


def body_django(pipeline):
    from django.test import Client

    return lambda path, body, kind: Client().generic("POST", f"/rules{path}", body, content_type=kind).status_code


BODY_ADAPTERS = [body_fastapi, body_flask, body_wsgi, body_django]
JSON = b'{"amount": 12.50, "customer": {"id": 7, "name": "Eve"}, "secret": "s3cret"}'
MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="amount"\r\n\r\n12.50\r\n'
    b'--x\r\nContent-Disposition: form-data; name="secret"\r\n\r\ns3cret\r\n'
    b'--x\r\nContent-Disposition: form-data; name="tags"; filename="t.txt"\r\n\r\ns3cret\r\n--x--\r\n'
)
ENCODED = b"amount=12.50&secret=s3cret&tags=a&tags=b%20c"


@pytest.mark.parametrize("adapter", BODY_ADAPTERS)
@pytest.mark.parametrize(
    ("path", "kind", "body", "recorded"),
    [
        ("/raw", "application/json; charset=utf-8", JSON, {"amount": "12.50", "customer.id": 7}),
        ("/raw", "application/problem+json", b'{"tags": [1, true, null]}', {"tags": [1, True, None]}),
        ("/form", "application/x-www-form-urlencoded", ENCODED, {"amount": ["12.50"], "tags": ["a", "b c"]}),
        ("/form", "multipart/form-data; boundary=x", MULTIPART, {"amount": ["12.50"]}),
        ("/raw", "application/json", b'{"secret": "s3cret"}', None),
        ("/raw", "application/json", b"[1, 2]", None),
        ("/raw", "application/json", b"", None),
    ],
)
def test_the_fields_a_view_names_are_recorded_and_no_others(audit, tmp_path, adapter, path, kind, body, recorded):
    pipeline, _ = audit()
    assert adapter(pipeline)(path, body, kind) == 200
    (record,) = records(tmp_path)
    assert record.get("details") == ({"body": recorded} if recorded else None)
    assert record.get("defects") is None
    assert "s3cret" not in json.dumps(record)


@pytest.mark.parametrize("adapter", BODY_ADAPTERS)
@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/raw", "application/json", b'{"amount": '),
        ("/raw", "application/json", b'{"amount": "\xff"}'),
        ("/raw", "application/json", b"[" * 5000),
        ("/raw", "application/json", b'{"amount": "' + b"x" * MAX_BODY + b'"}'),
        ("/raw", "application/octet-stream", b"\x00\x01"),
        ("/raw", "", b"amount=1"),
        ("/raw", "multipart/form-data", b"amount=1"),
        ("/raw", "application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(2000))),
    ],
)
def test_a_body_that_cannot_be_read_is_a_defect_and_no_error(audit, tmp_path, adapter, path, kind, body):
    pipeline, _ = audit()
    assert adapter(pipeline)(path, body, kind) == 200
    (record,) = records(tmp_path)
    assert record["defects"] == ["details.body"]
    assert "details" not in record


@pytest.mark.parametrize("adapter", [body_flask, body_wsgi, body_fastapi])
def test_a_body_that_the_view_did_not_read_is_not_read_for_it(audit, tmp_path, adapter):
    pipeline, _ = audit()
    adapter(pipeline)("/unread", JSON, "application/json")
    (record,) = records(tmp_path)
    assert record["defects"] == ["details.body"]


def test_django_rest_framework_parses_what_was_read_before_it(audit, tmp_path):
    from django.test import Client

    audit()
    for kind, body in (("application/json", b'{"amount": 5}'), ("multipart/form-data; boundary=x", MULTIPART)):
        response = Client().generic("POST", "/rules/api", body, content_type=kind)
        assert response.status_code == 200
        assert "amount" in response.json()
    assert [record["details"]["body"] for record in records(tmp_path)] == [{"amount": 5}, {"amount": ["12.50"]}]


def test_a_form_that_the_csrf_check_has_parsed_is_on_record(audit, tmp_path):
    from django.test import Client

    audit()
    client = Client(enforce_csrf_checks=True)
    token = client.get("/rules/csrf").content.decode()
    field = b'--x\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\n' + token.encode() + b"\r\n"
    response = client.generic("POST", "/rules/csrf", field + MULTIPART, content_type="multipart/form-data; boundary=x")
    assert response.status_code == 200
    assert records(tmp_path)[-1]["details"] == {"body": {"amount": ["12.50"]}}


def test_decorators_that_are_not_what_django_documents_leave_any_method(django_project):
    """What is listed as taking any method is covered by each of them: no method of a view is left out."""
    from django.views.decorators.http import require_GET, require_http_methods

    from audit_integrations.django.routes import _methods_of

    def other(request_method_list):
        def view(request):
            return request_method_list

        return view

    def looped(request):
        return None

    looped.__wrapped__ = looped
    told = require_GET(looped)
    cells = tuple(types.CellType() for _ in told.__closure__)
    empty = types.FunctionType(told.__code__, told.__globals__, "inner", None, cells)
    for view in (other(["GET"]), looped, empty, require_http_methods("GET")(looped), require_http_methods([7])(looped)):
        assert _methods_of(view) == ["*"], view
    assert _methods_of(require_http_methods(["PUT", "PUT", "GET", "HEAD"])(looped)) == ["PUT", "GET"]
    assert _methods_of(require_http_methods(["PUT", "GET"])(require_GET(looped))) == ["GET"]


def test_decorators_around_a_class_of_django_narrow_what_it_takes(django_project):
    from django.views import View
    from django.views.decorators.http import require_POST

    from audit_integrations.django.routes import _methods_of

    class Both(View):
        def get(self, request):
            return None

        post = get

    assert _methods_of(require_POST(Both.as_view())) == ["POST"]
    assert _methods_of(Both.as_view(http_method_names=["get", "options"])) == ["GET"]


def test_decorators_on_the_methods_of_a_class_of_django_narrow_what_it_takes(django_project):
    from django.http import HttpResponse
    from django.test import RequestFactory
    from django.utils.decorators import method_decorator
    from django.views import View
    from django.views.decorators.csrf import csrf_exempt
    from django.views.decorators.http import require_GET, require_http_methods, require_POST

    from audit_integrations.django.routes import _methods_of

    class Every(View):
        def get(self, request):
            return HttpResponse("x")

        post = put = delete = get

    def decorated(*decorators, name="dispatch", base=Every):
        made = type("Decorated", (base,), {})
        for each in decorators:
            made = method_decorator(each, name=name)(made)
        return made

    class Overrides(decorated(require_POST)):
        def dispatch(self, request):
            return View.dispatch(self, request)

    class Own(Every):
        @method_decorator(require_POST)
        def dispatch(self, request):
            return super().dispatch(request)

    classes = {
        decorated(require_POST): ["POST"],
        decorated([csrf_exempt, require_POST]): ["POST"],
        decorated((require_http_methods(("PUT", "POST")),), csrf_exempt): ["POST", "PUT"],
        decorated(require_http_methods(["PUT", "POST"]), require_http_methods(["PUT", "GET"])): ["PUT"],
        decorated(require_GET, name="post"): ["GET", "PUT", "DELETE"],
        type("Inherits", (decorated(require_POST),), {}): ["POST"],
        Overrides: ["GET", "POST", "PUT", "DELETE"],
        Own: ["POST"],
        decorated(partial(require_POST)): ["GET", "POST", "PUT", "DELETE"],
    }
    for view_class, methods in classes.items():
        assert _methods_of(view_class.as_view()) == methods
    for view_class, methods in list(classes.items())[:-1]:  # the last one cannot be read
        view = view_class.as_view()
        requests = [RequestFactory().generic(name, "/") for name in ("GET", "POST", "PUT", "DELETE")]
        assert [each.method for each in requests if view(each).status_code == 200] == methods


def test_the_methods_of_a_django_view_are_those_it_takes(django_project):
    from audit_integrations.django.routes import entry_points

    points = list(entry_points("tests.integrations.django_project.rules"))
    methods = {}
    for point in points:
        methods.setdefault(point.route, []).append(point.method)
    assert methods["/strict"] == ["GET", "POST"]
    assert methods["/safe"] == ["GET"]
    assert methods["/ordinary"] == ["*"]
    assert methods["/lenient"] == methods["/orders"] == ["GET", "POST"]
    assert methods["/api"] == ["POST"]
    assert {(p.route, p.method) for p in points if p.exemption} == {("/orders", "POST")}
