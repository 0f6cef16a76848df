"""What all routes share: who calls, and in which words an error is said."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from audit_middleware.collector.access import NOBODY
from audit_middleware.collector.auth import Caller, Role
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.problems import Problem, busy, problem_response, too_many
from audit_middleware.collector_record import AccessKind

SIGNATURE: Final = "Audit-Collector"
CERTIFICATE: Final = "audit_middleware.certificate"
"""Where the names of a client's verified certificate lie in a scope."""

_CALLER: Final = "audit_middleware.caller"
_DENIED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_log: Final = logging.getLogger(__name__)


def collector_of(request: Request) -> Collector:
    """Return the collector that this application serves."""
    collector: Collector = request.app.state.collector
    return collector


def caller_of(request: Request, role: Role) -> Caller:
    """Return who calls; raise `Problem` 401 for an unknown token, 403 for one without ``role``, 429 for too many."""
    collector = collector_of(request)
    caller = known_caller(request)
    caller.require(role)
    if role != "ingest" and (seconds := collector.reads.wait(caller.name)):
        raise too_many("more reads than this collector answers one token", seconds)
    return caller


def known_caller(request: Request) -> Caller:
    """Return who calls, whatever they may do; raise `Problem` 401 for an unknown token."""
    names = request.scope.get(CERTIFICATE, frozenset())
    caller = collector_of(request).tokens.authenticate(request.headers.get("authorization"), names)
    request.scope[_CALLER] = caller.name
    return caller


def note_read(request: Request, caller: Caller, kind: AccessKind, what: str) -> None:
    """Count that ``what`` was read: after it was found out that the caller may, so that a refusal is none."""
    collector_of(request).note_access(caller.name, kind, what, source_of(request))


def source_of(request: Request) -> str:
    """Return the address that a request came from, as the server saw it."""
    return request.client.host if request.client is not None else NOBODY


async def say_problem(request: Request, error: Exception) -> Response:
    """Answer a `Problem`; whoever was not let in is on record, with the address and the path that was asked for."""
    assert isinstance(error, Problem)
    collector = collector_of(request)
    collector.metrics.refused.labels(error.kind).inc()
    if error.status in _DENIED:
        name, what = request.scope.get(_CALLER, NOBODY), f"{request.method} {request.url.path[:200]}"
        collector.note_access(name, "denied", what, source_of(request))
    return problem_response(error)


async def say_http_error(request: Request, error: Exception) -> Response:
    """Answer Starlette's own refusals: no such route, no such method."""
    assert isinstance(error, HTTPException)
    kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    detail = f"{request.method} {request.url.path[:200]}: see the collector's routes"
    return problem_response(Problem(error.status_code, kind, detail, headers=error.headers))


async def say_unavailable(request: Request, error: Exception) -> Response:
    """Answer that the store, where the tiles are, gives nothing now."""
    _log.error("%s %s: %s", request.method, request.url.path, error)
    return await say_problem(request, busy("store-unavailable", "the store does not answer; see the log", seconds=5))


async def say_failure(request: Request, error: Exception) -> Response:
    """Answer an error nobody foresaw; what it was is in the log only."""
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    response = problem_response(Problem(500, "internal-error", "the collector failed at this; its log says how"))
    response.headers[SIGNATURE] = "1"  # this answer is made outside of the middleware that signs all others
    return response
