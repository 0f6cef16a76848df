"""Collectors that share an index, as one of their monitors hears them, and which one of them watches for all.

Everybody hears everything: what the own collector commits at once, what the others do about a second later, from the
index. So whoever watches next knows what the one before it knew. Only the one that watches judges what time brings
out, puts what everybody hears on record, and tells of it. What a collector finds in its own store it says itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from threading import Event
from typing import Final, NamedTuple

from audit_middleware.collector.index_store import Elsewhere, OtherLog, Presence
from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.findings import Finding, Observation
from audit_middleware.collector.monitor.hall import group_of_lives
from audit_middleware.collector.monitor.heard import Group
from audit_middleware.collector.monitor.ranges import Range
from audit_middleware.errors import StorageError

OF_A_STORE: Final = frozenset({"tampering", "rollback", "worm", "store", "rules"})
"""Kinds that the collector finds whose store it is, or to which the records were delivered."""

FRESH_SECONDS: Final = 3.0
_log: Final = logging.getLogger(__name__)


class Told(NamedTuple):
    """What another collector has committed, and what was found of it in the index."""

    group: Group
    altered: list[Observation]


class Fleet:
    """One monitor among others. Alone, without ``elsewhere``, it hears all there is, and watches.

    One owner: the watcher; any thread may read ``is_watching`` and ask `tells`.
    """

    def __init__(self, elsewhere: Elsewhere | None) -> None:
        self._elsewhere = elsewhere
        self.is_watching = elsewhere is None
        self.is_hearing = elsewhere is None
        """Whether everything was heard that others had committed, when it was tried last."""

        self.has_heard = elsewhere is None
        """Whether that was so once."""

        self.there: Mapping[str, Presence] = {}
        self.missing = self._missing if elsewhere is not None else None
        self._strange: frozenset[str] = frozenset()

    def listen(
        self,
        sizes: dict[str, int],
        now: Now,
        heard_for: float,
        *,
        is_listening: bool,
        stopping: Event,
        is_last: bool = False,
    ) -> Iterator[Told]:
        """Yield what is new in the logs of others beyond ``sizes``, which grow with it; then ask who watches.

        Only a collector that commits what it takes watches: it has to put on record what it finds. One that listens
        for less than `FRESH_SECONDS` leaves that to those who heard more. One whose commits wait in vain for what
        another one holds watches all the same if it ``is_last``: nobody else is there to tell of that one.
        """
        if self._elsewhere is None:
            return
        try:
            self.there = self._elsewhere.meet(Presence(int(now.wall * 1_000_000), False) if is_listening else None)
            logs = self._elsewhere.logs()
            self._strange = frozenset(log.origin for log in logs)
            for log in logs:
                yield from self._read(self._elsewhere, log, sizes, stopping)
            self.is_watching = self._elsewhere.claim(
                wants=is_last or (is_listening and (self.is_watching or heard_for >= FRESH_SECONDS))
            )
            self.is_hearing = self.has_heard = True
        except StorageError as error:
            if self.is_hearing or not self.has_heard:
                _log.error("the monitor hears nothing of other collectors now: %s", error)
            self.is_watching = self.is_hearing = False

    def tells(self, finding: Finding) -> bool:
        """Say whether this monitor puts a finding on record, and tells of it."""
        if finding.kind in OF_A_STORE and not self._is_of_index(finding):
            return self.is_own(finding)
        return self.is_watching

    def is_own(self, finding: Finding) -> bool:
        """Say whether a finding is not about a log of another collector."""
        return finding.evidence.get("log") not in self._strange

    def end(self, now: Now) -> None:
        """Say goodbye, and let another one watch."""
        if self._elsewhere is None:
            return
        self.is_watching = False
        try:
            if self.has_heard:
                self._elsewhere.meet(Presence(int(now.wall * 1_000_000), True))
        except StorageError as error:
            _log.warning("other collectors are not told that this one ends: %s", error)
        self._elsewhere.close()

    def _read(self, elsewhere: Elsewhere, log: OtherLog, sizes: dict[str, int], stopping: Event) -> Iterator[Told]:
        while (first := sizes.get(log.origin, 0)) < log.size and not stopping.is_set():
            found = elsewhere.lives(log, first)
            sizes[log.origin] = found[-1].at + 1 if found else log.size
            altered = [_altered(log, each.at) for each in found if each.line is None]
            yield Told(group_of_lives([each.line for each in found if each.line]), altered)

    def _missing(self, stream: str) -> list[Range] | None:
        try:
            return self._elsewhere.missing(stream) if self._elsewhere is not None else None
        except StorageError as error:
            _log.error("the monitor cannot tell what is missing of %s: %s", stream, error)
            return None

    @staticmethod
    def _is_of_index(finding: Finding) -> bool:
        return finding.about.startswith("index of ")


def _altered(log: OtherLog, at: int) -> Observation:
    """Somebody has changed a line in the index, which its ledger still has as it was."""
    message = "its line in the shared index does not match its seal: make the index anew"
    evidence = {"log": log.origin, "path": "index", "first": at, "last": at, "message": message}
    return Observation("tampering", f"index of {log.origin}", evidence)
