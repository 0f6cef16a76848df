"""RQ: a job class that runs on record, for whoever enqueued it, and workers that see their work-horse killed.

``Queue(connection=redis, job_class=AuditJob)`` where jobs are enqueued, and
``rq worker --worker-class audit_integrations.rq.AuditWorker``.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final

from audit_middleware import ConfigurationError, Pipeline
from audit_middleware.capture import Runs, Work, admit, carry_out, exchange_at_hand
from audit_middleware.capture.runs import CARRIER, DEFER_S
from audit_middleware.errors import RequestRefused

try:
    from rq import Retry, SimpleWorker, Worker
    from rq.job import Job
    from rq.timeouts import JobTimeoutException
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("RQ is missing: pip install 'audit-ready[rq]'", name=error.name) from error

__all__ = ["AuditJob", "AuditSimpleWorker", "AuditWorker", "configure"]

_ALWAYS: Final = 1_000_000
"""Tries that a job has whose record cannot be kept: they are not its own."""
_RUNS: Final = "audit_runs"
_configured: list[Runs] = []


def configure(*, pipeline: Pipeline | None = None, **settings: Any) -> None:  # noqa: ANN401 - settings of any type
    """Say how this process records jobs, where the environment does not; raise `ConfigurationError` for errors."""
    _configured[:] = [Runs(pipeline, settings, lambda: None)]


def _runs() -> Runs:
    if not _configured:
        configure()
    return _configured[0]


def _begin(job: Any, function: object = None) -> Work:  # noqa: ANN401 - a job of any class
    return _runs().begin(
        str(job.func_name),
        "task",
        id=job.id,
        queue=job.origin,
        tries=_runs_before(job) + 1,
        sealed=job.meta.get(CARRIER),
        function=function,
        is_new=function is not None,
    )


def _runs_before(job: Any) -> int:  # noqa: ANN401 - a job of any class
    """Return how often a job ran: RQ counts down what is left of its retries, and not up."""
    count = job.meta.get(_RUNS)
    return count if type(count) is int and count >= 0 else 0


class AuditJob(Job):
    """A job whose runs are on record, for whoever enqueued it: the context is in its ``meta``."""

    def save(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - RQ's own
        """Save it, with the sealed context of the request or job that enqueues it."""
        exchange = exchange_at_hand()
        if exchange is not None and not (isinstance(exchange, Work) and exchange.id == self.id):
            try:
                sealed = _runs().seal(str(self.func_name), self.id, exchange)
            except ConfigurationError:  # said by whoever loaded it; a job without a context is no person's
                sealed = None
            if sealed is not None:
                self.meta[CARRIER] = sealed
        super().save(*arguments, **named)

    def _execute(self) -> Any:  # noqa: ANN401 - the job's own
        runs = _runs()
        work = _begin(self, self.func)
        if work.exemption is None:
            try:
                admit(work, runs.pipeline)
            except RequestRefused:
                runs.again(work, self.meta.get(CARRIER))
                return self._later()
        self._count()
        with carry_out(work, runs.pipeline):
            try:
                result = super()._execute()
            except JobTimeoutException:
                work.end = "timeout"
                raise
            except Exception:
                work.end = "retry" if self.should_retry else None
                raise
            if isinstance(result, Retry):
                work.end, work.reason = "retry", "Retry"
            return result

    def _later(self) -> Retry:
        """Let the job come again, as if this had been no try; its time limit runs already, and is not to be met."""
        limit: Any = self.timeout
        is_short = isinstance(limit, int | float) and 0 < limit < 2 * DEFER_S
        time.sleep(limit / 2 if is_short else DEFER_S)  # an interval would need RQ's scheduler, which may not run
        self.number_of_retries = (self.number_of_retries or 0) - 1  # RQ adds one
        return Retry(max=_ALWAYS)

    def _count(self) -> None:
        self.meta[_RUNS] = _runs_before(self) + 1
        with contextlib.suppress(Exception):  # the broker does not answer: a number, and no reason not to run
            self.save_meta()  # type: ignore[no-untyped-call] # RQ's own


class _Watching:
    """What both workers do: they take `AuditJob`, and ship what their work-horses leave."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - RQ's own
        if named.get("job_class") in {None, Job}:
            named["job_class"] = AuditJob
        super().__init__(*arguments, **named)
        _runs()  # a wrong setting is said now

    def work(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - RQ's own
        """Start to work, and to deliver."""
        _runs().pipeline.start()
        return super().work(*arguments, **named)  # type: ignore[misc] # of the worker beside this class

    def perform_job(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - RQ's own
        """Run a job; a work-horse closes its stream after it, because it ends by ``os._exit``."""
        try:
            return super().perform_job(*arguments, **named)  # type: ignore[misc] # of the worker beside this class
        finally:
            if getattr(self, "_is_horse", False):
                _runs().pipeline.recorder.close()

    def handle_work_horse_killed(self, job: Any, *arguments: Any) -> None:  # noqa: ANN401 - a job of any class
        """The process that ran ``job`` is gone, and left an attempt."""
        _runs().end(_begin(job), "killed", "WorkHorseKilled", _began(job))
        job.meta[_RUNS] = _runs_before(job) + 1  # saved when it is tried again
        super().handle_work_horse_killed(job, *arguments)  # type: ignore[misc] # of the worker beside this class

    def handle_job_failure(self, job: Any, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - a job of any class
        """The same for one that was stopped on request; how others fail is on record where they ran."""
        if getattr(self, "_stopped_job_id", None) == job.id:
            work = _begin(job)
            work.outcome = "failure"  # it had begun
            _runs().end(work, "revoked", "stopped", _began(job))
        super().handle_job_failure(job, *arguments, **named)  # type: ignore[misc] # of the worker beside this class


def _began(job: Any) -> float | None:  # noqa: ANN401 - a job of any class
    return job.started_at.timestamp() if job.started_at is not None else None


class AuditWorker(_Watching, Worker):
    """RQ's worker, which forks a work-horse for each job."""


class AuditSimpleWorker(_Watching, SimpleWorker):
    """RQ's worker that runs jobs in its own process."""
