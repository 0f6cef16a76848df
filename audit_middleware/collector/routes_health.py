"""``/healthz``, ``/readyz``, ``/metrics``: for those who operate the collector."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from audit_middleware.collector.routes import collector_of


async def health(_request: Request) -> Response:
    """Say that the process answers."""
    return _json(200, {"status": "alive"})


async def ready(request: Request) -> Response:
    """Say whether batches are taken, and why not."""
    collector = collector_of(request)
    if collector.state == "ready" and not collector.has_index:
        return _json(503, {"status": "degraded", "reason": "the index is gone: restart the collector, it makes one"})
    if collector.state == "ready":
        label, is_worm = collector.store
        return _json(200, {"status": "ready", "store": label, "worm": is_worm})
    return _json(503, {"status": collector.state, "reason": collector.reason})


async def metrics(request: Request) -> Response:
    """Serve the metrics in Prometheus' text format."""
    media_type = "text/plain; version=0.0.4; charset=utf-8"
    return Response(collector_of(request).exposition(), media_type=media_type)


def _json(status: int, body: dict[str, str | bool]) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(body), status, headers, "application/json")
