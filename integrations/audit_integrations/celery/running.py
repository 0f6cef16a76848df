"""What a worker calls for a task: the task's own ``run`` between its attempt and its record."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from billiard import current_process
from billiard.exceptions import SoftTimeLimitExceeded
from celery._state import _task_stack  # type: ignore[attr-defined] # left out of the stubs
from celery.exceptions import Ignore, Reject, Retry

from audit_middleware.capture import Exchange, Runs, Work, admit, carry_out, exchange_at_hand
from audit_middleware.capture.runs import CARRIER, DEFER_S
from audit_middleware.errors import RequestRefused

WORK: Final = "audit_work"
"""The attribute of a task's request that holds its work, for what the worker sends after the task returned."""
_WRAPPED: Final = "__audited_run__"


def is_own(task: Any) -> bool:  # noqa: ANN401 - Celery's tasks are typed by their arguments
    """Say whether a task is one of Celery's: they keep results and canvases going, for nobody."""
    return str(task.name).startswith("celery.")


def begin(task: Any, request: Any, runs: Runs, function: object = None) -> Work:  # noqa: ANN401 - a task and its request
    """Return the work that a request for a task comes to; with the ``function`` that is about to run for it, if any."""
    delivery = request.delivery_info or {}
    return runs.begin(
        str(task.name),
        "task",
        id=request.id,
        queue=delivery.get("routing_key"),
        tries=(request.retries or 0) + 1,
        sealed=getattr(request, CARRIER, None),
        function=function,
        is_new=function is not None and not delivery.get("redelivered"),
    )


def wrap(task: Any, runs: Runs) -> None:  # noqa: ANN401 - Celery's tasks are typed by their arguments
    """Let ``task.run`` be on record; called as a function, or eagerly, it is a part of the request or task at hand."""
    run = task.run
    if hasattr(run, _WRAPPED):
        return

    @functools.wraps(run)
    def audited_run(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - the task's own
        request = _request_of(task)
        exchange = exchange_at_hand()
        if (request is None or request.is_eager) and exchange is not None and not exchange.is_closed:
            return run(*arguments, **named)
        work = _begin_run(task, request, runs, run)
        with carry_out(work, runs.pipeline):
            try:
                return run(*arguments, **named)
            except BaseException as error:
                _note(work, error)
                raise

    setattr(audited_run, _WRAPPED, True)
    task.run = audited_run


def sender(runs: Runs) -> Exchange | None:
    """Return who sends a task: the request or task at hand, or the task whose chain, chord or callbacks go on."""
    exchange = exchange_at_hand()
    if exchange is not None and not exchange.is_closed:
        return exchange
    for task in reversed(_task_stack.stack):
        work = getattr(task.request, WORK, None)
        if isinstance(work, Work):
            return work
        if is_own(task):  # such as the one that waits for the parts of a chord
            work = begin(task, task.request, runs)
            return work if work.cause is not None else exchange
    return exchange


def _begin_run(task: Any, request: Any, runs: Runs, run: object) -> Work:  # noqa: ANN401 - a task and its request
    """Return work that was admitted; raise what tells Celery, or whoever calls, that it must not run now."""
    if request is None:  # called as a function, such as a callback for errors is, where nothing is at hand
        work = runs.begin(str(task.name), "task", function=run)
        before = sender(runs)
        if before is not None:
            work.follow(before)
    else:
        work = begin(task, request, runs, run)
        setattr(request, WORK, work)
    if work.exemption is None:
        try:
            admit(work, runs.pipeline)
        except RequestRefused as refused:
            if request is None or request.is_eager:
                raise
            runs.again(work, getattr(request, CARRIER, None))
            raise _deferred(task, request, refused) from refused
    return work


def _request_of(task: Any) -> Any:  # noqa: ANN401 - a request of Celery's
    """Return the worker's request that this run is for; None for a function call.

    A base class whose ``__call__`` calls Celery's puts a request of its own above the worker's.
    """
    request = next((each for each in reversed(task.request_stack.stack) if not each.called_directly), None)
    return request if request is not None and getattr(request, WORK, None) is None else None


def _note(work: Work, error: BaseException) -> None:
    """Say how it ended, where Celery's own exceptions know better than that one was raised."""
    if isinstance(error, Retry):
        work.end = "retry"
        work.reason = type(error.exc).__name__ if error.exc is not None else "Retry"
    elif isinstance(error, Reject):
        work.end = "retry" if getattr(error, "requeue", False) else "exception"
    elif isinstance(error, Ignore):
        work.end = "complete"
    elif isinstance(error, SoftTimeLimitExceeded):
        work.end = "timeout"
    elif isinstance(error, SystemExit | KeyboardInterrupt) and current_process().daemon:
        work.is_closed = True  # this process of a pool ends, by a signal most often: the main one has it on record


def _deferred(task: Any, request: Any, refused: RequestRefused) -> Exception:  # noqa: ANN401 - a task and its request
    """Send the task again, to be run later, and return what tells Celery so; its own retries are not used up."""
    try:
        again = task.signature_from_request(request, countdown=DEFER_S, retries=request.retries or 0)
        again.apply_async()
    except Exception as error:  # noqa: BLE001 - a broker's client may raise anything
        # a message that is acknowledged late is still the broker's; any other is on record as failed, at the least
        return Reject(error, requeue=True) if task.acks_late else refused
    return Retry(str(refused), refused, datetime.now(UTC) + timedelta(seconds=DEFER_S))
