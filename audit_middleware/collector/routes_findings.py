"""``/v1/findings``: what the monitor found, and who has seen to it (wire format, section 5)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from audit_middleware.collector.auth import EVERY, Caller
from audit_middleware.collector.monitor.findings import STATES, Finding, Undecided
from audit_middleware.collector.monitor.kinds import KINDS, SEVERITIES
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.routes import caller_of, collector_of, note_read

MAX_LIMIT: Final = 10_000
DEFAULT_LIMIT: Final = 1_000
MAX_BODY: Final = 16 * 1024
CHOICES: Final = {"state": STATES, "kind": tuple(KINDS), "severity": SEVERITIES}
PARAMETERS: Final = (*CHOICES, "service", "limit")
_HEADERS: Final = {"Cache-Control": "no-store"}
_DIGITS: Final = re.compile(r"[0-9]{1,5}")


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/findings/{id}``."""

    state: Literal["acknowledged", "resolved"]
    note: Annotated[str, msgspec.Meta(max_length=2000)] | None = None


class Filter(NamedTuple):
    """Which findings are asked for; what is None is not asked."""

    state: str | None = None
    kind: str | None = None
    severity: str | None = None
    service: str | None = None
    limit: int = DEFAULT_LIMIT

    def admits(self, finding: Finding) -> bool:
        """Say whether a finding is asked for."""
        return all(
            wanted in {None, value}
            for wanted, value in (
                (self.state, finding.state),
                (self.kind, finding.kind),
                (self.severity, finding.severity),
                (self.service, finding.service),
            )
        )


def parse_filter(items: Iterable[tuple[str, str]]) -> Filter:
    """Return what the parameters ask for; raise `Problem` 400 naming the one that is wrong."""
    given: dict[str, Any] = {}
    for name, value in items:
        if name not in PARAMETERS:
            raise _bad(name, f"is not a parameter; expected one of {', '.join(PARAMETERS)}")
        if name in given:
            raise _bad(name, "is there twice")
        if name in CHOICES and value not in CHOICES[name]:
            raise _bad(name, f"expected one of {', '.join(CHOICES[name])}")
        given[name] = value
    limit = given.pop("limit", str(DEFAULT_LIMIT))
    if not _DIGITS.fullmatch(limit) or not 1 <= int(limit) <= MAX_LIMIT:
        raise _bad("limit", f"expected a number from 1 to {MAX_LIMIT}")
    return Filter(**given, limit=int(limit))


def shown(finding: Finding) -> dict[str, Any]:
    """Return a finding as the wire format spells it, with what the kind means and asks for."""
    kind = KINDS[finding.kind]
    return msgspec.structs.asdict(finding) | {"meaning": kind.meaning, "remedy": kind.remedy}


async def findings(request: Request) -> Response:
    """Answer with findings, those that were seen last first."""
    caller = caller_of(request, "reader")
    wanted = parse_filter(request.query_params.multi_items())
    require_service(caller, wanted.service)
    note_read(request, caller, "findings", str(request.query_params)[:500])
    seen = [each for each in collector_of(request).findings() if caller.may_see(each.service) and wanted.admits(each)]
    seen.sort(key=lambda each: each.last_seen, reverse=True)
    body = {"findings": [shown(each) for each in seen[: wanted.limit]]}
    return Response(msgspec.json.encode(body), headers=_HEADERS, media_type="application/json")


async def decide(request: Request) -> Response:
    """Acknowledge or resolve a finding; the answer comes once that is on record, with the token's name."""
    caller, collector = caller_of(request, "admin"), collector_of(request)
    id_, decision = request.path_params["id"], _decision(await _body(request))
    found = next((each for each in collector.findings() if each.id == id_), None)
    if found is None or not caller.may_see(found.service):
        raise Problem(404, "finding-unknown", f"there is no finding {id_[:64]!r}")
    try:
        finding = await asyncio.wrap_future(collector.decide(id_, decision.state, caller.name, decision.note))
    except Undecided as error:
        raise Problem(404 if error.kind == "finding-unknown" else 409, error.kind, error.detail) from error
    return Response(msgspec.json.encode(shown(finding)), headers=_HEADERS, media_type="application/json")


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise Problem(413, "body-too-large", f"a decision has at most {MAX_BODY} bytes")
    return bytes(body)


def _decision(body: bytes) -> Decision:
    try:
        return msgspec.json.decode(body, type=Decision)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        detail = 'expected {"state": "acknowledged" or "resolved", "note": "up to 2000 characters"}'
        raise Problem(400, "bad-decision", f"{detail}: {error}") from error


def require_service(caller: Caller, service: str | None) -> None:
    """Raise `Problem` 403 for a service that is not the caller's."""
    if service is not None and EVERY not in caller.services and service not in caller.services:
        raise Problem(403, "service-missing", f"token {caller.name!r} is not for service {service[:64]!r}")


def _bad(name: str, expectation: str) -> Problem:
    return Problem(400, "bad-parameter", f"{name[:64]}: {expectation}")
