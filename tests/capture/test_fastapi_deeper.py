"""FastAPI and Starlette with all that stands beside an audit trail: middleware, streams, tasks, errors, life span."""

import asyncio
import contextlib
import json
import threading
from contextlib import asynccontextmanager

import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException, Request
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.testclient import TestClient

from audit_middleware import AuditMiddleware, current_audit
from tests.capture.kit import Harness, journal_lines, make_pipeline, records


class Naming(BaseHTTPMiddleware):
    """A middleware of the application that authenticates, answers some requests itself, and rewrites others."""

    async def dispatch(self, request, call_next):
        current_audit().principal = "alice"
        if request.url.path == "/maintenance":
            return PlainTextResponse("later", status_code=503)
        response = await call_next(request)
        response.headers["x-seen"] = "yes"
        return response


def application(pipeline, *, is_outside):
    """``is_outside``: BaseHTTPMiddleware around ours; otherwise ours around it."""
    app = FastAPI()
    order = [(AuditMiddleware, {"pipeline": pipeline}), (Naming, {})]
    for middleware, arguments in order if is_outside else reversed(order):
        app.add_middleware(middleware, **arguments)

    @app.get("/orders/{number}")
    def order_of(number: int):
        return number

    @app.get("/stream")
    def stream():
        return StreamingResponse(iter([b"a" * 10, b"b" * 10]))

    @app.get("/broken")
    def broken():
        raise KeyError("secret")

    return app


def test_a_base_http_middleware_inside_ours_names_the_principal_and_answers_are_whole(tmp_path):
    client = TestClient(application(make_pipeline(tmp_path), is_outside=False), raise_server_exceptions=False)
    assert client.get("/orders/7").headers["x-seen"] == "yes"
    assert client.get("/stream").content == b"a" * 10 + b"b" * 10
    assert client.get("/maintenance").status_code == 503
    assert client.get("/broken").status_code == 500
    found = [(r["action"], r["principal"]["id"], r["http"]["status"], r["http"]["response_bytes"], r["http"]["ended"])
             for r in records(tmp_path)]  # fmt: skip
    assert found == [
        ("GET /orders/{number}", "alice", 200, 1, "complete"),
        ("GET /stream", "alice", 200, 20, "complete"),
        ("GET unknown", "alice", 503, 5, "complete"),
        ("GET /broken", "alice", 500, 0, "exception"),
    ]


def test_a_base_http_middleware_around_ours_changes_nothing_on_record(tmp_path):
    """What it answers itself never reaches us: the order of middleware is the application's."""
    client = TestClient(application(make_pipeline(tmp_path), is_outside=True), raise_server_exceptions=False)
    for path in ("/orders/7", "/stream", "/maintenance", "/broken"):
        client.get(path)
    found = [(r["action"], r["http"]["status"], r["http"]["ended"]) for r in records(tmp_path)]
    assert found == [
        ("GET /orders/{number}", 200, "complete"), ("GET /stream", 200, "complete"), ("GET /broken", 500, "exception"),
    ]  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize("is_within_another", [False, True])
async def test_server_sent_events_pass_one_by_one_and_are_one_record_at_their_end(tmp_path, is_within_another):
    first_passed, go_on = asyncio.Event(), asyncio.Event()

    async def events():
        for number in range(3):
            yield f"data: {number}\n\n"
            await go_on.wait()

    async def receive():  # a client that stays
        await asyncio.Event().wait()

    passed = []

    async def send(message):
        passed.append(message.get("body"))
        if message.get("body"):
            first_passed.set()

    app = FastAPI()
    if is_within_another:
        app.add_middleware(Naming)
    app.get("/events")(lambda: StreamingResponse(events(), media_type="text/event-stream"))
    harness = Harness(tmp_path, app)
    task = asyncio.ensure_future(harness.middleware(harness.scope(path="/events"), receive, send))
    await asyncio.wait_for(first_passed.wait(), 5)
    assert passed[1:] == [b"data: 0\n\n"]  # the first one did not wait for the second
    assert harness.records == []
    go_on.set()
    await task
    assert (harness.record["http"]["response_bytes"], harness.record["http"]["ended"]) == (27, "complete")


@pytest.mark.anyio
async def test_a_client_that_leaves_a_stream_of_events_is_on_record_as_gone(tmp_path):
    async def events():
        while True:
            yield "data: x\n\n"
            await asyncio.sleep(0.001)

    app = FastAPI()
    app.get("/events")(lambda: StreamingResponse(events(), media_type="text/event-stream"))
    harness = Harness(tmp_path, app)
    async with asyncio.timeout(5):
        await harness(harness.scope(path="/events"))
    assert harness.record["http"]["ended"] == "disconnected"


@pytest.mark.anyio
@pytest.mark.parametrize("is_within_another", [True, False])
async def test_a_client_that_leaves_its_upload_is_on_record_as_gone_and_not_as_an_error_of_the_application(
    tmp_path, is_within_another
):
    app = FastAPI()

    @app.post("/upload")
    async def upload(request: Request):
        return len(await request.body())

    harness = Harness(tmp_path, app)
    harness.middleware = app  # ours is added to it, so that nothing answers the exception below ours
    if not is_within_another:
        app.add_middleware(Naming)
    app.add_middleware(AuditMiddleware, pipeline=harness.pipeline)
    if is_within_another:
        app.add_middleware(Naming)
    with contextlib.suppress(ClientDisconnect):
        await harness(
            harness.scope("POST", "/upload"),
            [{"type": "http.request", "body": b"abc", "more_body": True}, {"type": "http.disconnect"}],
        )
    record = harness.record
    assert (record["http"]["route"], record["http"]["ended"], record["outcome"]) == (
        "/upload", "disconnected", "failure",
    )  # fmt: skip
    assert "reason" not in record
    assert "status" not in record["http"]
    assert record["http"]["request_bytes"] == 3


def test_a_background_task_runs_after_the_record_and_cannot_change_it(tmp_path):
    app = FastAPI()
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
    seen = []

    def later():
        seen.append(len(records(tmp_path)))
        current_audit().action = "too.late"

    @app.post("/orders")
    def create(tasks: BackgroundTasks):
        tasks.add_task(later)
        return "ok"

    @app.get("/report")
    async def report():
        return PlainTextResponse("ok", background=BackgroundTask(later))

    client = TestClient(app)
    assert client.post("/orders").status_code == client.get("/report").status_code == 200
    assert seen == [1, 2]
    assert [record["action"] for record in records(tmp_path)] == ["POST /orders", "GET /report"]


def test_a_background_task_that_fails_leaves_the_answer_a_success(tmp_path):
    app = FastAPI()
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))

    @app.post("/orders")
    def create(tasks: BackgroundTasks):
        tasks.add_task({}.__getitem__, "secret")
        return "ok"

    assert TestClient(app, raise_server_exceptions=False).post("/orders").status_code == 200
    (record,) = records(tmp_path)
    assert (record["outcome"], record["http"]["ended"]) == ("success", "complete")


class Order(BaseModel):
    amount: int


def test_what_validation_refuses_is_a_failure_with_its_route_and_without_its_values(tmp_path):
    app = FastAPI()
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
    app.post("/orders/{number}")(lambda number, order: "ok")

    @app.put("/orders/{number}")
    def put(number: int, order: Order):
        return "ok"

    client = TestClient(app)
    assert client.put("/orders/7", json={"amount": "s3cret"}).status_code == 422
    assert client.put("/orders/s3cret", json={"amount": 1}).status_code == 422
    first, second = records(tmp_path)
    assert (first["action"], first["outcome"], first["http"]["status"]) == ("PUT /orders/{number}", "failure", 422)
    assert first["resource"] == {"type": "orders", "id": "7"}
    assert "s3cret" not in json.dumps(first)
    assert second["http"]["ended"] == "complete"


def test_http_exceptions_are_what_their_status_says_however_they_are_answered(tmp_path):
    app = FastAPI()
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))

    @app.exception_handler(LookupError)
    def teapot(request, error):
        return JSONResponse({}, status_code=404)

    @app.get("/{status}")
    def answer(status: int):
        if status == 404:
            raise LookupError
        raise HTTPException(status)

    client = TestClient(app)
    for status in (401, 403, 404, 409, 500):
        assert client.get(f"/{status}").status_code == status
    assert [record["outcome"] for record in records(tmp_path)] == ["denied", "denied", *["failure"] * 3]
    assert {record["http"]["route"] for record in records(tmp_path)} == {"/{status}"}


def test_the_life_span_of_the_application_is_its_own_and_its_end_closes_the_stream(tmp_path):
    happened = []

    @asynccontextmanager
    async def lifespan(app):
        happened.append("up")
        yield {"state": "kept"}
        happened.append("down")

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))

    @app.get("/")
    async def root():
        return "ok"

    with TestClient(app) as client:
        client.get("/")
        assert "request" in [line["type"] for line in journal_lines(tmp_path)]
    assert happened == ["up", "down"]
    types = [line["type"] for line in journal_lines(tmp_path)]
    assert sorted(types[1:-1]) == ["coverage", "request"]  # the inventory is said beside the requests
    assert (types[0], types[-1]) == ("open", "close")


def test_requests_at_once_never_mix_what_they_say(tmp_path):
    app = FastAPI()
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
    together = threading.Barrier(8, timeout=10)

    @app.get("/threads/{name}")
    def in_a_thread(name: str):
        current_audit().principal = name
        together.wait()
        current_audit().details["name"] = name
        return name

    with TestClient(app) as client:
        threads = [threading.Thread(target=client.get, args=(f"/threads/u{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = records(tmp_path)
    assert sorted(record["principal"]["id"] for record in found) == [f"u{n}" for n in range(8)]
    assert all(record["principal"]["id"] == record["details"]["name"] == record["resource"]["id"] for record in found)
