"""``GET /v1/records``: search."""

from __future__ import annotations

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from audit_middleware.collector.query import parse_query
from audit_middleware.collector.routes import caller_of, collector_of


async def search(request: Request) -> Response:
    """Answer a search, newest first."""
    caller_of(request, "reader")
    collector = collector_of(request)
    query = parse_query(request.query_params.multi_items())
    collector.require_ready()
    page = await run_in_threadpool(collector.reader.search, query)
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(page), headers=headers, media_type="application/json")
