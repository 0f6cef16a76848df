"""APScheduler 3: one line audits every job of a scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from audit_middleware import ConfigurationError, Pipeline
from audit_middleware.capture import ANY, Declaration, EntryPoint, Runs, Work, admit, carry_out
from audit_middleware.capture.rules import rules_of
from audit_middleware.capture.runs import DEFER_S
from audit_middleware.errors import RequestRefused

try:
    from apscheduler.events import EVENT_EXECUTOR_ADDED, EVENT_JOB_MISSED, EVENT_SCHEDULER_STARTED
    from apscheduler.executors.pool import ProcessPoolExecutor
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "APScheduler 3 is missing: pip install 'audit-ready[apscheduler]'", name=error.name
    ) from error

__all__ = ["Audit", "entry_points"]


class Audit:
    """Record every run of every job: ``Audit(scheduler)``, before it starts.

    Settings come from here, then from the environment. Raises `ConfigurationError` for wrong settings, and for a pool
    of processes, which is logged where it is added later: decorate the functions of its jobs with ``@audited`` instead.
    """

    def __init__(
        self,
        scheduler: Any,  # noqa: ANN401 - APScheduler 3 has no types
        *,
        pipeline: Pipeline | None = None,
        **settings: Any,  # noqa: ANN401 - settings of any type
    ) -> None:
        self._scheduler = scheduler
        self._runs = Runs(pipeline, settings, lambda: None)
        self._executors: set[int] = set()
        self._wrap()
        scheduler.add_listener(lambda _: self._wrap(), EVENT_EXECUTOR_ADDED | EVENT_SCHEDULER_STARTED)
        scheduler.add_listener(lambda _: self._declare(), EVENT_SCHEDULER_STARTED)
        scheduler.add_listener(self._missed, EVENT_JOB_MISSED)

    def _declare(self) -> None:
        """Declare the jobs that there are when the scheduler starts; those that come later are not known yet."""
        self._runs.declare(Declaration("apscheduler", partial(entry_points, self._scheduler), ("apscheduler",)))
        self._runs.pipeline.announce()

    def _wrap(self) -> None:
        for executor in self._scheduler._executors.values():  # noqa: SLF001 - there is no other way to them
            if isinstance(executor, ProcessPoolExecutor):
                raise ConfigurationError("audit.E016: jobs in a pool of processes are not seen: use @audited for those")
            if id(executor) not in self._executors:
                self._executors.add(id(executor))
                executor.submit_job = self._submitting(executor.submit_job)

    def _submitting(self, submit: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def submit_job(job: Any, run_times: Any) -> None:  # noqa: ANN401 - APScheduler 3 has no types
            submit(_Run(job, self._running(job)), run_times)

        return submit_job

    def _running(self, job: Any) -> Callable[..., Any]:  # noqa: ANN401 - APScheduler 3 has no types
        """Return what the executor calls in the place of the job's function."""
        function = job.func
        if inspect.iscoroutinefunction(function):

            async def run_async(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the job's own
                work = self._begin(job)
                if not self._is_admitted(work, job):
                    return None
                with carry_out(work, self._runs.pipeline):
                    return await function(*arguments, **named)

            return run_async

        def run(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the job's own
            work = self._begin(job)
            if not self._is_admitted(work, job):
                return None
            with carry_out(work, self._runs.pipeline):
                return function(*arguments, **named)

        return run

    def _begin(self, job: Any) -> Work:  # noqa: ANN401 - APScheduler 3 has no types
        return self._runs.begin(str(job.name), "schedule", id=str(job.id), function=job.func)

    def _is_admitted(self, work: Work, job: Any) -> bool:  # noqa: ANN401 - APScheduler 3 has no types
        """Say whether a job may run; one that may not, because its record cannot be kept, comes again."""
        if work.exemption is not None:
            return True
        try:
            admit(work, self._runs.pipeline)
        except RequestRefused:
            when = datetime.now(UTC) + timedelta(seconds=DEFER_S)
            self._scheduler.add_job(
                job.func, "date", job.args, job.kwargs, name=job.name, run_date=when, misfire_grace_time=None
            )
            return False
        return True

    def _missed(self, event: Any) -> None:  # noqa: ANN401 - APScheduler 3 has no types
        """A run whose time had passed did not take place."""
        job = self._scheduler.get_job(event.job_id)
        name = str(job.name if job is not None else event.job_id)
        self._runs.end(self._runs.begin(name, "schedule", id=str(event.job_id)), "revoked", "missed")


def entry_points(scheduler: Any) -> Iterator[EntryPoint]:  # noqa: ANN401 - APScheduler 3 has no types
    """Yield every job that a scheduler has at this moment."""
    for job in scheduler.get_jobs():
        rules = rules_of(job.func)
        yield EntryPoint("schedule", ANY, str(job.name), str(job.id), rules.exemption if rules is not None else None)


class _Run:
    """A job as executors see it, with another function; the job itself stays as its store has it."""

    def __init__(self, job: Any, function: Callable[..., Any]) -> None:  # noqa: ANN401 - APScheduler 3 has no types
        self.func = function
        self._job = job

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a job has
        return getattr(self._job, name)

    def __str__(self) -> str:
        return str(self._job)
