"""An audited app that tells each client which record its request has: run by a real uvicorn, killed at any moment.

An outer wrapper adds a line ``ACK <stream> <seq> <mac>`` to the last chunk of each response. The middleware seals the
record of a request right before it forwards that chunk, in the same task and without an await between, so the line
committed last is the one of this very request. Who received a response to its end knows a record that must exist.
"""

from __future__ import annotations

import os

import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from audit_middleware.capture.asgi import AuditMiddleware
from audit_middleware.sealing.seal import Sealer
from audit_middleware.shipping import backoff
from tests.faults.acks import ack_line

committed: list[bytes] = []


def watch_commits() -> None:
    """Remember the line of type request that was committed last."""
    commit = Sealer.commit

    def watched(self: Sealer, line: bytes) -> None:
        commit(self, line)
        if b'"type":"request"' in line[:240]:
            committed[:] = [line]

    Sealer.commit = watched


class Acknowledging:
    """Adds the acknowledgement behind the last byte of each response, whose length is therefore not announced."""

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send):
        async def acknowledged(message):
            if message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0] != b"content-length"]
                message = {**message, "headers": headers}
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                message = {**message, "body": message.get("body", b"") + taken_ack()}
            await send(message)

        await self._app(scope, receive, acknowledged if scope["type"] == "http" else send)


def taken_ack() -> bytes:
    """The acknowledgement of the line committed last, once: a response without a record of its own gets none."""
    return b"\n" + ack_line(committed.pop()) if committed else b""


async def item(request):
    return JSONResponse({"id": request.path_params["item_id"]})


async def create(request):
    return JSONResponse({"bytes": len(await request.body())}, status_code=201)


async def stream(_request):
    async def parts():
        for number in range(3):
            yield b"part %d\n" % number

    return StreamingResponse(parts())


starlette = Starlette(
    routes=[
        Route("/items/{item_id:int}", item),
        Route("/items", create, methods=["POST"]),
        Route("/stream", stream),
    ]
)
# The shipper of a killed collector's clients would wait for up to 30 s; a kill every second has to meet deliveries.
backoff.LONGEST_S = float(os.environ.get("FAULT_LONGEST_BACKOFF_S", backoff.LONGEST_S))
httpx.create_ssl_context()  # the shipper's first batch pays 0.4 s for this and the import: longer than most lives here
watch_commits()
app = Acknowledging(AuditMiddleware(starlette, service="faults"))
