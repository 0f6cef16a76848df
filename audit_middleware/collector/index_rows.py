"""What the index keeps of a line: only what the strict parse of its ``rec`` gave. Pure."""

from __future__ import annotations

import calendar
from functools import lru_cache
from typing import Any, Final, NamedTuple

from audit_middleware.record import AuditRecord, Payload
from audit_middleware.sealing.parse import Unlisted
from audit_middleware.sealing.seal import Frame

LOG_BITS: Final = 40  # entries one log can hold in the index
COLUMNS: Final = (  # in the order of the table
    "id",
    "stream",
    "seq",
    "type",
    "ts",
    "service",
    "principal",
    "action",
    "resource_type",
    "resource_id",
    "outcome",
    "ip",
    "request_id",
    "trace_id",
)
Row = tuple[Any, ...]


class Entry(NamedTuple):
    """One line of a ledger, parsed; ``stream`` is its stream's number in the index."""

    stream: int
    frame: Frame
    payload: Payload


def entry_id(log: int, index: int) -> int:
    """Return the one number that stands for entry ``index`` of log number ``log``."""
    return log << LOG_BITS | index


def split_id(number: int) -> tuple[int, int]:
    """Return log number and entry index of an `entry_id`."""
    return number >> LOG_BITS, number & ((1 << LOG_BITS) - 1)


def row(number: int, entry: Entry) -> Row:
    """Return the values of `COLUMNS` for one entry."""
    stream, frame, payload = entry
    if isinstance(payload, AuditRecord):
        resource, trace = payload.resource, payload.trace
        return (
            number,
            stream,
            frame.seq,
            frame.type,
            microseconds(frame.ts),
            payload.service,
            payload.principal.id,
            payload.action,
            resource.type,
            resource.id,
            payload.outcome,
            payload.source.ip,
            trace.request_id,
            trace.trace_id,
        )
    head = (number, stream, frame.seq, frame.type, microseconds(frame.ts), service_of(payload))
    return head + (None,) * (len(COLUMNS) - len(head))


def service_of(payload: Payload) -> str | None:
    """Return the service a payload names, if it names one."""
    service = payload.members.get("service") if isinstance(payload, Unlisted) else getattr(payload, "service", None)
    return service if isinstance(service, str) else None


def microseconds(ts: str) -> int:
    """Return a line's ``ts`` as microseconds since the epoch; a date that does not exist counts on from its month."""
    return _second(ts[:19]) * 1_000_000 + int(ts[20:26])


@lru_cache(maxsize=1024)
def _second(text: str) -> int:
    year, month, day = max(1, int(text[:4])), min(12, max(1, int(text[5:7]))), int(text[8:10])
    first = calendar.timegm((year, month, 1, 0, 0, 0))
    return first + (day - 1) * 86400 + int(text[11:13]) * 3600 + int(text[14:16]) * 60 + int(text[17:19])
