"""One request under observation, for every protocol; becomes exactly one record.

An adapter fills in what it sees. Application code adds what only it knows, through `current_audit`. Nothing an
application puts in can raise: what cannot be used is replaced and named in ``defects``.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any, Final

from audit_middleware.capture.meaning import (
    NO_ROUTE,
    action_of,
    outcome_from_status,
    principal_of,
    resource_of,
    said_outcome,
    said_resource,
)
from audit_middleware.capture.trace_ids import NO_TRACE, TraceIds
from audit_middleware.plain import Plainer, cut
from audit_middleware.record import (
    UNKNOWN,
    AuditRecord,
    Ended,
    Http,
    Outcome,
    Principal,
    Resource,
    Source,
    Trace,
    Truncation,
    Verdict,
)

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110, section 9.2.1
MAX_PATH: Final = 2048
MAX_USER_AGENT: Final = 512
MAX_CLIENT_ID: Final = 128
MAX_METHOD: Final = 32
MAX_REASON: Final = 1024


class CurrentAudit:
    """What application code may say about the request at hand; whatever it leaves unset is observed.

    ``principal`` takes a `Principal`, a user name, or a user object; ``resource`` a `Resource`, ``(type, id)`` or
    ``"type:id"``; ``outcome`` one of success, denied, failure; ``details`` is a dictionary of plain values.
    What is said after the last byte of the answer was handed to the server is not on record.
    """

    __slots__ = ("action", "details", "outcome", "principal", "reason", "request_id", "resource")

    def __init__(self, request_id: str = "") -> None:
        self.request_id: str = request_id
        self.principal: Any = None
        self.action: str | None = None
        self.resource: Resource | tuple[str, object] | str | None = None
        self.outcome: Outcome | None = None
        self.reason: str | None = None
        self.details: dict[str, Any] = {}


class NoAudit(CurrentAudit):
    """What `current_audit` gives outside a request: everything can be said to it, nothing is recorded."""

    __slots__ = ()


class Exchange(CurrentAudit):
    """A request before it is a record. The adapter owns it; one task or thread at a time."""

    __slots__ = (
        "attempt",
        "auth",
        "client_request_id",
        "close_code",
        "ended",
        "is_closed",
        "is_websocket",
        "method",
        "path",
        "path_params",
        "query",
        "request_bytes",
        "response_bytes",
        "route",
        "service",
        "source",
        "source_port",
        "started_ns",
        "status",
        "trace",
        "user",
        "user_agent",
    )

    def __init__(self, service: str, request_id: str, method: str, path: str, started_ns: int) -> None:
        super().__init__(request_id)
        self.service = service
        self.method = method
        self.path = path
        self.started_ns = started_ns
        self.source: tuple[str, Verdict, str] = (UNKNOWN, "unknown", UNKNOWN)
        self.source_port: int | None = None
        self.user_agent: bytes | None = None
        self.client_request_id: bytes | None = None
        self.trace: TraceIds = NO_TRACE
        self.auth: bytes | None = None
        self.user: Any = None
        self.route: str | None = None
        self.path_params: dict[str, Any] | None = None
        self.query: dict[str, list[str]] | None = None
        self.status: int | None = None
        self.request_bytes = 0
        self.response_bytes = 0
        self.ended: Ended = "complete"
        self.attempt: int | None = None
        self.is_websocket = False
        self.close_code: int | None = None
        self.is_closed = False

    @property
    def is_unsafe(self) -> bool:
        """Whether it may change something: an unsafe method, or a websocket, which can carry anything."""
        return self.is_websocket or self.method not in SAFE_METHODS

    def attempted(self) -> AuditRecord:
        """Return the ``attempt`` record: who it is and what it comes to is not known yet, and says so."""
        notes = _Notes()
        http = Http(
            notes.cut(self.method, MAX_METHOD, "http.method"), UNKNOWN, notes.cut(self.path, MAX_PATH, "http.path")
        )
        if self.is_websocket:
            http = Http(http.method, http.route, http.path, protocol="websocket")
        return AuditRecord(
            service=self.service,
            principal=Principal(UNKNOWN, "unknown", "unknown"),
            source=self._source(notes),
            action=UNKNOWN,
            outcome="unknown",
            resource=Resource("path", http.path),
            trace=self._trace(notes),
            http=http,
            defects=["principal", "action", "http.route"],
            truncated=notes.truncated,
        )

    def close(self, now_ns: int) -> AuditRecord:
        """Return the record of what was seen and said; ``now_ns`` is on the clock of ``started_ns``."""
        self.is_closed = True
        notes = _Notes()
        route = self._route(notes)
        path = notes.cut(self.path, MAX_PATH, "http.path")
        return AuditRecord(
            service=self.service,
            principal=self._principal(notes),
            source=self._source(notes),
            action=action_of(self.action, self.method, route, notes),
            outcome=said_outcome(self.outcome, notes) or self._outcome(),
            resource=said_resource(self.resource, notes) or resource_of(self.route, self.path_params, path, notes),
            trace=self._trace(notes),
            http=self._http(route, path, now_ns, notes),
            attempt=self.attempt,
            details=self._details(notes),
            reason=notes.cut(notes.text(self.reason, "reason"), MAX_REASON, "reason")
            if self.reason is not None
            else None,
            defects=notes.defects or None,
            truncated=notes.truncated,
        )

    def _route(self, notes: _Notes) -> str:
        if self.route is not None:
            return self.route
        if self.status in {404, 405}:
            return NO_ROUTE
        notes.defects.append("http.route")
        return UNKNOWN

    def _principal(self, notes: _Notes) -> Principal:
        said = self.principal if self.principal is not None else self.user
        return principal_of(said, self.auth, notes, is_refused=self.status == 401)  # noqa: PLR2004 - HTTP status

    def _outcome(self) -> Outcome:
        if self.is_websocket:
            return "failure" if self.ended == "exception" else outcome_from_status(self.status or 101)
        return outcome_from_status(self.status) if self.ended != "exception" else "failure"

    def _source(self, notes: _Notes) -> Source:
        ip, verdict, peer = self.source
        agent = self.user_agent
        text = notes.cut(agent.decode("latin-1"), MAX_USER_AGENT, "source.user_agent") if agent else None
        if ip == UNKNOWN:
            notes.defects.append("source")
        return Source(ip, verdict, peer, self.source_port, text)

    def _trace(self, notes: _Notes) -> Trace:
        client = self.client_request_id
        theirs = notes.cut(client.decode("latin-1"), MAX_CLIENT_ID, "trace.client_request_id") if client else None
        return Trace(self.request_id, theirs, *self.trace)

    def _http(self, route: str, path: str, now_ns: int, notes: _Notes) -> Http:
        return Http(
            notes.cut(self.method, MAX_METHOD, "http.method"),
            route,
            path,
            self.status,
            max(0, now_ns - self.started_ns) // 1000,
            self.request_bytes,
            0 if self.method == "HEAD" else self.response_bytes,
            self.ended,
            "websocket" if self.is_websocket else None,
            self.close_code,
        )

    def _details(self, notes: _Notes) -> dict[str, Any] | None:
        if not self.details and not self.query:
            return None
        said = notes.value(self.details, "details")
        details = said if isinstance(said, dict) else {"said": said}
        if self.query:
            details["query"] = notes.value(self.query, "details.query")
        return details


class _Notes(Plainer):
    """What had to be changed or cut to make a record."""

    __slots__ = ("truncated",)

    def __init__(self) -> None:
        super().__init__()
        self.truncated: list[Truncation] | None = None

    def cut(self, text: str, limit: int, where: str) -> str:
        if len(text) <= limit:
            return text
        kept, digest, size = cut(text, limit)
        self.truncated = [*(self.truncated or ()), Truncation(where, digest, size)]
        return kept


_current: ContextVar[Exchange | None] = ContextVar("audit_exchange", default=None)


def current_audit() -> CurrentAudit:
    """Return the request being observed; outside one an object that takes everything and records nothing."""
    return _current.get() or NoAudit()


def enter(exchange: Exchange) -> Token[Exchange | None]:
    """Make ``exchange`` current in this context."""
    return _current.set(exchange)


def leave(token: Token[Exchange | None]) -> None:
    """Make current what was before `enter`."""
    _current.reset(token)
