"""What the worker's main process learns of runs whose process is gone: lost, killed, or out of time."""

from __future__ import annotations

import os
from typing import Any, Final

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from kombu.utils.imports import symbol_by_name

from audit_integrations.celery.running import begin
from audit_middleware.capture import Runs
from audit_middleware.record import TaskEnded

_WATCHED: Final = "__audited_request__"
_GONE: Final = (WorkerLostError, SystemExit, KeyboardInterrupt)
"""What billiard says of a process that ended with its task: a signal lets it exit, see `running`."""


def watched(task: Any, runs: Runs) -> None:  # noqa: ANN401 - Celery's tasks are typed by their arguments
    """Let the class of the requests for a task, which may be replaced, see the ends that no process survives."""
    base: Any = symbol_by_name(task.Request)
    if hasattr(base, _WATCHED):
        return

    class Request(base):  # type: ignore[misc] # whatever the task has
        __audited_request__ = True

        def on_failure(self, exc_info: Any, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - Celery's own
            error = exc_info.exception
            self._audit_end(getattr(error, "exc", error))  # billiard wraps it to carry its traceback
            return super().on_failure(exc_info, *arguments, **named)

        def on_timeout(self, soft: bool, timeout: float) -> Any:  # noqa: ANN401, FBT001 - Celery's own
            if not soft:
                self._audit_end(TimeLimitExceeded(timeout))
            return super().on_timeout(soft, timeout)

        def _audit_end(self, error: object) -> None:
            is_late = isinstance(error, TimeLimitExceeded)
            if self.worker_pid == os.getpid() or not (is_late or isinstance(error, _GONE)):
                return  # the process that ran it lives, and has it on record
            if getattr(self, "_audit_ended", False) or self._already_revoked or self._already_cancelled:
                return
            self._audit_ended = True
            ended: TaskEnded = "timeout" if is_late else "killed"
            runs.end(begin(task, self._context, runs), ended, type(error).__name__, self.time_start)

    task.Request = Request
