"""One thread that commits: everything that waits becomes one group, one fsync, one signature.

A store that is away ends no collector: what was being committed is given back to its senders, who ask again, and the
thread opens the ledgers anew until that succeeds, which finds out how far the commit came.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final, Literal, Protocol

from audit_middleware.collector.group import Batch
from audit_middleware.collector.limits import Limits
from audit_middleware.collector.problems import Problem, busy
from audit_middleware.errors import StoreFull, StoreUnavailable

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 15.0
"""Seconds between two attempts at going on; doubled each time."""
SLOW_SECONDS: Final = 5.0
"""A commit that takes longer is waited for like a pause: what is delivered meanwhile is not heard before it is over."""
_RETRY_AFTER: Final = {"starting": 1, "recovering": 5}
_log: Final = logging.getLogger(__name__)

State = Literal["starting", "ready", "recovering", "failed", "closed"]


class Work(Protocol):
    """What the thread does; anything it raises but `StoreUnavailable` ends accepting for good."""

    def start(self) -> None:
        """Get ready to commit; may take long."""

    def commit(self, batches: Sequence[Batch]) -> None:
        """Make the batches durable and resolve them."""

    def recover(self) -> None:
        """Find out what became of a commit that the store did not take, and get ready to go on."""

    def beat(self) -> None:
        """Say that the collector lives."""

    def stop(self) -> None:
        """Say goodbye."""


class Committer:
    """Takes batches from any thread and commits them in groups in its own. After any other failure it stays closed.

    ``blocked`` says why nothing is taken until somebody sees to it, and is empty else. ``_began`` is when what is being
    committed was taken, and lies ahead while nothing is. ``_waiting``, ``_bytes``,
    ``state``, ``reason`` and ``blocked`` belong to ``_change``.
    """

    def __init__(self, work: Work, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.state: State = "starting"
        self.reason = "the collector is starting"
        self.blocked = ""
        self._work = work
        self._limits = limits
        self._clock = clock
        self._change = threading.Condition()
        self._waiting: deque[Batch] = deque()
        self._bytes = 0
        self._closing = False
        self._last_beat = clock()
        self._began = inf
        self._happened = False
        self._taken: Sequence[Batch] = ()
        self._thread = threading.Thread(target=self._run, name="audit-committer", daemon=True)

    @property
    def is_keeping_up(self) -> bool:
        """Whether batches are taken, and no commit is under way for long: a disk that hangs, a stream that is held."""
        return self.state == "ready" and self._clock() - self._began < SLOW_SECONDS

    @property
    def queue_bytes(self) -> int:
        """Bytes of the lines that wait."""
        return self._bytes

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Wait while the collector is starting; say whether it is ready."""
        with self._change:
            self._change.wait_for(lambda: self.state != "starting", timeout)
            return self.state == "ready"

    def submit(self, batch: Batch) -> None:
        """Hand over a batch; its ``done`` tells the rest. Raises `Problem` 503 when nothing is taken now."""
        size = batch.bytes
        with self._change:
            self.require_ready()
            if self._bytes and self._bytes + size > self._limits.queue_bytes:
                raise busy("queue-full", "more is waiting than the disk takes: come back in a second")
            self._waiting.append(batch)
            self._bytes += size
            self._change.notify_all()

    def require_ready(self) -> None:
        """Raise `Problem` 503 unless batches are taken."""
        if self.state != "ready":
            raise busy(f"collector-{self.state}", self.reason, seconds=_RETRY_AFTER.get(self.state, 30))

    def close(self) -> None:
        """Commit what waits, say goodbye, end the thread."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._commit_until_closed()
            self._become("closed", "the collector is closed")
        except Exception as error:  # noqa: BLE001 - named containment point: whatever it was, the chain is in doubt
            _log.critical("the collector stops accepting", exc_info=error)
            reason = f"the collector has stopped accepting: {type(error).__name__}: {error}"
            self._become("failed", reason, is_blocked=True)
        self._give_back(seconds=30)

    def _commit_until_closed(self) -> None:
        """Commit until it is time to close; whenever the store takes nothing, give everything back and begin anew."""
        begin, pause = self._work.start, FIRST_PAUSE
        while True:
            try:
                begin()
                self._become("ready", "")
                pause = FIRST_PAUSE
                self._commit_all()
                self._work.stop()
            except StoreUnavailable as error:
                _log.error("nothing is committed now, trying again in %.1f s: %s", pause, error)
                reason = f"the store takes nothing now: {error}"
                self._become("recovering", reason, is_blocked=isinstance(error, StoreFull))
                self._give_back(seconds=_RETRY_AFTER["recovering"])
            else:
                return
            if self._is_closing_within(pause):
                return
            begin, pause = self._work.recover, min(2 * pause, LONGEST_PAUSE)

    def _is_closing_within(self, seconds: float) -> bool:
        with self._change:
            return self._change.wait_for(lambda: self._closing, seconds)

    def _commit_all(self) -> None:
        while True:
            self._began = inf
            self._taken = self._take()
            self._began = self._clock()
            if self._taken:
                self._happened = True
                self._work.commit(self._taken)
            elif self._closing:
                return
            self._beat()

    def _take(self) -> list[Batch]:
        """Wait for batches, at most until the next beat is due; take as many as one group holds."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closing, self._seconds_to_beat())
            batches: list[Batch] = []
            size = 0
            while self._waiting and (not batches or size + self._waiting[0].bytes <= self._limits.group_bytes):
                batch = self._waiting.popleft()
                size += batch.bytes
                self._bytes -= batch.bytes
                if batch.done.set_running_or_notify_cancel():
                    batches.append(batch)
            return batches

    def _seconds_to_beat(self) -> float:
        interval = self._limits.beat_seconds if self._happened else self._limits.idle_beat_seconds
        return max(0.0, self._last_beat + interval - self._clock())

    def _beat(self) -> None:
        if self._seconds_to_beat() == 0.0:
            self._work.beat()
            self._happened = False
            self._last_beat = self._clock()

    def _become(self, state: State, reason: str, *, is_blocked: bool = False) -> None:
        with self._change:
            self.state, self.reason, self.blocked = state, reason, reason if is_blocked else ""
            self._change.notify_all()

    def _give_back(self, *, seconds: int) -> None:
        """Refuse what was being committed and what waits."""
        unknown = busy("collector-failed", "the commit failed; nobody knows how far it came", seconds=seconds)
        _refuse(self._taken, unknown)
        self._taken = ()
        with self._change:
            waiting, self._bytes = list(self._waiting), 0
            self._waiting.clear()
        _refuse(
            [batch for batch in waiting if batch.done.set_running_or_notify_cancel()],
            busy("closed", self.reason, seconds=seconds),
        )


def _refuse(batches: Sequence[Batch], problem: Problem) -> None:
    for batch in batches:
        if not batch.done.done():
            batch.done.set_exception(problem)
