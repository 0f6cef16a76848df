"""The thread of one sink: one turn after the other, longer pauses while it fails, and what can be said of it."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import Final, Literal, Protocol

import msgspec

from audit_middleware.collector.alerts.door import LONGEST_HELD, AlertFailed
from audit_middleware.collector.monitor.clock import Now, real_clock

LONGEST_PAUSE: Final = 60.0
JOIN_SECONDS: Final = 2.0
"""A sink that hangs does not hold the end of the collector: what it was not told, it is told at the next start."""

_uniform: Final = random.SystemRandom().uniform
_log: Final = logging.getLogger(__name__)

Result = Literal["sent", "failed"]


class Task(Protocol):
    """What a worker does."""

    def turn(self, now: Now) -> str | None:
        """Send what is due; return what came back, None when nothing was due. Raises `AlertFailed`."""

    def close(self) -> None:
        """Give back connections."""


class SinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a sink does; times as records spell them, ``failures`` in a row."""

    name: str
    kind: str
    is_failing: bool = False
    failures: int = 0
    last_success: str | None = None
    last_success_at: float = 0.0
    last_error: str | None = None


class Worker:
    """Runs a `Task` in a thread of its own. ``pause`` is seconds between two looks."""

    def __init__(
        self,
        name: str,
        kind: str,
        task: Task,
        *,
        pause: float = 1.0,
        clock: Callable[[], Now] = real_clock,
        count: Callable[[str, Result], None] = lambda _name, _result: None,
    ) -> None:
        self.status = SinkStatus(name=name, kind=kind)
        self._task = task
        self._pause = pause
        self._clock = clock
        self._count = count
        self._try_at = 0.0
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"audit-alerts-{name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to look at; never waits."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread, which may take as long as a request; it is not waited for longer than `JOIN_SECONDS`."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def turn(self) -> None:
        """Do one turn, unless the last failure is too fresh; never raises."""
        now = self._clock()
        if now.mono < self._try_at:
            return
        try:
            answer = self._task.turn(now)
        except AlertFailed as error:
            self._failed(str(error), error.retry_after)
        except Exception as error:  # noqa: BLE001 - named containment point: a fault of ours must not end the alerts
            _log.exception("the alerts of %s failed at something, and go on", self.status.name)
            self._failed(f"{type(error).__name__}, see the log", None)
        else:
            if answer is not None:
                self._succeeded(answer)

    def _run(self) -> None:
        while not self._stopping:
            self.turn()
            self._wake.wait(self._pause)
            self._wake.clear()
        self._task.close()

    def _succeeded(self, answer: str) -> None:
        now, was = self._clock(), self.status
        level = logging.INFO if was.is_failing else logging.DEBUG
        _log.log(level, "alert sink %s took a message: %s", was.name, answer)
        self._try_at = 0.0
        self.status = SinkStatus(name=was.name, kind=was.kind, last_success=now.text, last_success_at=now.wall)
        self._count(was.name, "sent")

    def _failed(self, reason: str, retry_after: float | None) -> None:
        was, now = self.status, self._clock()
        failures = was.failures + 1
        longest = min(LONGEST_PAUSE, 2.0 ** min(failures - 1, 16))
        pause = min(retry_after, LONGEST_HELD) if retry_after else _uniform(longest / 2, longest)
        self._try_at = now.mono + pause
        self.status = msgspec.structs.replace(was, is_failing=True, failures=failures, last_error=reason)
        self._count(was.name, "failed")
        level = logging.ERROR if failures == 1 else logging.WARNING
        _log.log(level, "alert sink %s failed %d times, next try in %.0f s: %s", was.name, failures, pause, reason)
