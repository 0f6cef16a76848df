"""An ASGI harness: a spool of its own, requests as raw ASGI, records as they lie in the journal."""

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audit_middleware import AuditMiddleware, Principal
from audit_middleware.capture import Exchange, enter, leave
from audit_middleware.config import load
from audit_middleware.journal.files import REAL_FILES, Files
from audit_middleware.pipeline import Pipeline
from audit_middleware.sealing.keys import new_key

KEYS = new_key("test")
OPEN: list[Pipeline] = []
"""Pipelines whose threads end with the test that made them (see the conftest of all tests)."""


def make_pipeline(folder: Path, *, files: Files = REAL_FILES, **settings: Any) -> Pipeline:
    spool = folder / "spool"
    pipeline = Pipeline(load({}, spool_dir=spool, keys=KEYS, service="orders", **settings), "orders", files=files)
    OPEN.append(pipeline)
    return pipeline


def journal_lines(folder: Path) -> list[dict[str, Any]]:
    while True:
        try:
            read = [file.read_bytes() for file in sorted((folder / "spool" / "streams").glob("*/seg-*"))]
            break
        except FileNotFoundError:  # a stream that begins gets its name just now
            continue
    # what stands behind the last LF is being written
    return [json.loads(line) for data in read for line in data[: data.rfind(b"\n") + 1].splitlines()]


def records(folder: Path, type_: str = "request") -> list[dict[str, Any]]:
    return [line["rec"] for line in journal_lines(folder) if line["type"] == type_]


@contextmanager
def request_of_alice(pipeline: Pipeline) -> Iterator[Exchange]:
    """A request of alice's, at hand."""
    exchange = Exchange(pipeline.service, pipeline.recorder.new_request_id(), "POST", "/", 0)
    exchange.gate, exchange.user = pipeline, Principal("alice", "user", "session")
    exchange.source = ("203.0.113.7", "peer", "203.0.113.7")
    token = enter(exchange)
    try:
        yield exchange
    finally:
        leave(token)


class Harness:
    """One middleware around one app, spoken to in raw ASGI."""

    def __init__(self, folder: Path, app: Callable[..., Awaitable[None]], *, identify: Any = None, **settings: Any):
        self.folder = folder
        self.pipeline = make_pipeline(folder, **settings)
        self.middleware = AuditMiddleware(app, pipeline=self.pipeline, identify=identify)
        self.sent: list[dict[str, Any]] = []
        self.on_send: Callable[[dict[str, Any]], None] = lambda message: None

    def scope(self, method: str = "GET", path: str = "/", headers: dict[str, str] | None = None, **more: Any) -> dict:
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": method, "path": path, "headers": raw, "root_path": "", "query_string": b""}
        return {**scope, "client": ("10.1.2.3", 4711), **more}

    async def send(self, message: dict[str, Any]) -> None:
        self.on_send(message)
        self.sent.append(message)

    async def __call__(self, scope: dict | None = None, incoming: list[dict] | None = None) -> list[dict[str, Any]]:
        messages = iter(incoming if incoming is not None else [{"type": "http.request", "body": b""}])

        async def receive() -> dict[str, Any]:
            return next(messages, {"type": "http.disconnect"})

        self.sent = []
        await self.middleware(scope or self.scope(), receive, self.send)
        return self.sent

    @property
    def records(self) -> list[dict[str, Any]]:
        return records(self.folder)

    @property
    def record(self) -> dict[str, Any]:
        (record,) = self.records
        return record


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
