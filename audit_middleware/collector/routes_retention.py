"""``/v1/retention`` and ``/v1/holds``: what would go, let it go, and what may not go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from audit_middleware.collector.auth import Caller
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.retention.keeper import Retention
from audit_middleware.collector.routes import caller_of, collector_of, note_read
from audit_middleware.collector_record import Held
from audit_middleware.errors import BadLedger, ConfigurationError, StorageError
from audit_middleware.record import COLLECTOR_SERVICE

MAX_BODY: Final = 64 * 1024
T = TypeVar("T")
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Apply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/retention``: the plan to carry out."""

    plan: str


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/holds``; what is left out is not restricted. Days are both included."""

    case: Name
    reason: str
    services: list[Name] = []
    principals: list[Name] = []
    since: str | None = None
    until: str | None = None


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/holds/{case}/confirm`` and ``/release``."""

    reason: str


async def plan(request: Request) -> Response:
    """Answer with the plan of this moment and the holds."""
    retention, _ = _asked(request, "reader")
    found = await _carried_out(retention.plan)
    held = await _carried_out(retention.holds)
    return _json({"plan": found, "holds": held})


async def apply(request: Request) -> Response:
    """Delete what a plan says, if that is the plan of this moment."""
    retention, caller = _asked(request, "admin")
    body = await _body(request, Apply)
    return _json({"deleted": await _carried_out(lambda: retention.apply(body.plan, caller.name))})


async def place(request: Request) -> Response:
    """Place a hold."""
    retention, caller = _asked(request, "admin")
    body = await _body(request, Place)
    held = Held(COLLECTOR_SERVICE, state="placed", by=caller.name, **msgspec.structs.asdict(body))
    return _json(await _carried_out(lambda: retention.place(held)))


async def confirm(request: Request) -> Response:
    """Confirm a hold, as the second person."""
    retention, caller = _asked(request, "admin")
    case, reason = request.path_params["case"], (await _body(request, Reason)).reason
    return _json(await _carried_out(lambda: retention.confirm(case, caller.name, reason)))


async def release(request: Request) -> Response:
    """Ask for the release of a hold, or release it as the second person."""
    retention, caller = _asked(request, "admin")
    case, reason = request.path_params["case"], (await _body(request, Reason)).reason
    return _json(await _carried_out(lambda: retention.release(case, caller.name, reason)))


def _asked(request: Request, role: Any) -> tuple[Retention, Caller]:  # noqa: ANN401 - a role of auth
    caller, collector = caller_of(request, role), collector_of(request)
    caller.require_every_service()
    if role == "reader":
        note_read(request, caller, "retention", "")
    collector.require_ready()
    return collector.retention, caller


async def _carried_out(work: Callable[[], T]) -> T:
    """Do what was asked in a thread; what refuses it is a problem."""
    try:
        return await run_in_threadpool(work)
    except ConfigurationError as error:
        raise Problem(409, "retention-refused", str(error)) from error
    except BadLedger as error:
        raise Problem(409, "ledger-damaged", f"nothing was deleted: {error}") from error
    except StorageError as error:
        raise Problem(500, "storage-failed", str(error)) from error


async def _body(request: Request, type_: type[T]) -> T:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise Problem(413, "body-too-large", f"at most {MAX_BODY} bytes")
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Problem(400, "bad-body", f"{error}") from error


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), headers={"Cache-Control": "no-store"}, media_type="application/json")
