"""Real Starlette and FastAPI apps: routes, mounts, thread pools, streaming, websockets, authentication."""

import base64
import threading

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from audit_middleware import AuditMiddleware, Principal, current_audit
from tests.capture.kit import make_pipeline, records


@pytest.fixture
def audited(tmp_path):
    """Wrap an app and give a client, and a function that reads its records."""

    def wrap(app, **settings):
        app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path, **settings))
        return TestClient(app, raise_server_exceptions=False)

    return wrap


def test_fastapi_routes_prefixes_and_path_parameters(audited, tmp_path):
    router = APIRouter(prefix="/v1")

    @router.get("/orders/{order_id}")
    def read(order_id: int):
        return order_id

    app = FastAPI()
    app.include_router(router)
    client = audited(app)
    client.get("/v1/orders/7")
    client.get("/v1/orders/x")
    client.get("/nowhere")
    client.post("/v1/orders/7")
    said = [(r["action"], r["http"]["status"], r["resource"]) for r in records(tmp_path)]
    assert said == [
        ("GET /v1/orders/{order_id}", 200, {"type": "v1/orders", "id": "7"}),
        ("GET /v1/orders/{order_id}", 422, {"type": "v1/orders", "id": "x"}),
        ("GET none", 404, {"type": "path", "id": "/nowhere"}),
        ("POST /v1/orders/{order_id}", 405, {"type": "v1/orders", "id": "7"}),
    ]


def test_routers_included_with_prefixes_in_each_other_show_the_whole_template(audited, tmp_path):
    inner, outer, app = APIRouter(prefix="/orders"), APIRouter(prefix="/v1"), FastAPI()

    @inner.get("/{order_id}")
    def read(order_id: int):
        return order_id

    @inner.websocket("/{order_id}/live")
    async def live(websocket: WebSocket):
        await websocket.accept()
        await websocket.close()

    outer.include_router(inner, prefix="/shop")
    app.include_router(outer, prefix="/api")
    client = audited(app)
    client.get("/api/v1/shop/orders/7")
    client.get("/api/v1/shop/orders/x")
    with client.websocket_connect("/api/v1/shop/orders/7/live"):
        pass
    assert [record["http"]["route"] for record in records(tmp_path)] == [
        "/api/v1/shop/orders/{order_id}", "/api/v1/shop/orders/{order_id}", "/api/v1/shop/orders/{order_id}/live",
    ]  # fmt: skip


def test_plain_routes_of_starlette_in_included_routers_show_the_whole_template(audited, tmp_path):
    async def show(request):
        return PlainTextResponse("x")

    async def talk(websocket):
        await websocket.accept()
        await websocket.close()

    class Thing(HTTPEndpoint):
        async def post(self, request):
            return PlainTextResponse("x")

    shop, middle, app = APIRouter(), APIRouter(), FastAPI()
    shop.add_route("/plain/{a}", show)
    shop.routes.append(Route("/thing/{a}", Thing))
    shop.add_websocket_route("/talk/{a}", talk)
    shop.mount("/in/{m}", Starlette(routes=[Route("/plain/{a}", show), Route("/", show)]))
    middle.include_router(shop, prefix="/shop")
    app.include_router(middle, prefix="/of/{tenant}")
    client = audited(app)
    for path in ("/plain/1", "/in/2/plain/1", "/in/2/"):
        assert client.get(f"/of/acme/shop{path}").text == "x"
    assert client.post("/of/acme/shop/thing/1").text == "x"
    with client.websocket_connect("/of/acme/shop/talk/1"):
        pass
    assert [(record["http"]["route"], record.get("defects")) for record in records(tmp_path)] == [
        (f"/of/{{tenant}}/shop{route}", None)
        for route in ("/plain/{a}", "/in/{m}/plain/{a}", "/in/{m}/", "/thing/{a}", "/talk/{a}")
    ]


def test_static_files_are_on_record_with_their_mount(audited, tmp_path):
    (tmp_path / "logo.svg").write_text("<svg/>")
    client = audited(Starlette(routes=[Mount("/static", StaticFiles(directory=tmp_path))]))
    client.get("/static/logo.svg")
    client.get("/static/nothing.svg")
    assert [(r["http"]["route"], r["http"]["status"], r.get("defects")) for r in records(tmp_path)] == [
        ("/static/*", 200, None), ("/static/*", 404, None),
    ]  # fmt: skip


def test_mounted_apps_are_joined_with_the_path_they_are_mounted_at(audited, tmp_path):
    inner = FastAPI()

    @inner.get("/items/{item}")
    def read(item: str):
        return item

    app = FastAPI()
    app.mount("/sub", inner)
    app.mount("/tenants/{tenant}", inner)
    client = audited(app)
    client.get("/sub/items/3")
    client.get("/tenants/acme/items/3")
    assert [r["http"]["route"] for r in records(tmp_path)] == ["/sub/items/{item}", "/tenants/{tenant}/items/{item}"]


def test_a_root_path_of_the_server_is_not_part_of_the_route(tmp_path):
    async def read(request):
        return PlainTextResponse("x")

    app = Starlette(routes=[Mount("/shop", routes=[Route("/items/{item}", read)])])
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
    TestClient(app, root_path="/proxy").get("/proxy/shop/items/3")
    assert records(tmp_path)[0]["http"]["route"] == "/shop/items/{item}"


def test_a_sync_endpoint_in_a_thread_names_the_principal(audited, tmp_path):
    app, threads = FastAPI(), set()

    @app.get("/")
    def read():
        threads.add(threading.current_thread())
        current_audit().principal = "alice"

    audited(app).get("/")
    assert threads != {threading.current_thread()}
    assert records(tmp_path)[0]["principal"]["id"] == "alice"


def test_a_dependency_that_authenticates_inside_the_route(audited, tmp_path):
    def signed_in():
        current_audit().principal = Principal(id="bob", type="service", auth="api_key")

    app = FastAPI(dependencies=[Depends(signed_in)])

    @app.delete("/orders/{order_id}")
    def remove(order_id: int):
        raise HTTPException(403)

    audited(app).delete("/orders/1", headers={"x-api-key": "k"})
    (record,) = records(tmp_path)
    assert record["principal"] == {"id": "bob", "type": "service", "auth": "api_key"}
    assert record["outcome"] == "denied"


def test_credentials_nobody_accounted_for_are_a_defect_and_not_anonymous(audited, tmp_path):
    app = FastAPI()

    @app.get("/")
    def read(): ...

    audited(app).get("/", headers={"Authorization": "Bearer x"})
    (record,) = records(tmp_path)
    assert record["principal"] == {"id": "unknown", "type": "unknown", "auth": "bearer"}
    assert "principal" in record["defects"]


class Basic(AuthenticationBackend):
    async def authenticate(self, conn):
        header = conn.headers.get("authorization")
        if header is None:
            return None
        name = base64.b64decode(header.split()[1]).decode().partition(":")[0]
        return AuthCredentials(["authenticated"]), SimpleUser(name)


def test_starlettes_own_authentication_names_the_principal(audited, tmp_path):
    async def read(request):
        return PlainTextResponse("x")

    app = Starlette(routes=[Route("/", read)])
    app.add_middleware(AuthenticationMiddleware, backend=Basic())
    client = audited(app)
    client.get("/", auth=("dave", "pw"))
    client.get("/")
    assert [(r["principal"]["id"], r["principal"]["auth"]) for r in records(tmp_path)] == [
        ("dave", "basic"),
        ("anonymous", "none"),
    ]


def test_a_streamed_answer_of_an_endpoint_that_fails_midway(audited, tmp_path):
    app = FastAPI()

    @app.get("/")
    def read():
        def chunks():
            yield b"first"
            raise RuntimeError

        return StreamingResponse(chunks())

    audited(app).get("/")
    (record,) = records(tmp_path)
    assert (record["http"]["ended"], record["http"]["response_bytes"]) == ("exception", 5)


def test_fastapi_websockets(audited, tmp_path):
    app = FastAPI()

    @app.websocket("/live/{room}")
    async def live(websocket: WebSocket, room: str):
        await websocket.accept()
        current_audit().principal = "alice"
        await websocket.send_text(await websocket.receive_text())

    with audited(app).websocket_connect("/live/7") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"
    (record,) = records(tmp_path)
    assert (record["action"], record["http"]["protocol"]) == ("GET /live/{room}", "websocket")
    assert record["principal"]["id"] == "alice"


def test_fastapis_own_span_is_the_one_on_record(tmp_path, audited):
    provider = TracerProvider()
    app, seen = FastAPI(), []

    @app.get("/")
    async def read():
        context = trace.get_current_span().get_span_context()
        seen.append((f"{context.trace_id:032x}", f"{context.span_id:016x}"))

    client = audited(app)
    with provider.get_tracer("test").start_as_current_span("request"):
        client.get("/")
    (record,) = records(tmp_path)
    assert (record["trace"]["trace_id"], record["trace"]["span_id"]) == seen[0]


def test_the_service_is_named_after_the_apps_title(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = FastAPI(title="billing")
    app.add_middleware(AuditMiddleware, spool_dir=tmp_path / "spool", keys="k1:" + "A" * 43)
    TestClient(app).get("/")
    assert records(tmp_path)[0]["service"] == "billing"
