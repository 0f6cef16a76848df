"""What two reviews of the finished adapters found: addresses, principals, exemptions, statuses, routes."""

import asyncio
import contextlib
import sqlite3
import time
from types import SimpleNamespace

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from flask import Flask, abort, g
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from werkzeug.local import LocalProxy
from werkzeug.middleware.proxy_fix import ProxyFix

from audit_integrations.flask import Audit
from audit_integrations.starlette import entry_points
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, ConfigurationError, audited, current_audit
from audit_middleware.capture.client_address import AddressResolver
from audit_middleware.capture.meaning import plain_principal, principal_of
from audit_middleware.plain import Plainer
from audit_middleware.sealing.keys import parse_keys
from audit_middleware.verify import verify_spool
from tests.capture.kit import KEYS, Harness, hello, make_pipeline, records


class TestAddresses:
    @pytest.mark.parametrize("port", [4444, 0, -1, 99999999999999999999, "12", "-5", "x", None])
    @pytest.mark.anyio
    async def test_a_server_that_believes_a_header_gives_no_verdict_peer_and_no_line_that_fails(self, tmp_path, port):
        """uvicorn trusts X-Forwarded-For from 127.0.0.1 by default, its port too."""
        harness = Harness(tmp_path, hello)
        forged = {"X-Forwarded-For": f"6.6.6.6:{port}"}
        await harness(harness.scope(headers=forged, client=("6.6.6.6", port)))
        source = harness.record["source"]
        assert source["verdict"] == "unknown"
        assert {"source.verdict", "source"} & set(harness.record["defects"])
        assert 0 < source.get("port", 1) <= 65535
        harness.pipeline.close()
        assert verify_spool(tmp_path / "spool", parse_keys(KEYS)).exit_code == 0

    @pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8",)])
    def test_a_peer_that_a_header_names_may_have_come_from_it(self, trusted):
        resolver = AddressResolver(trusted)
        source = resolver.source
        assert source("6.6.6.6", 1, forwarded_for=b"1.1.1.1, 6.6.6.6", forwarded=None)[1] == "unknown"
        assert source("6.6.6.6", 1, forwarded_for=None, forwarded=b'for="6.6.6.6:80"')[1] == "unknown"
        assert source("::ffff:6.6.6.6", 1, forwarded_for=b"6.6.6.6", forwarded=None)[1] == "unknown"
        assert source("7.7.7.7", 1, forwarded_for=b"6.6.6.6", forwarded=None) == ("7.7.7.7", "peer", "7.7.7.7")

    def test_what_proxy_fix_wrote_over_is_the_peer(self, tmp_path):
        app = Flask("shop")
        app.get("/")(lambda: "ok")
        Audit(app, pipeline=make_pipeline(tmp_path))
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1)
        app.test_client().get("/", headers={"X-Forwarded-For": "6.6.6.6"})
        assert records(tmp_path)[0]["source"]["ip"] == "127.0.0.1"

    @pytest.mark.parametrize("port", ["99999999999999999999", "70000", "-1", -1, 70000, "x", object(), ""])
    def test_a_port_that_is_none_is_left_out(self, tmp_path, port):
        app = AuditWSGIMiddleware(
            lambda environ, start: start("200 OK", []) and [b""], pipeline=make_pipeline(tmp_path)
        )
        list(app({"REQUEST_METHOD": "GET", "REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": port}, lambda *_: True))
        assert "port" not in records(tmp_path)[0]["source"]


class Account:
    def __init__(self):
        self.is_open = True

    @property
    def username(self):
        if not self.is_open:
            raise RuntimeError("the session is closed")
        return "alice"


def row(**members):
    names = ", ".join(f"? AS {name}" for name in members)
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(f"SELECT {names}", tuple(members.values())).fetchone()


class TestPrincipals:
    def test_a_user_object_is_read_when_it_is_said(self, tmp_path):
        app = FastAPI()

        @app.get("/")
        def view():
            account = Account()
            current_audit().principal = account
            account.is_open = False

        app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
        TestClient(app).get("/")
        assert records(tmp_path)[0]["principal"]["id"] == "alice"

    def test_a_user_of_flask_is_read_while_its_context_lives(self, tmp_path):
        app = Flask("shop")

        @app.post("/closed")
        def closed():
            g.user = g.account = Account()
            return "ok"

        @app.post("/proxied")
        def proxied():
            g.account = Account()
            g.user = LocalProxy(lambda: g.account)
            return "ok"

        @app.teardown_appcontext
        def close(_error):
            g.account.is_open = False

        Audit(app, pipeline=make_pipeline(tmp_path))
        for path in ("/closed", "/proxied"):
            app.test_client().post(path)
        assert [record["principal"]["id"] for record in records(tmp_path)] == ["alice", "alice"]

    @pytest.mark.parametrize(
        ("user", "identity"),
        [
            (row(id=7, username="alice"), "alice"),
            (row(id=7, email="a@example.com"), "7"),
            ({"sub": "alice"}, "alice"),
            ({"username": "alice", "role": "admin"}, "alice"),
            ({"id": "x", "username": "alice"}, "x"),
            (SimpleNamespace(username="alice"), "alice"),
        ],
    )
    def test_rows_and_claims_name_their_user(self, user, identity):
        notes = Plainer()
        assert principal_of(plain_principal(user), None, notes, is_refused=False).id == identity
        assert principal_of(user, None, notes, is_refused=False).id == identity
        assert notes.defects == []

    @pytest.mark.parametrize(
        "make",
        [object, lambda: row(email="a@example.com"), lambda: {"role": "admin"}, lambda: LocalProxy(lambda: 1 / 0)],
    )
    def test_a_user_without_a_name_is_a_defect_and_no_address_in_memory(self, make):
        notes = Plainer()
        found = principal_of(plain_principal(make()), None, notes, is_refused=False)
        assert (found.id, notes.defects) == ("unknown", ["principal.id"])

    def test_a_property_that_wants_to_exit_is_contained(self):
        class Exiting:
            @property
            def username(self):
                raise SystemExit

        notes = Plainer()
        assert principal_of(Exiting(), None, notes, is_refused=False).id == "unknown"
        assert principal_of(plain_principal(Exiting()), None, notes, is_refused=False).id == "unknown"

    @pytest.mark.anyio
    @pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, None])
    async def test_an_identify_that_gives_itself_up_breaks_no_response(self, tmp_path, error):
        async def identify(scope):
            if error is not None:
                raise error
            waiting = asyncio.ensure_future(asyncio.sleep(9))
            waiting.cancel()
            await waiting

        harness = Harness(tmp_path, hello, identify=identify)
        sent = await harness()
        assert sent[-1]["body"] == b"hello"
        assert harness.record["principal"]["id"] == "unknown"

    def test_an_identify_that_wsgi_cannot_await_is_a_defect_at_least(self, tmp_path):
        async def identify(environ):
            return "alice"

        app = AuditWSGIMiddleware(
            lambda environ, start: start("200 OK", []) and [b""], pipeline=make_pipeline(tmp_path), identify=identify
        )
        list(app({"REQUEST_METHOD": "GET", "REMOTE_ADDR": "10.0.0.1"}, lambda *_: True))
        assert records(tmp_path)[0]["principal"]["id"] == "unknown"


class TestRulesOfViews:
    def app(self, tmp_path):
        app = FastAPI()
        app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
        return app

    def test_an_exempt_function_that_another_view_calls_does_not_exempt_that_view(self, tmp_path):
        app = self.app(tmp_path)

        @app.get("/health")
        @audited(exempt="load balancer")
        def health():
            return "ok"

        @app.get("/admin/export")
        def export():
            return health()

        client = TestClient(app)
        client.get("/health")
        client.get("/admin/export")
        assert [record["action"] for record in records(tmp_path)] == ["GET /admin/export"]
        assert [event["resource"]["id"] for event in records(tmp_path, "event")] == ["/health"]

    def test_one_under_flask_neither(self, tmp_path):
        @audited(exempt="load balancer")
        def health():
            return "ok"

        class Export(MethodView):
            def get(self):
                return health()

            @audited(exempt="synthetic")
            def head(self):
                return ""

        app = Flask("shop")
        app.get("/health")(health)
        app.add_url_rule("/export", view_func=Export.as_view("export"))
        Audit(app, pipeline=make_pipeline(tmp_path))
        client = app.test_client()
        client.get("/health")
        client.get("/export")
        client.head("/export")
        assert [record["action"] for record in records(tmp_path)] == ["GET /export"]

    def test_what_is_refused_before_the_view_is_on_record_under_its_name(self, tmp_path):
        app = self.app(tmp_path)

        def guard():
            raise HTTPException(403)

        @app.post("/orders/{order_id}/refund", dependencies=[Depends(guard)])
        @audited("orders.refund", resource="order:{order_id}")
        def refund(order_id: int):
            return order_id

        @app.post("/invalid/{order_id}")
        @audited("orders.check", resource="order:{order_id}/{missing}")
        def check(order_id: int, missing: int = 0):
            return order_id

        client = TestClient(app)
        client.post("/orders/7/refund")
        client.post("/invalid/x")
        first, second = records(tmp_path)
        assert (first["action"], first["outcome"]) == ("orders.refund", "denied")
        assert first["resource"] == {"type": "order", "id": "7"}
        assert (second["action"], second["resource"]) == ("orders.check", {"type": "invalid", "id": "x"})

    def test_one_that_flask_refused_before_the_view_too(self, tmp_path):
        app = Flask("shop")
        app.before_request(lambda: abort(403))

        @app.post("/orders/<int:order_id>/refund")
        @audited("orders.refund", resource="order:{order_id}")
        def refund(order_id):
            return "ok"

        Audit(app, pipeline=make_pipeline(tmp_path))
        app.test_client().post("/orders/7/refund")
        (record,) = records(tmp_path)
        assert (record["action"], record["resource"]) == ("orders.refund", {"type": "order", "id": "7"})

    def test_a_template_may_name_what_a_view_takes_without_naming_it(self, tmp_path):
        @audited("orders.read", resource="order:{pk}")
        def retrieve(request, *args, **kwargs):
            return "ok"

        app = self.app(tmp_path)
        app.get("/direct")(lambda: retrieve(None, pk=7))
        app.get("/without")(lambda: retrieve(None))
        client = TestClient(app)
        client.get("/direct")
        client.get("/without")
        first, second = records(tmp_path)
        assert first["resource"] == {"type": "order", "id": "7"}
        assert second["defects"] == ["resource"]

    def test_a_class_is_refused_where_it_is_decorated(self):
        with pytest.raises(ConfigurationError, match="is a class"):

            @audited("orders.read")
            class View:
                pass


class TestAnswers:
    def test_an_exception_before_the_first_chunk_is_the_500_that_wsgi_servers_make_of_it(self, tmp_path):
        def chunks():
            raise KeyError
            yield b""

        def app(environ, start_response):
            start_response("200 OK", [])
            return chunks()

        wrapped = AuditWSGIMiddleware(app, pipeline=make_pipeline(tmp_path))
        with pytest.raises(KeyError):
            list(wrapped({"REQUEST_METHOD": "GET", "REMOTE_ADDR": "10.0.0.1", "wsgi.input": None}, lambda *_: None))
        assert records(tmp_path)[0]["http"]["status"] == 500

    def test_a_status_that_a_handler_outside_of_us_chooses_is_unknown(self, tmp_path):
        app = FastAPI()
        app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
        app.exception_handler(Exception)(lambda request, error: JSONResponse({}, status_code=503))
        app.get("/")(lambda: {}["secret"])
        assert TestClient(app, raise_server_exceptions=False).get("/").status_code == 503
        (record,) = records(tmp_path)
        assert "status" not in record["http"]
        assert (record["outcome"], record["defects"]) == ("failure", ["http.status"])

    @pytest.mark.anyio
    async def test_the_headers_of_a_streamed_answer_to_head_do_not_wait_for_its_body(self, tmp_path):
        async def slowly():
            await asyncio.sleep(0.3)
            yield b"late"

        app = Starlette(routes=[Route("/", lambda request: StreamingResponse(slowly()), methods=["HEAD"])])
        harness, times = Harness(tmp_path, app), []
        harness.on_send = lambda message: times.append((time.monotonic(), len(harness.records)))
        began = time.monotonic()

        async def receive():
            await asyncio.Event().wait()

        await harness.middleware(harness.scope(method="HEAD"), receive, harness.send)
        assert times[0][0] - began < 0.2
        assert times[0][1] == 1

    @pytest.mark.anyio
    @pytest.mark.parametrize("header", ["", "X-Request-ID"])
    async def test_headers_that_can_be_read_once_arrive(self, tmp_path, header):
        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": iter([(b"a", b"b")])})
            await send({"type": "http.response.body", "body": b""})

        harness = Harness(tmp_path, app, request_id_header=header)
        start = (await harness())[0]
        assert (b"a", b"b") in list(start["headers"])

    def test_the_bytes_of_a_chunked_upload_are_counted(self, tmp_path):
        import io

        def app(environ, start_response):
            environ["wsgi.input"].read(4)
            start_response("200 OK", [])
            return [b""]

        wrapped = AuditWSGIMiddleware(app, pipeline=make_pipeline(tmp_path))
        environ = {"REQUEST_METHOD": "POST", "REMOTE_ADDR": "10.0.0.1", "HTTP_TRANSFER_ENCODING": "chunked"}
        list(wrapped({**environ, "wsgi.input": io.BytesIO(b"0123456789")}, lambda *_: None))
        assert records(tmp_path)[0]["http"]["request_bytes"] == 4


async def show(request):
    return PlainTextResponse("ok")


class TestRoutes:
    @pytest.mark.parametrize(
        ("routes", "path", "route"),
        [
            ([Mount("/i/{n:int}", routes=[Route("/orders/{id}", show)])], "/i/007/orders/1", "/i/{n:int}/orders/{id}"),
            (
                [Mount("/t/{tenant}", routes=[Route("/{tenant_id}/x", show)])],
                "/t/acme/9/x",
                "/t/{tenant}/{tenant_id}/x",
            ),
            ([Mount("/two/{a}/{b}", routes=[Route("/z", show)])], "/two/s/s/z", "/two/{a}/{b}/z"),
            ([Mount("/{org}/t2", routes=[Route("/z/{id}", show)])], "/t2/t2/z/1", "/{org}/t2/z/{id}"),
            ([Mount("/a", Starlette(routes=[Mount("/{b}", routes=[Route("/c", show)])]))], "/a/7/c", "/a/{b}/c"),
        ],
    )
    def test_the_path_of_a_mount_is_as_it_was_written_whatever_a_client_chose(self, tmp_path, routes, path, route):
        app = Starlette(routes=routes)
        assert [point.route for point in entry_points(app)] == [route]
        app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
        assert TestClient(app).get(path).status_code == 200
        assert records(tmp_path)[0]["http"]["route"] == route

    @pytest.mark.parametrize("prefix", ["", "/api"])
    def test_fastapis_own_pages_have_their_route(self, tmp_path, prefix):
        app = FastAPI()
        app.include_router(APIRouter())
        outer = FastAPI(openapi_url=None) if prefix else app
        if prefix:
            outer.mount(prefix, app)
        outer.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
        client = TestClient(outer)
        paths = [f"{prefix}{path}" for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect")]
        assert {client.get(path).status_code for path in paths} == {200}
        assert [record["http"]["route"] for record in records(tmp_path)] == paths

    def test_a_route_that_one_line_said_gives_the_resource_too(self, tmp_path):
        def app(environ, start_response):
            current_audit().route = "/orders/{order_id}/lines/<int:line>"
            start_response("200 OK", [])
            return [b""]

        wrapped = AuditWSGIMiddleware(app, pipeline=make_pipeline(tmp_path))
        environ = {"REQUEST_METHOD": "GET", "REMOTE_ADDR": "10.0.0.1", "PATH_INFO": "/orders/7/lines/2"}
        list(wrapped(environ, lambda *_: None))
        (record,) = records(tmp_path)
        assert record["resource"] == {"type": "orders/lines", "id": "7/2"}
        assert "defects" not in record

    @pytest.mark.parametrize("member", ["route", "query_parameters", "body_fields", "details"])
    def test_nonsense_that_is_said_costs_no_record(self, tmp_path, member):
        def app(environ, start_response):
            setattr(current_audit(), member, 5)
            current_audit().action = "orders.read"
            start_response("200 OK", [])
            return [b""]

        wrapped = AuditWSGIMiddleware(app, pipeline=make_pipeline(tmp_path))
        list(wrapped({"REQUEST_METHOD": "GET", "REMOTE_ADDR": "10.0.0.1"}, lambda *_: None))
        (record,) = records(tmp_path)
        assert (record["action"], record["outcome"]) == ("orders.read", "success")
