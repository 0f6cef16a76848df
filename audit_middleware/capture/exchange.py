"""One request under observation, for every protocol; becomes exactly one record.

An adapter fills in what it sees. Application code adds what only it knows, through `current_audit`. Nothing an
application puts in can raise: what cannot be used is replaced and named in ``defects``.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Final, Protocol

from audit_middleware.capture import refusal
from audit_middleware.capture.allowed import AllowedParts
from audit_middleware.capture.meaning import (
    ANONYMOUS,
    NO_ROUTE,
    NOT_KNOWN,
    called_by,
    outcome_from_status,
    principal_of,
    resource_of,
    said_outcome,
    said_resource,
)
from audit_middleware.capture.said import OnFailure
from audit_middleware.capture.trace_ids import NO_TRACE, TraceIds, with_span
from audit_middleware.errors import RequestRefused
from audit_middleware.plain import Plainer
from audit_middleware.quiet import IS_ASKING
from audit_middleware.record import (
    UNKNOWN,
    AuditRecord,
    Cause,
    Ended,
    Http,
    Outcome,
    Principal,
    Resource,
    Source,
    Trace,
    Verdict,
)
from audit_middleware.sealing.context import Context

WITHOUT_BODY: Final = frozenset({204, 304})  # statuses whose responses have none: RFC 9110, section 6.4.1
UNROUTED: Final = frozenset({301, 307, 308, 404, 405})
"""What routers answer themselves: nothing there, not with this method, or there with a slash more or less."""
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110, section 9.2.1
REPLACED: Final = "\ufffd"  # stands for bytes that are no UTF-8, whether the server put it there or we did
MAX_PATH: Final = 2048
MAX_USER_AGENT: Final = 512
MAX_CLIENT_ID: Final = 128
MAX_METHOD: Final = 32
MAX_REASON: Final = 1024
MAX_ACTION: Final = 256


class Gate(Protocol):
    """Who knows whether a record can be kept: the pipeline."""

    def vouches(self, exchange: Exchange) -> bool:
        """Say whether the record of ``exchange`` can be kept, as far as can be known now."""


class Exchange(AllowedParts):
    """A request before it is a record. The adapter owns it; one task or thread at a time.

    Members are class attributes until somebody sets them: most requests set few, and this is the request path.
    """

    source: tuple[str, Verdict, str] = (UNKNOWN, "unknown", UNKNOWN)
    source_port: int | None = None
    user_agent: bytes | None = None
    client_request_id: bytes | None = None
    trace: TraceIds = NO_TRACE
    auth: bytes | None = None
    user: Any = None
    ask_user: Callable[[], object] | None = None
    """How to find out who it is before ``user`` is known, as it is at the end."""
    path_params: object = None
    gate: Gate | None = None
    is_refused = False
    """Whether the view did not run because of its own policy, and the client is to be told so."""
    is_attempt_lost = False
    status: int | None = None
    """None also where something else answers: an exception, or an app that did not, as servers see fit."""
    response_bytes = 0
    ended: Ended = "complete"
    attempt: int | None = None
    is_websocket = False
    close_code: int | None = None
    is_closed = False
    record_type: bytes = b"request"
    """The type of the record that it becomes."""
    scope: MutableMapping[str, Any] | None = None
    """Of ASGI, while a bridge may still be about to hand this request on to WSGI."""
    view: object = None
    """What an application found to call that is mounted where the outer router cannot see it."""
    below: str | None = None
    """The route in such an application, below the path that it is mounted at, which it does not know."""
    cause: Context | None = None
    """What brought it about in another process, if that is sealed."""
    context_defect: str | None = None

    def __init__(self, service: str, request_id: str, method: str, path: str, started_ns: int) -> None:
        self.request_id = request_id
        self.details = {}
        self.service = service
        self.method = method
        self.path = path
        self.started_ns = started_ns
        self.is_unsafe = method not in SAFE_METHODS
        """Whether it may change something: an unsafe method, or a websocket, which can carry anything."""

    def failed(self, error: BaseException) -> None:
        """Note that nobody handled ``error``; the reason is its class, its text may hold anything."""
        self.ended = "exception"
        if self.reason is None:
            self.reason = type(error).__name__

    def is_refused_by(self, on_failure: OnFailure) -> bool:
        """Hold this request to a policy of its own; say whether it must not be carried out under that."""
        if on_failure == "deny" or self.on_failure is None:  # a function that is lenient softens no view that calls it
            self.on_failure = on_failure
        if on_failure == "allow" or self.gate is None or self.gate.vouches(self):
            return False
        self.is_refused = self.status is None  # an answer that has begun cannot be replaced any more
        return True

    def note_span(self) -> None:
        """Note the span that is current, unless one is known already."""
        if self.trace[1] is None:
            self.trace = with_span(self.trace)

    def note_refusal(self) -> None:
        """Note that the client gets `refusal` whatever the application makes of the exception."""
        if not self.is_closed:
            self.status, self.ended, self.reason = refusal.STATUS, "complete", RequestRefused.__name__

    def attempted(self) -> AuditRecord:
        """Return the ``attempt`` record: who it is and what it comes to is not known yet, and says so."""
        notes = Plainer()
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

    def event(
        self,
        action: str,
        *,
        principal: object = None,
        resource: Resource | tuple[str, object] | str | None = None,
        outcome: Outcome = "success",
        reason: str | None = None,
    ) -> AuditRecord:
        """Return the ``event`` record of something that happened while this exchange ran: a sign-in, an export."""
        notes = Plainer()
        return AuditRecord(
            service=self.service,
            principal=ANONYMOUS if principal is None else principal_of(principal, self.auth, notes, is_refused=False),
            source=self._source(notes),
            action=notes.cut(notes.text(action, "action"), MAX_ACTION, "action"),
            outcome=outcome,
            resource=(resource and said_resource(resource, notes)) or Resource(UNKNOWN, UNKNOWN),
            trace=self._trace(notes),
            attempt=self.attempt,
            defects=notes.defects or None,
            truncated=notes.truncated,
            reason=notes.cut(notes.text(reason, "reason"), MAX_REASON, "reason") if reason is not None else None,
        )

    def close(self, now_ns: int) -> AuditRecord:
        """Return the record of what was seen and said; ``now_ns`` is on the clock of ``started_ns``.

        One long function on purpose: every call less is a part of a microsecond less in each request.
        """
        self.is_closed, self.ask_user, self.scope = True, None, None
        notes = Plainer()
        method, path, route = self.method, self.path, self.route if type(self.route) is str else None
        if len(path) > MAX_PATH:
            path = notes.cut(path, MAX_PATH, "http.path")
        if len(method) > MAX_METHOD:
            method = notes.cut(method, MAX_METHOD, "http.method")
        shown_route = route if route is not None else self._missing_route(notes)
        principal = self._principal(notes)
        resource = said_resource(self.resource, notes) if self.resource is not None else None
        outcome = said_outcome(self.outcome, notes) if self.outcome is not None else None
        action = self._said_action(notes) if self.action is not None else ""
        reason = notes.cut(notes.text(self.reason, "reason"), MAX_REASON, "reason") if self.reason is not None else None
        details = self._details(notes) if self.details or self.parameters else None
        if self.status is None or self.unread or self.context_defect is not None or REPLACED in path:
            notes.defects += self._unknown()
        trace = self._trace(notes)
        http = Http(
            method,
            shown_route,
            path,
            self.status,
            (now_ns - self.started_ns) // 1000,
            self.request_bytes,
            self.response_bytes if method != "HEAD" else 0,
            self.ended,
            "websocket" if self.is_websocket else None,
            self.close_code,
        )
        return AuditRecord(
            self.service,
            principal,
            self._source(notes),
            action or f"{method} {shown_route}",
            outcome or self._outcome(),
            resource or resource_of(route, self.path_params, path, notes),
            trace,
            http,
            self.attempt,
            notes.defects or None,
            notes.truncated,
            details,
            reason,
            cause=self._cause(),
        )

    def principal_now(self) -> Principal:
        """Return who acts, as far as this is known at this moment."""
        ask = self.ask_user
        if ask is None or self.is_closed or self.principal is not None or self.user is not None:
            return self._principal(Plainer())
        if IS_ASKING.get():
            return NOT_KNOWN
        token = IS_ASKING.set(True)
        try:
            return self._principal(Plainer(), ask())
        except Exception:  # noqa: BLE001 - an application's own user object may raise anything
            return NOT_KNOWN
        finally:
            IS_ASKING.reset(token)

    def _cause(self) -> Cause | None:
        context = self.cause
        return Cause(context.service, context.request_id, context.span_id) if context is not None else None

    def _unknown(self) -> list[str]:
        is_answered = self.status is not None or self.ended == "disconnected" or self.is_websocket
        found = [*([] if is_answered else ["http.status"]), *(f"details.{where}" for where in self.unread)]
        found += ["http.path"] if REPLACED in self.path else []
        return found if self.context_defect is None else [*found, self.context_defect]

    def _missing_route(self, notes: Plainer) -> str:
        if self.status in UNROUTED:
            return NO_ROUTE
        notes.defects.append("http.route")
        return UNKNOWN

    def _said_action(self, notes: Plainer) -> str:
        said = notes.cut(notes.text(self.action, "action"), MAX_ACTION, "action")
        if not said:
            notes.defects.append("action")
        return said

    def _principal(self, notes: Plainer, asked: object = None) -> Principal:
        said = self._who if self._who is not None else (self.user if self.user is not None else asked)
        if self.cause is not None:
            return called_by(self.cause, said, self.auth, notes, is_refused=self.status == 401)  # noqa: PLR2004 - HTTP status
        if said is None and self.auth is None:
            return ANONYMOUS
        return principal_of(said, self.auth, notes, is_refused=self.status == 401)  # noqa: PLR2004 - HTTP status

    def _outcome(self) -> Outcome:
        if self.status == 200 and self.ended == "complete":  # noqa: PLR2004 - HTTP status, of most requests
            return "success"
        if self.ended == "exception":
            return "failure"
        if self.status is None and self.is_websocket:
            return "success"
        return outcome_from_status(self.status)

    def _source(self, notes: Plainer) -> Source:
        ip, verdict, peer = self.source
        agent = self.user_agent
        text = agent.decode("latin-1") if agent else None
        if text is not None and len(text) > MAX_USER_AGENT:
            text = notes.cut(text, MAX_USER_AGENT, "source.user_agent")
        if verdict == "unknown":
            notes.defects.append("source" if ip == UNKNOWN else "source.verdict")
        return Source(ip, verdict, peer, self.source_port, text)

    def _trace(self, notes: Plainer) -> Trace:
        client = self.client_request_id
        theirs = notes.cut(client.decode("latin-1"), MAX_CLIENT_ID, "trace.client_request_id") if client else None
        self.note_span()
        trace_id, span_id, parent_span_id = self.trace
        return Trace(self.request_id, theirs, trace_id, span_id, parent_span_id)

    def _details(self, notes: Plainer) -> dict[str, Any]:
        said = notes.value(self.details, "details")
        details = said if isinstance(said, dict) else {"said": said}
        for where, found in (self.parameters or {}).items():
            details[where] = notes.value(found, f"details.{where}")
        return details
