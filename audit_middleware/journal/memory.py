"""The journal of ``durability = memory``: a bounded deque for hosts without a disk to write to.

Labelled lossy: what was not delivered dies with the process.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from itertools import islice
from typing import Final

from audit_middleware.errors import JournalError
from audit_middleware.journal.cursor import Position
from audit_middleware.journal.outbox import Pending
from audit_middleware.journal.segment import Line, peek
from audit_middleware.journal.syncing import SyncTicket

MAX_LINES: Final = 10_000


class MemoryJournal:
    """Journal and outbox of one process in one; appended by any thread, delivered by one."""

    def __init__(self, stream: str, max_lines: int = MAX_LINES) -> None:
        self.stream = stream
        self.acked = Position()
        self._max_lines = max_lines
        self._lines: deque[bytes] = deque()
        self._lock = threading.Lock()

    def append(self, line: bytes) -> None:
        """Keep the line; raise `JournalError` when there is no room."""
        with self._lock:
            if len(self._lines) >= self._max_lines:
                raise JournalError(f"journal: {self._max_lines} lines wait in memory", errno=errno.ENOBUFS)
            self._lines.append(line)

    def pending(self, limit: int, max_bytes: int) -> list[Pending]:
        """Return up to ``limit`` lines in order, at most ``max_bytes`` together, at least one."""
        with self._lock:
            lines = list(islice(self._lines, limit))
        found: list[Pending] = []
        for line in lines:
            max_bytes -= len(line) + 1
            if found and max_bytes < 0:
                break
            named = peek(line)
            found.append(Pending(Line(line, 0), Position(named[1] + 1 if named else 0)))
        return found

    def advance(self, last: Pending) -> None:
        """Forget everything up to and with ``last``."""
        with self._lock:
            while self._lines and self._lines.popleft() is not last.line.data:
                pass
        self.acked = last.behind

    def left_bytes(self) -> int:
        """Return the bytes that wait."""
        with self._lock:
            return sum(len(line) + 1 for line in self._lines)

    def begin_sync(self) -> None:
        """There is nothing to sync."""

    def end_sync(self, ticket: SyncTicket, error: OSError | None) -> None:
        """No ticket is ever handed out."""

    def check(self) -> None:
        """There is nothing anybody could remove."""

    def restore_reserve(self) -> None:
        """There is no reserve."""

    def close(self) -> None:
        """There is nothing to close."""

    def discard(self) -> None:
        """There is nothing to remove."""

    def abandon(self) -> None:
        """A forked child starts with nothing: the lines are its parent's to deliver."""
        self._lines = deque()
        self._lock = threading.Lock()

    def release(self) -> None:
        """Nobody else could deliver these lines."""
