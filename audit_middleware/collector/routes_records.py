"""``GET /v1/records``: search, which is on record before its answer leaves."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from audit_middleware.collector.auth import EVERY, Caller
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.query import Query, parse_query
from audit_middleware.collector.routes import caller_of, collector_of, source_of
from audit_middleware.collector_record import AccessKind


def readable_by(caller: Caller, query: Query, service: str | None) -> Query:
    """Return the search narrowed to the caller's services; raise `Problem` 403 for another service."""
    if EVERY in caller.services:
        return query
    if service is not None and service not in caller.services:
        raise Problem(403, "service-missing", f"token {caller.name!r} is not for service {service[:64]!r}")
    return query.of_services(caller.services)


async def search(request: Request) -> Response:
    """Answer a search, newest first."""
    caller = caller_of(request, "reader")
    collector = collector_of(request)
    query = readable_by(caller, parse_query(request.query_params.multi_items()), request.query_params.get("service"))
    collector.require_ready()
    page = await run_in_threadpool(collector.reader.search, query)
    what = f"{request.query_params}: {len(page.records)} records"
    kind: AccessKind = "export" if query.include else "search"
    await asyncio.wrap_future(collector.record_access(caller.name, kind, what, source_of(request)))
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(page), headers=headers, media_type="application/json")
