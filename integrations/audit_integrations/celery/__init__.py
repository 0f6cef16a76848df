"""Celery: one line audits every task of an app, and each runs for whoever sent it.

The end of a run is on record in the process that ran it; that of one whose process was killed, in the worker's main
process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from audit_middleware import ConfigurationError, Pipeline
from audit_middleware.capture import ANY, Declaration, EntryPoint, Runs
from audit_middleware.capture.rules import rules_of
from audit_middleware.capture.runs import CARRIER

try:
    from celery import Celery, signals
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("Celery is missing: pip install 'audit-ready[celery]'", name=error.name) from error

from audit_integrations.celery.running import begin, is_own, wrap
from audit_integrations.celery.running import sender as sender_of
from audit_integrations.celery.watching import watched

__all__ = ["Audit", "entry_points"]

_AUDIT: Final = "__audit__"


class Audit:
    """Record every run of every task of a Celery app: ``Audit(app)``, in the worker and in whatever sends tasks.

    Settings come from here, then from the environment. The service is called as the app is. Raises
    `ConfigurationError` for wrong settings, or when the app is audited already.
    """

    def __init__(
        self,
        app: Celery,
        *,
        pipeline: Pipeline | None = None,
        **settings: Any,  # noqa: ANN401 - settings of any type
    ) -> None:
        if getattr(app, _AUDIT, None) is not None:
            raise ConfigurationError(f"audit.E012: {app.main} is audited already: remove the second Audit(app)")
        self.app = app
        self.runs = Runs(pipeline, settings, lambda: app.main)
        setattr(app, _AUDIT, self)
        self._follow_tasks()
        app.on_after_finalize.connect(self._prepare, weak=False)
        signals.worker_init.connect(self._prepare_worker, weak=False)
        signals.worker_ready.connect(self._ship, weak=False)
        signals.worker_process_shutdown.connect(self._close, weak=False)
        signals.before_task_publish.connect(self._send, weak=False)
        signals.task_revoked.connect(self._revoked, weak=False)
        if getattr(app, "finalized", False):
            self._prepare()

    def _follow_tasks(self) -> None:
        """Wrap each task when it is made: one that runs eagerly, or is called, may do so in an app never finalized."""
        app: Any = self.app
        make, register = app._task_from_fun, app.register_task  # noqa: SLF001 - Celery tells nobody else of a new task
        app._task_from_fun = lambda *how, **more: self._wrapped(make(*how, **more))  # noqa: SLF001 - the same
        app.register_task = lambda *how, **more: self._wrapped(register(*how, **more))
        for promised in app._pending:  # noqa: SLF001 - made before, and not finalized
            promised.__then__(self._wrapped, promised)

    def _wrapped(self, task: Any) -> Any:  # noqa: ANN401 - Celery's tasks are typed by their arguments
        if not is_own(task):
            wrap(task, self.runs)
            watched(task, self.runs)
        return task

    def _prepare(self, **_: object) -> None:
        """Wrap every task there is: a worker builds what it calls after that."""
        for task in self.app.tasks.values():
            self._wrapped(task)

    def _prepare_worker(self, sender: Any, **_: object) -> None:  # noqa: ANN401 - a worker of Celery's
        if sender.app is self.app:  # tasks may have come since the app was finalized
            self._prepare()

    def _ship(self, sender: Any, **_: object) -> None:  # noqa: ANN401 - the consumer of a worker of Celery's
        """Declare the tasks, and deliver what the processes of the pool leave: the last has nobody after it.

        The main process alone declares them: one of a pool may run a single task, and comes and goes.
        """
        if sender.app is self.app:
            name = f"celery {self.app.main}" if self.app.main else "celery"
            find = partial(entry_points, self.app)
            self.runs.declare(Declaration(name, find, ("celery", "kombu", "billiard"), os.getpid()))
            self.runs.pipeline.start()

    def _close(self, **_: object) -> None:
        """Close the stream of a process of the pool that ends in peace: it ends by ``os._exit``."""
        self.runs.pipeline.recorder.close()

    def _send(self, sender: object = None, headers: dict[str, Any] | None = None, **_: object) -> None:
        """A task is about to be sent; its id is in the headers since version 2 of Celery's message protocol."""
        if headers is None or not isinstance(headers.get("id"), str):
            return
        sealed = self.runs.seal(str(sender), headers["id"], sender_of(self.runs))
        if sealed is not None:
            headers[CARRIER] = sealed

    def _revoked(self, sender: Any, request: Any, **how: object) -> None:  # noqa: ANN401 - a task and its request
        if sender.app is not self.app or is_own(sender):
            return
        work = begin(sender, request, self.runs)
        if how.get("terminated"):  # it had begun
            work.outcome = "failure"
        reason = "terminated" if how.get("terminated") else "expired" if how.get("expired") else "revoked"
        self.runs.end(work, "revoked", reason, getattr(request, "time_start", None))


def entry_points(app: Celery) -> Iterator[EntryPoint]:
    """Yield every task of an app but Celery's own."""
    for task in list(app.tasks.values()):
        if not is_own(task):
            rules = rules_of(task.run)
            exemption = rules.exemption if rules is not None else None
            yield EntryPoint("task", ANY, str(task.name), "", exemption)
