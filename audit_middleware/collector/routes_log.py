"""The logs as static files, as C2SP tlog-tiles lays them out: anybody who may read can verify all of it."""

from __future__ import annotations

import re
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from audit_middleware.collector.logs import FinishedLog, Log
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.routes import caller_of, collector_of, known_caller, note_read
from audit_middleware.errors import BadLedger
from audit_middleware.tlog.tiles import parse_path
from audit_middleware.verify.expired import FILE as EXPIRED

PURPOSE: Final = "audit-purpose"
"""Header in which a reader says what for: only ``verify`` is known (wire format, section 5)."""
TEXT: Final = "text/plain; charset=utf-8"
BYTES: Final = "application/octet-stream"
IMMUTABLE: Final = "public, max-age=604800, immutable"
_ARCHIVED: Final = re.compile(r"checkpoints/(?:0|[1-9][0-9]{0,18})")


async def checkpoint(request: Request) -> Response:
    """Serve the present checkpoint."""
    note = _log(request).note
    return Response(note, headers={"Cache-Control": "no-cache"}, media_type=TEXT)


async def archived(request: Request) -> Response:
    """Serve a checkpoint of an earlier size."""
    key = f"checkpoints/{request.path_params['size']}"
    if not _ARCHIVED.fullmatch(key):
        raise _not_found()
    return await _file(_log(request), key, TEXT)


async def tile(request: Request) -> Response:
    """Serve a tile or an entry bundle; only the one canonical spelling of its path names it."""
    key = f"tile/{request.path_params['path']}"
    try:
        parse_path(key)
    except BadLedger as error:
        raise _not_found() from error
    return await _file(_log(request), key, BYTES)


async def expired(request: Request) -> Response:
    """Serve what was there of each stream in a log whose entries have expired."""
    log = _log(request)
    if not isinstance(log, FinishedLog):
        raise _not_found()
    data = await run_in_threadpool((log.folder / EXPIRED).read_bytes)
    return Response(data, headers={"Cache-Control": IMMUTABLE}, media_type="application/x-ndjson")


async def vkeys(request: Request) -> Response:
    """Serve the verifier keys of all logs, one a line; to every token, because who delivers pins them."""
    collector = collector_of(request)
    if not collector.settings.public_log:
        known_caller(request)
    text = "".join(f"{vkey}\n" for vkey in collector.vkeys)
    return Response(text, headers={"Cache-Control": "no-cache"}, media_type=TEXT)


async def _file(log: Log | FinishedLog, key: str, media_type: str) -> Response:
    data = await run_in_threadpool(log.store.get, key)
    if data is None:
        raise _not_found()
    return Response(data, headers={"Cache-Control": IMMUTABLE}, media_type=media_type)


def _log(request: Request) -> Log | FinishedLog:
    _require_access(request)
    log = collector_of(request).logs.find(f"{request.path_params['class_']}/{request.path_params['period']}")
    if log is None:
        raise _not_found()
    return log


def _require_access(request: Request) -> None:
    if not collector_of(request).settings.public_log:
        what = f"{request.path_params['class_']}/{request.path_params['period']}"
        caller = caller_of(request, "reader")
        caller.require_every_service()
        note_read(request, caller, "verify" if request.headers.get(PURPOSE) == "verify" else "read", what[:64])


def _not_found() -> Problem:
    return Problem(404, "not-found", "this log has no such file; a partial tile goes when a wider one exists")
