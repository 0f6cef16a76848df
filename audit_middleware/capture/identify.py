"""An application's own way to name the principal of a request, contained: it may raise or never come back."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
import queue
import threading
import time
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
MAX_GIVEN_UP: Final = 3
PAUSE_S: Final = 5.0
FAILED: Final = {"id": None, "type": UNKNOWN, "auth": UNKNOWN}
_FAILURE: Final = "audit: identify failed; the principal of this request is on record as unknown"
_PAUSED: Final = (
    "audit: identify was given up %d times in a row, and requests do not wait for it any more: their principals are on "
    "record as unknown. It is tried again every %g s; look at what it asks"
)

_Job = tuple[Future[object], Callable[[], object]]


class GivenUp(TimeoutError):
    """A function did not come back in time, or was not called because those before it hold every thread."""


class Patience:
    """Whether ``identify`` is waited for: not after `MAX_GIVEN_UP` calls in a row that were given up.

    Then one request tries it again every `PAUSE_S`, until it answers. Threads may race here for a try more or less,
    which a lock would cost more than.
    """

    __slots__ = ("_in_a_row", "_until")

    def __init__(self) -> None:
        self._in_a_row = 0
        self._until = 0.0
        """When the next request tries it; 0 while all wait for it."""

    @property
    def is_over(self) -> bool:
        """Whether this request does not wait."""
        if not self._until:
            return False
        now = time.monotonic()
        if now < self._until:
            return True
        self._until = now + PAUSE_S
        return False

    def answered(self) -> None:
        """It came back in time, if only with an exception."""
        if self._in_a_row:
            if self._until:
                LOGGER.warning("audit: identify answers again")
            self._in_a_row, self._until = 0, 0.0

    def gave_up(self) -> None:
        """It did not come back in time."""
        self._in_a_row += 1
        if self._in_a_row < MAX_GIVEN_UP:
            LOGGER.error("%s: no answer within %g s", _FAILURE, IDENTIFY_TIMEOUT_S)
            return
        if not self._until:
            LOGGER.error(_PAUSED, MAX_GIVEN_UP, PAUSE_S)
        self._until = time.monotonic() + PAUSE_S


class BoundedCaller:
    """Runs functions that may hang, on daemon threads that may be left behind; at most `MAX_THREADS` of them.

    No executor of the standard library will do: those wait for their threads when the process ends.
    """

    def __init__(self) -> None:
        self._reset()

    def submit(self, function: Callable[[], object]) -> Future[object]:
        """Run ``function`` in the caller's context variables on another thread; never blocks.

        With every thread busy it waits in the queue, and is dropped when it was given up before its turn came. The
        future raises `GivenUp` at once when no turn can be expected.
        """
        if os.getpid() != self._pid:
            self._reset()  # threads do not survive a fork
        future: Future[object] = Future()
        if len(self._held_by) >= MAX_THREADS:
            future.set_exception(GivenUp(f"{MAX_THREADS} calls that were given up have not ended"))
            return future
        job = (future, partial(contextvars.copy_context().run, function))
        with self._lock:
            self._jobs.put(job)
            self._load += 1
            starts = self._threads < min(self._load, MAX_THREADS)
            self._threads += starts
        if starts:
            threading.Thread(target=self._run, name="audit-identify", daemon=True).start()
        return future

    def give_up(self, future: Future[object]) -> None:
        """Nobody waits for ``future`` any more; what has begun holds its thread until it ends."""
        if not future.cancel():
            with self._lock:
                if not future.done():
                    self._held_by.add(future)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            future, function = job
            if future.set_running_or_notify_cancel():
                _settle(future, function)
            with self._lock:
                self._load -= 1
                self._held_by.discard(future)

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
        self._held_by: set[Future[object]] = set()


def _settle(future: Future[object], function: Callable[[], object]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - an application's own code; SystemExit must not end its caller
        future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))


CALLER: Final = BoundedCaller()


def identified(identify: Identify, request: Any, patience: Patience) -> object:  # noqa: ANN401 - what the protocol calls a request
    """Return what ``identify`` says of a request: a `Principal`, a name, a user object, or None for nobody.

    It runs on a thread of its own, in the context variables of the caller. One that raises, or takes longer than
    `IDENTIFY_TIMEOUT_S`, is logged and becomes an unknown principal, which is a defect of the record and not an error
    of the request. ``patience`` is what this ``identify`` has left.
    """
    if patience.is_over:
        return FAILED
    try:
        said = called(identify, request)
    except Exception as error:  # noqa: BLE001 - an application's own code
        return _failed(error, patience)
    patience.answered()
    return said


def called(identify: Identify, request: Any) -> object:  # noqa: ANN401 - what the protocol calls a request
    """Return what ``identify`` says, or raise what it raises; `GivenUp` when that takes too long."""
    future = CALLER.submit(partial(identify, request))
    try:
        said = future.result(IDENTIFY_TIMEOUT_S)
    except TimeoutError as error:
        if future.done():  # its own
            raise
        raise GivenUp from error
    finally:
        if not future.done():
            CALLER.give_up(future)
    if inspect.isawaitable(said):
        if inspect.iscoroutine(said):
            said.close()
        raise TypeError(f"{identify!r} returned {type(said).__name__}, and nobody can await it here")
    return said


async def identified_async(identify: Identify, scope: MutableMapping[str, Any], patience: Patience) -> object:
    """Do the same without blocking the event loop; a coroutine function runs in it.

    One that does not even end when it is cancelled is left behind.
    """
    if patience.is_over:
        return FAILED
    asking = asyncio.ensure_future(_ask(identify, scope))
    try:
        done, _ = await asyncio.wait([asking], timeout=IDENTIFY_TIMEOUT_S)
        if not done:
            patience.gave_up()
            return FAILED
        if asking.cancelled():
            raise RuntimeError("it cancelled itself")  # noqa: TRY301 - one way out
        said = asking.result()
    except Exception as error:  # noqa: BLE001 - an application's own code
        return _failed(error, patience)
    finally:
        asking.cancel()
    patience.answered()
    return said


async def _ask(identify: Identify, scope: MutableMapping[str, Any]) -> object:
    if inspect.iscoroutinefunction(identify) or inspect.iscoroutinefunction(getattr(identify, "__call__", None)):  # noqa: B004 - an object whose __call__ is a coroutine function
        said: object = identify(scope)
    else:
        future = CALLER.submit(partial(identify, scope))
        try:
            said = await asyncio.wrap_future(future)
        finally:
            if not future.done():
                CALLER.give_up(future)
    try:
        return await said if inspect.isawaitable(said) else said
    except SystemExit as error:  # an application's own code; it must not end the event loop
        raise RuntimeError(repr(error)) from error


def _failed(error: Exception, patience: Patience) -> object:
    if isinstance(error, GivenUp):
        patience.gave_up()
    else:
        LOGGER.error(_FAILURE, exc_info=error)
        patience.answered()
    return FAILED


__all__ = ["Identify", "Patience", "Principal", "called", "identified", "identified_async"]
