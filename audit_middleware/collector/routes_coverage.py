"""``/v1/coverage``: what services declare, and what was recorded of it (wire format, section 5)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from audit_middleware.collector.monitor.covered import Coverage
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.routes import caller_of, collector_of, note_read
from audit_middleware.collector.routes_findings import require_service

MAX_LIMIT: Final = 50_000
DEFAULT_LIMIT: Final = 10_000
_HEADERS: Final = {"Cache-Control": "no-store"}
_DIGITS: Final = re.compile(r"[0-9]{1,5}")


async def coverage(request: Request) -> Response:
    """Answer with the services that the caller may see; of each the entry points that stand worst come first."""
    caller = caller_of(request, "reader")
    service, limit = _parameters(request.query_params.multi_items())
    require_service(caller, service)
    note_read(request, caller, "coverage", str(request.query_params)[:500])
    collector = collector_of(request)
    found = await asyncio.wrap_future(collector.coverage())
    seen = [each for each in found.services if caller.may_see(each.service) and service in {None, each.service}]
    body = {
        "counted_since": found.since,
        "counted_by": [collector.name],
        "uncounted": found.uncounted,
        "beyond": found.beyond,
        "services": list(_shown(msgspec.structs.replace(found, services=tuple(seen)), limit)),
    }
    return Response(msgspec.json.encode(body), headers=_HEADERS, media_type="application/json")


def _shown(found: Coverage, limit: int) -> Iterator[dict[str, Any]]:
    """Yield services with ``limit`` entry points in all, and how many of each are left out."""
    for service in found.services:
        points = service.entry_points[:limit]
        limit -= len(points)
        left_out = len(service.entry_points) - len(points)
        yield msgspec.structs.asdict(service) | {"entry_points": points, "left_out": left_out}


def _parameters(items: Iterable[tuple[str, str]]) -> tuple[str | None, int]:
    given: dict[str, str] = {}
    for name, value in items:
        if name not in {"service", "limit"}:
            raise _bad(name, "is not a parameter; expected service or limit")
        if name in given:
            raise _bad(name, "is there twice")
        given[name] = value
    limit = given.get("limit", str(DEFAULT_LIMIT))
    if not _DIGITS.fullmatch(limit) or not 1 <= int(limit) <= MAX_LIMIT:
        raise _bad("limit", f"expected a number from 1 to {MAX_LIMIT}")
    return given.get("service"), int(limit)


def _bad(name: str, expectation: str) -> Problem:
    return Problem(400, "bad-parameter", f"{name[:64]}: {expectation}")
