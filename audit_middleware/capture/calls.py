"""Calls that this process makes: one ``call`` record each, and the context that goes along to hosts of our own.

An adapter says whom it calls, and what came back: the record is written when that is known, which for HTTP is when the
headers of the answer are there. A body may be read for hours, by nobody, or in a process that is killed meanwhile.
Query, headers and body are never looked at; what fails here is logged and never fails the call.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final, Self

from audit_middleware.capture.carrying import HEADER, call_purpose, is_internal, sealed_context, traced
from audit_middleware.capture.current import exchange_at_hand
from audit_middleware.capture.exchange import MAX_ACTION, MAX_METHOD, MAX_PATH, MAX_REASON, Exchange
from audit_middleware.capture.meaning import MAX_ID, is_template_of, outcome_from_grpc, outcome_from_status
from audit_middleware.capture.trace_ids import parse_traceparent
from audit_middleware.capture.work import Work
from audit_middleware.errors import JournalError
from audit_middleware.pipeline import LOGGER, Pipeline, pipeline_at_hand
from audit_middleware.plain import Plainer
from audit_middleware.quiet import IS_QUIET
from audit_middleware.record import AuditRecord, Call, CallKind, Ended, Outcome, Resource, Source, Trace

TRACEPARENT: Final = "traceparent"
CONTEXT: Final = HEADER
"""The header, or key of metadata, that carries the context: what the application puts there itself goes nowhere."""
_NO_ANSWER: Final = frozenset({1, 4, 14})
"""CANCELLED, DEADLINE_EXCEEDED and UNAVAILABLE: what gRPC says itself where others raise."""

_route: Final[ContextVar[str | None]] = ContextVar("audit_call_route", default=None)


@contextmanager
def call_route(template: str) -> Iterator[None]:
    """Say which template the paths of the calls in this block are of: ``/invoices/{id}``. Paths are not recorded."""
    token = _route.set(template)
    try:
        yield
    finally:
        _route.reset(token)


class Outgoing:
    """One call while it runs; `finish` makes it a record, once.

    ``host`` is the name without a port; ``route`` a template, which holds for a ``path`` that is of it, so that it does
    not follow a redirect; ``traceparent`` what somebody else, such as OpenTelemetry, has put among the headers already.

    As a context manager it covers what the call is made with, which makes no record of its own, and notes what that
    raises, cancellation too. A call inside of another one, and one of the audit trail itself, is ``is_quiet``: no
    record is made and its headers are nobody's business.
    """

    def __init__(
        self,
        kind: CallKind,
        method: str,
        host: str,
        *,
        route: str | None = None,
        path: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        self.kind: CallKind = kind
        self.method = method
        self.host = host
        self.route: str | None = None
        self.headers: dict[str, str] = {}
        """What has to go along; without ``traceparent`` if that is there already."""
        self.is_quiet = IS_QUIET.get()
        self._started_ns = time.perf_counter_ns()
        self._is_finished = False
        self._is_carried: bool | None = None
        self._pipeline: Pipeline | None = None
        self._token: Token[bool] | None = None
        if self.is_quiet:
            return
        try:
            self._begin(traceparent)
            self._note_route(route if route is not None else _route.get(), path)
        except Exception as error:  # noqa: BLE001 - containment: a fault of ours must not fail the call
            self._contain(error)

    def __enter__(self) -> Self:
        """Begin what the call is made with."""
        self._token = IS_QUIET.set(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it; what it raised is a failure."""
        if error is not None:
            self.finish(error=error)
        try:
            if self._token is not None:
                IS_QUIET.reset(self._token)
        except ValueError:  # a coroutine whose event loop is gone is closed in somebody else's context
            LOGGER.debug("audit: a call of %s ended outside of its context", self.host)

    def finish(
        self, status: int | None = None, error: BaseException | None = None, *, reason: str | None = None
    ) -> None:
        """Append the record, once; ``status`` is HTTP's or gRPC's, ``error`` what was raised. Never raises."""
        pipeline = self._pipeline
        if pipeline is None or self._is_finished:
            return
        self._is_finished = True
        try:
            said = type(error).__name__ if error is not None else reason
            ended: Ended = "exception" if error is not None or self._is_unanswered(status) else "complete"
            pipeline.recorder.append(b"call", self._record(status, ended, said))
        except JournalError as lost:
            LOGGER.error("audit: a call of %s is not on record: %s", self.host, lost)
        except Exception as fault:  # noqa: BLE001 - containment, as above
            self._contain(fault)

    def _begin(self, traceparent: str | None) -> None:
        before = exchange_at_hand()
        gate = before.gate if before is not None else None
        pipeline = gate if isinstance(gate, Pipeline) else pipeline_at_hand()
        self._pipeline = pipeline
        self._origin: Exchange = before if before is not None else Work(pipeline, self.host, "function")
        trace_id, parent, _ = traced(self._origin)
        span_id = secrets.token_hex(8)  # W3C Trace Context, section 3.2.2.4: 8 bytes
        self._trace: tuple[str, str, str | None] = (trace_id, span_id, parent)
        given = parse_traceparent(traceparent.encode("latin-1", "replace")) if traceparent else None
        if given is not None and given[0] is not None:
            self._trace = (given[0], given[2] or self._trace[1], parent if given[0] == trace_id else None)
        if is_internal(self.host, pipeline.settings.internal_hosts):
            self._carry(pipeline, is_traced=given is not None and given[0] is not None)

    def _carry(self, pipeline: Pipeline, *, is_traced: bool) -> None:
        trace_id, span_id, _ = self._trace
        if not is_traced:
            self.headers[TRACEPARENT] = f"00-{trace_id}-{span_id}-01"
        purpose = call_purpose(self.method)
        self.headers[HEADER] = sealed_context(self._origin, pipeline.recorder.keyring, purpose, span_id)
        self._is_carried = True

    def _note_route(self, route: str | None, path: str | None) -> None:
        if isinstance(route, str) and (path is None or is_template_of(route, path)):
            self.route = route

    def _is_unanswered(self, status: int | None) -> bool:
        return self.kind == "grpc" and status in _NO_ANSWER

    def _record(self, status: int | None, ended: Ended, said: str | None) -> AuditRecord:
        origin, notes = self._origin, Plainer()
        of_status = outcome_from_grpc if self.kind == "grpc" else outcome_from_status
        outcome: Outcome = "failure" if ended == "exception" else of_status(status)
        host = notes.cut(notes.text(self.host, "call.host"), MAX_ID, "call.host")
        method = notes.cut(notes.text(self.method, "call.method"), MAX_METHOD, "call.method")
        route = notes.cut(self.route, MAX_PATH, "call.route") if self.route is not None else None
        ip, verdict, peer = origin.source
        reason = notes.cut(said, MAX_REASON, "reason") if said is not None else None
        took = (time.perf_counter_ns() - self._started_ns) // 1000
        return AuditRecord(
            service=origin.service,
            principal=origin.principal_now(),
            source=Source(ip, verdict, peer),
            action=notes.cut(f"call {host} {method} {route or '*'}", MAX_ACTION, "action"),
            outcome=outcome,
            resource=Resource("host", host),
            trace=Trace(origin.request_id, None, *self._trace),
            defects=notes.defects or None,
            truncated=notes.truncated,
            reason=reason,
            call=Call(self.kind, method, host, route, status, took, ended, self._is_carried),
        )

    def _contain(self, error: Exception) -> None:
        if self._pipeline is not None:
            self._pipeline.contain("the record of a call", error)
        else:
            LOGGER.error("audit: a call of %s is not on record", self.host, exc_info=error)
