"""An application's own way to name the principal of a request, contained: it may raise or never come back."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
import queue
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from audit_middleware.record import UNKNOWN, Principal

Identify = Callable[[MutableMapping[str, Any]], object | Awaitable[object]]
IDENTIFY_TIMEOUT_S: Final = 2.0
MAX_THREADS: Final = 8
IDLE_S: Final = 60.0
LOGGER: Final = logging.getLogger("audit_middleware")
FAILED: Final = {"id": None, "type": UNKNOWN, "auth": UNKNOWN}
_FAILURE: Final = "audit: identify failed; the principal of this request is on record as unknown"

_Job = tuple[Future[object], Callable[[], object]]


class BoundedCaller:
    """Runs functions that may hang, on daemon threads that may be left behind; at most `MAX_THREADS` of them.

    No executor of the standard library will do: those wait for their threads when the process ends.
    """

    def __init__(self) -> None:
        self._reset()

    def submit(self, function: Callable[[], object]) -> Future[object]:
        """Run ``function`` in the caller's context variables on another thread; never blocks.

        With every thread busy it waits in the queue, and is dropped when it was cancelled before its turn came.
        """
        if os.getpid() != self._pid:
            self._reset()  # threads do not survive a fork
        future: Future[object] = Future()
        job = (future, partial(contextvars.copy_context().run, function))
        with self._lock:
            self._jobs.put(job)
            self._load += 1
            starts = self._threads < min(self._load, MAX_THREADS)
            self._threads += starts
        if starts:
            threading.Thread(target=self._run, name="audit-identify", daemon=True).start()
        return future

    def _run(self) -> None:
        while (job := self._next()) is not None:
            future, function = job
            if future.set_running_or_notify_cancel():
                _settle(future, function)
            with self._lock:
                self._load -= 1

    def _next(self) -> _Job | None:
        """Wait for a job; None when there was none for long and this thread shall end."""
        while True:
            try:
                return self._jobs.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._jobs.empty():
                        self._threads -= 1
                        return None

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._load = 0  # jobs that are waiting or running
        self._threads = 0


def _settle(future: Future[object], function: Callable[[], object]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - an application's own code; SystemExit must not end its caller
        future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))


CALLER: Final = BoundedCaller()


def identified(identify: Identify, request: Any) -> object:  # noqa: ANN401 - what the protocol calls a request
    """Return what ``identify`` says of a request: a `Principal`, a name, a user object, or None for nobody.

    It runs on a thread of its own, in the context variables of the caller. One that raises, or takes longer than
    `IDENTIFY_TIMEOUT_S`, is logged and becomes an unknown principal, which is a defect of the record and not an error
    of the request.
    """
    future = CALLER.submit(partial(identify, request))
    try:
        said = future.result(IDENTIFY_TIMEOUT_S)
        if inspect.isawaitable(said):
            if inspect.iscoroutine(said):
                said.close()
            raise TypeError(f"{identify!r} returned {type(said).__name__}, and nobody can await it here")  # noqa: TRY301 - one way out
        return said  # noqa: TRY300 - symmetric with the other way out
    except Exception:
        future.cancel()
        LOGGER.exception(_FAILURE)
        return FAILED


async def identified_async(identify: Identify, scope: MutableMapping[str, Any]) -> object:
    """Do the same without blocking the event loop; a coroutine function runs in it.

    One that does not even end when it is cancelled is left behind.
    """
    asking = asyncio.ensure_future(_ask(identify, scope))
    try:
        done, _ = await asyncio.wait([asking], timeout=IDENTIFY_TIMEOUT_S)
        if done and not asking.cancelled():
            return asking.result()
        why = "it cancelled itself" if done else f"no answer within {IDENTIFY_TIMEOUT_S} s"
        LOGGER.error("%s: %s", _FAILURE, why)
    except Exception:
        LOGGER.exception(_FAILURE)
    finally:
        asking.cancel()
    return FAILED


async def _ask(identify: Identify, scope: MutableMapping[str, Any]) -> object:
    if inspect.iscoroutinefunction(identify) or inspect.iscoroutinefunction(getattr(identify, "__call__", None)):  # noqa: B004 - an object whose __call__ is a coroutine function
        said: object = identify(scope)
    else:
        said = await asyncio.wrap_future(CALLER.submit(partial(identify, scope)))
    try:
        return await said if inspect.isawaitable(said) else said
    except SystemExit as error:  # an application's own code; it must not end the event loop
        raise RuntimeError(repr(error)) from error


__all__ = ["Identify", "Principal", "identified", "identified_async"]
