"""``rec`` of ``coverage``, an inventory, and which entry point a record reached (wire format, section 4a)."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from audit_middleware.record import AuditRecord, Count, Payload

EntryKind = Literal["http", "websocket", "task", "command", "schedule", "model"]
ANY: Final = "*"
"""The method of an entry point that takes all of them, or has none."""

DATA: Final = "data."
"""How these begin:"""

DATA_ACTIONS: Final = frozenset({"data.read", "data.create", "data.update", "data.delete"})
"""What was done to rows of a model."""

NOT_ALLOWED: Final = 405
"""Status of a request whose method the route does not take (RFC 9110, section 15.5.6)."""

UNROUTED: Final = frozenset({"none", "unknown", ""})
"""Routes that are no entry point: nothing of the application was reached."""


class DeclaredPoint(Payload, frozen=True):
    """One way into an application; ``route`` is spelled as on record, and is the name of a task, command or model."""

    kind: EntryKind
    method: str
    route: str
    name: str | None = None
    exempt: str | None = None
    """Why it is not recorded."""

    until: str | None = None
    """The last day (UTC, YYYY-MM-DD) on which that holds."""


class Inventory(Payload, frozen=True):
    """What one component of a service declares; of several parts each is a record of its own.

    ``component`` tells apart what one service declares in several processes: the framework and, where it has one, the
    application's name. The same ``digest`` (SHA-256, hex) is the same inventory, whichever process said it; ``policy``
    is that of the ``open`` record, and ``settings`` what it is the digest of, as text. ``beyond`` counts entry points
    for which there was no room.
    """

    service: str
    component: str
    digest: str
    part: Count
    parts: Count
    version: str
    policy: str
    versions: dict[str, str]
    entry_points: list[DeclaredPoint]
    rules: str | None = None
    beyond: Count | None = None
    settings: dict[str, str] | None = None


class Reached(NamedTuple):
    """What a record says was called: the entry point's kind, method and route."""

    kind: str
    method: str
    route: str


def reached(type_: str, record: AuditRecord) -> Reached | None:
    """Return which entry point a record is of; None for an attempt, a call, and what reached nothing.

    Work that cannot be declared, a function or something in the background of a request, has a kind of its own.
    """
    http, task = record.http, record.task
    if type_ == "request" and http is not None:
        if http.status == NOT_ALLOWED:
            return None
        kind = "websocket" if http.protocol == "websocket" else "http"
        return Reached(kind, http.method, http.route) if http.route not in UNROUTED else None
    if type_ == "task" and task is not None:
        return Reached(task.kind, ANY, task.name)
    if type_ == "event" and record.action in DATA_ACTIONS:
        return Reached("model", record.action.removeprefix(DATA), record.resource.type)
    return None
