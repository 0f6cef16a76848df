"""The audit record and the other payloads of a sealed line (wire format, sections 3 and 4).

What is not known is the string ``"unknown"`` and is named in ``defects``; a required member is never absent.
Structs are frozen: whoever holds a record cannot change what was observed.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

UNKNOWN: Final = "unknown"
MAX_INTEGER: Final = 2**53 - 1  # wire format, section 1: what every JSON reader holds exactly
MAX_LINE: Final = 32 * 1024  # wire format, section 1: bytes of one line, LF not counted

Integer = Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
StreamId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{21}[AQgw]\Z")]
LeafHash = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]\Z")]

PrincipalType = Literal["user", "service", "anonymous", "system", "unknown"]
AuthMethod = Literal["session", "bearer", "mtls", "basic", "api_key", "header", "context", "none", "unknown"]
Verdict = Literal["peer", "forwarded", "carried", "local", "unknown"]
Outcome = Literal["success", "denied", "failure", "unknown"]
Ended = Literal["complete", "disconnected", "exception"]
TaskEnded = Literal["complete", "exception", "retry", "revoked", "timeout", "killed"]
TaskKind = Literal["task", "background", "command", "schedule", "function"]
CallKind = Literal["http", "grpc", "sql"]


class Payload(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Base of what ``rec`` can hold; optional members are left out while they have their default."""


class Principal(Payload, frozen=True):
    """Who acted, and how that was proven."""

    id: str
    type: PrincipalType
    auth: AuthMethod
    tenant: str | None = None
    name: str | None = None
    privileged: bool | None = None
    on_behalf_of: str | None = None


class Source(Payload, frozen=True):
    """Where the request came from; ``verdict`` says how far ``ip`` can be believed."""

    ip: str
    verdict: Verdict
    peer: str
    port: Count | None = None
    user_agent: str | None = None


class Resource(Payload, frozen=True):
    """What was acted upon."""

    type: str
    id: str


class Http(Payload, frozen=True):
    """The HTTP side of an exchange; durations are microseconds, sizes bytes of bodies."""

    method: str
    route: str
    path: str
    status: Count | None = None
    duration_us: Count | None = None
    request_bytes: Count | None = None
    response_bytes: Count | None = None
    ended: Ended | None = None
    protocol: Literal["websocket"] | None = None
    close_code: Count | None = None


class Task(Payload, frozen=True):
    """One run of a task: ``id`` is the broker's, the same in every ``run`` (from 1); durations are microseconds."""

    name: str
    kind: TaskKind
    id: str | None = None
    queue: str | None = None
    run: Count | None = None
    duration_us: Count | None = None
    ended: TaskEnded | None = None


class Call(Payload, frozen=True):
    """A call that this process made: whom, and what came back; never a query or a body. Durations in microseconds."""

    kind: CallKind
    method: str
    host: str
    route: str | None = None
    status: Count | None = None
    duration_us: Count | None = None
    ended: Ended | None = None
    carried: bool | None = None
    """Whether a sealed context went along: the record of whoever was called can say what brought it about."""


class Cause(Payload, frozen=True):
    """What brought this about in another process, as a sealed context said (wire format, section 4)."""

    service: str
    request_id: str
    span_id: str | None = None


class Trace(Payload, frozen=True):
    """Ids that join this record with logs, traces and the client's own id."""

    request_id: str
    client_request_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None


class Truncation(Payload, frozen=True):
    """A value that was cut: where it stood, the SHA-256 (hex) and size of the UTF-8 original."""

    field: str
    sha256: str
    bytes: Count


class AuditRecord(Payload, frozen=True):
    """``rec`` of ``attempt``, ``request``, ``event``, ``task`` and ``call`` (wire format, section 4)."""

    service: str
    principal: Principal
    source: Source
    action: str
    outcome: Outcome
    resource: Resource
    trace: Trace
    http: Http | None = None
    attempt: Count | None = None
    defects: list[str] | None = None
    truncated: list[Truncation] | None = None
    details: dict[str, Any] | None = None
    reason: str | None = None
    task: Task | None = None
    call: Call | None = None
    cause: Cause | None = None


class StreamHead(Payload, frozen=True):
    """The newest line known of a stream; ``seq`` and ``leaf`` are absent when none is known."""

    stream: StreamId
    seq: Count | None = None
    leaf: LeafHash | None = None
    closed: bool = False


class Opened(Payload, frozen=True):
    """``rec`` of ``open``: the first line of a stream says whose it is (wire format, section 2)."""

    service: str
    version: str
    instance: str
    env: str
    host: str
    boot_id: str
    pid: Count
    started: str
    library: str
    policy: str
    durability: str
    previous: StreamHead | None = None


class Counters(Payload, frozen=True):
    """``rec`` of ``beat`` and ``close``: what this process has seen, so that silence can be told from quiet."""

    service: str
    monotonic_us: Count
    seen: Count
    recorded: Count
    dropped: Count
    spool_bytes: Count
    checkpoint: Count | None = None


class Dropped(Payload, frozen=True):
    """``rec`` of ``drop``: records given up by a stated policy, first and last ``seq`` inclusive."""

    service: str
    first: Count
    last: Count
    count: Count
    reason: str


APPLICATION_TYPES: Final = frozenset({"attempt", "request", "event", "task", "call"})
COLLECTOR_TYPES: Final = frozenset(
    ["ingest", "gap", "conflict", "quarantine", "retention", "hold", "erasure", "access", "export", "review", "anchor"]
)
"""Types that stand in a collector's own stream only (wire format, section 3)."""

COLLECTOR_SERVICE: Final = "audit-collector"
"""Service of a collector's own records; nobody may deliver for it."""

COLLECTOR_CLASS: Final = "collector"
"""The class of the logs in which a collector says what was held and what was deleted; they stay for ever."""
