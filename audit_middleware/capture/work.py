"""Work that no request asks for at this moment: tasks, jobs, commands, functions. Each run becomes one ``task`` record.

An adapter says what runs and gives the context that came along, if any; `run` does the rest: the attempt before, the
record after, and the work is current in between, so that application code says more through `current_audit`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from audit_middleware.capture import refusal
from audit_middleware.capture.carrying import TASK_AGE, believe, task_purpose, traced
from audit_middleware.capture.current import enter, leave
from audit_middleware.capture.exchange import MAX_ACTION, MAX_REASON, Exchange
from audit_middleware.capture.meaning import MAX_ID, said_outcome, said_resource
from audit_middleware.capture.rules import Rules
from audit_middleware.capture.trace_ids import trace_ids
from audit_middleware.errors import RequestRefused
from audit_middleware.pipeline import LOGGER, Pipeline
from audit_middleware.plain import Plainer
from audit_middleware.record import (
    UNKNOWN,
    AuditRecord,
    Outcome,
    Principal,
    Resource,
    Source,
    Task,
    TaskEnded,
    TaskKind,
)
from audit_middleware.sealing.context import Context

_OUTCOMES: Final[dict[TaskEnded, Outcome]] = {"complete": "success", "retry": "unknown", "revoked": "denied"}
"""All others are failures; a run that is tried again has no outcome yet."""


class Work(Exchange):
    """One run of something; ``id``, ``queue`` and ``tries`` are the broker's, the first run is 1."""

    record_type = b"task"
    end: TaskEnded | None = None
    """How it ended, for an adapter that knows better than the exception says."""

    def __init__(
        self,
        pipeline: Pipeline,
        name: str,
        kind: TaskKind,
        *,
        id: str | None = None,  # noqa: A002 - what brokers call it
        queue: str | None = None,
        tries: int | None = None,
    ) -> None:
        super().__init__(pipeline.service, pipeline.recorder.new_request_id(), "", "", time.perf_counter_ns())
        self.is_unsafe = True
        self.gate = pipeline
        self.name = name
        self.kind: TaskKind = kind
        self.id = id
        self.queue = queue
        self.route = name
        self.tries = tries
        self.source = (UNKNOWN, "local", UNKNOWN)
        self.trace = trace_ids(None)

    def believe(self, sealed: str, pipeline: Pipeline) -> None:
        """Run on behalf of whom a context that came along with the task names, if it proves that."""
        believe(self, sealed, pipeline.recorder.keyring, purpose=task_purpose(self.name, self.id), max_age=TASK_AGE)
        if self.cause is not None:
            self.source = (self.cause.ip, "carried", UNKNOWN)

    def disbelieve(self, defect: str) -> None:
        """Take that back: the context proves nothing after all."""
        self.cause, self.context_defect = None, defect
        self.source, self.trace = (UNKNOWN, "local", UNKNOWN), trace_ids(None)

    def follow(self, exchange: Exchange) -> None:
        """Run on behalf of whoever made the request that this process handled before, or handles."""
        trace_id, span_id, _ = traced(exchange)
        who = exchange.principal_now()
        self.cause = Context("", 0, exchange.service, exchange.request_id, who, exchange.source[0], trace_id, span_id)
        self.source = (exchange.source[0], "carried", UNKNOWN) if exchange.source[0] != UNKNOWN else self.source
        if self.trace[0] is None:
            self.trace = (trace_id, None, span_id)

    def heed(self, rules: Rules | None) -> None:
        """Go by what `audited` was told of the function that is about to run, if it was told anything."""
        if rules is None:
            return
        self.action, self.exemption, self.on_failure = rules.action, rules.exemption, rules.on_failure
        if rules.principal is not None:
            self.principal = rules.principal

    def failed(self, error: BaseException) -> None:
        """Note that the work raised ``error``."""
        if isinstance(error, SystemExit) and error.code in {None, 0}:
            return
        super().failed(error)

    def attempted(self) -> AuditRecord:
        """Return the ``attempt`` record: what is about to run, for whom."""
        notes = Plainer()
        return self._record(notes, "unknown", self._task(notes))

    def close(self, now_ns: int) -> AuditRecord:
        """Return the ``task`` record."""
        self.is_closed = True
        notes = Plainer()
        ended: TaskEnded = self.end or ("exception" if self.ended == "exception" else "complete")
        outcome = said_outcome(self.outcome, notes) if self.outcome is not None else None
        task = self._task(notes, (now_ns - self.started_ns) // 1000, ended)
        return self._record(notes, outcome or _OUTCOMES.get(ended, "failure"), task)

    def _record(self, notes: Plainer, outcome: Outcome, task: Task) -> AuditRecord:
        record = AuditRecord(
            service=self.service,
            principal=self._principal(notes),
            source=self._source(notes),
            action=self._action(notes),
            outcome=outcome,
            resource=self._resource(notes),
            trace=self._trace(notes),
            attempt=self.attempt,
            details=self._details(notes) if self.details else None,
            reason=self._reason(notes) if self.reason is not None else None,
            task=task,
            cause=self._cause(),
        )
        defects = [*notes.defects, *([self.context_defect] if self.context_defect is not None else [])]
        return msgspec.structs.replace(record, defects=defects or None, truncated=notes.truncated)

    def _reason(self, notes: Plainer) -> str:
        return notes.cut(notes.text(self.reason, "reason"), MAX_REASON, "reason")

    def _principal(self, notes: Plainer, asked: object = None) -> Principal:
        """Whoever is named, else whoever brought it about, else this service itself."""
        if self._who is not None or self.user is not None or self.cause is None:
            is_named = self._who is not None or self.user is not None
            return super()._principal(notes, asked) if is_named else Principal(self.service, "service", "none")
        return self.cause.principal

    def _source(self, notes: Plainer) -> Source:
        ip, verdict, peer = self.source
        return Source(ip, verdict, peer) if verdict != "unknown" else super()._source(notes)

    def _action(self, notes: Plainer) -> str:
        return notes.cut(notes.text(self.action or self.name, "action"), MAX_ACTION, "action") or UNKNOWN

    def _resource(self, notes: Plainer) -> Resource:
        said = said_resource(self.resource, notes) if self.resource is not None else None
        return said or Resource(
            "task", notes.cut(notes.text(self.name, "resource.id"), MAX_ID, "resource.id") or UNKNOWN
        )

    def _task(self, notes: Plainer, duration_us: int | None = None, ended: TaskEnded | None = None) -> Task:
        def text(value: str | None, where: str) -> str | None:
            return notes.cut(notes.text(value, where), MAX_ID, where) if value is not None else None

        name = text(self.name, "task.name") or UNKNOWN
        return Task(
            name, self.kind, text(self.id, "task.id"), text(self.queue, "task.queue"), self.tries, duration_us, ended
        )


def admit(work: Work, pipeline: Pipeline) -> None:
    """Append the attempt; raise `RequestRefused` when policy wants the work not to run without its record."""
    if not pipeline.admit(work):
        raise RequestRefused(refusal.NOT_CARRIED_OUT)


def conclude(work: Work, pipeline: Pipeline) -> None:
    """Append the record of work that is over. It has happened: what cannot be kept is logged and counted."""
    if not work.is_closed and not pipeline.conclude(work):
        LOGGER.error("audit: the end of %s %s is not on record", work.kind, work.name)


@contextmanager
def run(work: Work, pipeline: Pipeline) -> Iterator[Work]:
    """Run the body of a ``with`` statement as ``work``; raises `RequestRefused` before it, and what the body raises."""
    if work.exemption is None:
        admit(work, pipeline)
    with carry_out(work, pipeline):
        yield work


@contextmanager
def carry_out(work: Work, pipeline: Pipeline) -> Iterator[Work]:
    """Do the same with work that has been admitted already."""
    token = enter(work)
    try:
        yield work
    except BaseException as error:
        work.failed(error)
        raise
    finally:
        leave(token)
        conclude(work, pipeline)
