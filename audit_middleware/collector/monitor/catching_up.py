"""What the watcher knows of each log, and what it has to read of it: all that was not handed over."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Final

from audit_middleware.collector.monitor.hall import Hall, read_group
from audit_middleware.collector.monitor.heard import Group
from audit_middleware.tlog.tiles import WIDTH

MAX_COUNTED: Final = 100_000
"""Of so many entries of a log the records are counted, which takes seconds; of those before them only what matters."""


class CatchingUp:
    """Reads what was not heard. One owner: the watcher; ``sizes`` are entries that are heard, by origin."""

    def __init__(self, hall: Hall, stopping: Event) -> None:
        self.sizes: dict[str, int] = {}
        self._hall = hall
        self._stopping = stopping
        self._behind: dict[str, int] = {}

    def is_behind(self) -> bool:
        """Say whether a commit of a turn ago is not heard yet: it was left out, for there was no room for it."""
        behind, self._behind = self._behind, {log.origin: log.size for log in self._hall.heard_logs()}
        return any(self.sizes.get(origin, 0) < size for origin, size in behind.items())

    def unheard(self, *, counts: bool) -> Iterator[Group]:
        """Yield everything up to now, a bundle at a time; with ``counts`` the newest records are counted too."""
        for log in self._hall.heard_logs():
            first, size = self.sizes.get(log.origin, 0), log.size
            while first < size and not self._stopping.is_set():
                last = min(first - first % WIDTH + WIDTH, size) - 1
                is_counted = counts and first >= size - MAX_COUNTED
                group = read_group(log, first, last, counts=is_counted)
                if counts and not is_counted:
                    group = group._replace(uncounted=last + 1 - first)
                first = self.sizes[log.origin] = last + 1
                yield group
