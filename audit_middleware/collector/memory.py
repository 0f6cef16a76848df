"""Which line took a place (stream, seq): exact for every line that was ever admitted.

What was admitted lately is in memory; behind that stand the index, which says where, and the ledger, which says what.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from audit_middleware.collector.index_store import IndexStore
from audit_middleware.collector.logs import Log, Logs
from audit_middleware.errors import BadLedger, StorageError
from audit_middleware.journal.segment import peek
from audit_middleware.sealing.seal import leaf_hash
from audit_middleware.sealing.text import b64url
from audit_middleware.tlog.tiles import WIDTH, split_hashes, width_at

GENERATION: Final = 100_000  # lines; more than one group commit can hold


class Known(NamedTuple):
    """The line that has a place: its leaf hash in base64url, and its log; None when it is in quarantine.

    ``is_elsewhere`` when it is in the ledger of another collector.
    """

    leaf: bytes
    log: Log | None
    is_elsewhere: bool = False


class Memory:
    """Finds the line of a place. One owner: the committer."""

    def __init__(self, index: IndexStore, logs: Logs) -> None:
        self._index = index
        self._logs = logs
        self._newer: dict[tuple[str, int], Known] = {}
        self._older: dict[tuple[str, int], Known] = {}
        self._origins: dict[int, str] = {}
        self._read: tuple[Log | None, int, list[bytes]] = (None, 0, [])  # entries read last: re-sent lines lie together
        self._hashes: list[bytes] = []  # of the same entries, from their tile

    def remember(self, stream: str, seq: int, leaf: bytes, log: Log | None) -> None:
        """Note the line that takes a place; it need not be indexed yet."""
        if len(self._newer) >= GENERATION:
            self._older, self._newer = self._newer, {}
        self._newer[stream, seq] = Known(leaf, log)

    def find(self, stream: str, seq: int) -> Known | None:
        """Return who has the place; None for a place that nobody took. Raises `StorageError`, `BadLedger`."""
        place = (stream, seq)
        return self._newer.get(place) or self._older.get(place) or self._look_up(stream, seq)

    def _look_up(self, stream: str, seq: int) -> Known | None:
        self._index.flush()
        found = self._index.locate(stream, seq)
        if found is None:
            aside = self._index.aside(stream, seq)
            return Known(aside.encode(), None) if aside else None
        log = self._log(found.log)
        if log is None:
            if found.leaf is None:
                raise StorageError(f"the index names the log {self._origins[found.log]}, which is not here")
            return Known(b64url(found.leaf), None, is_elsewhere=True)
        line, leaf = self._entry(log, found.at)
        if leaf_hash(line) != leaf:
            raise BadLedger("does not have the hash that its tile has", where=f"{log.origin} entry {found.at}")
        if peek(line) != (stream, seq):
            raise self._index.unusable(f"it places {seq} of {stream} at entry {found.at} of {log.origin}")
        return Known(b64url(leaf), log)

    def _entry(self, log: Log, index: int) -> tuple[bytes, bytes]:
        """Return a line and the hash that the tree has of it."""
        read, first, entries = self._read
        if read is not log or not first <= index < first + len(entries):
            first = index - index % WIDTH
            entries = list(log.ledger.entries(first, min(first + WIDTH, log.ledger.size) - 1))
            reader, number = log.reader(), index // WIDTH
            self._hashes = split_hashes(reader.tile(0, number, width_at(0, number, reader.checkpoint().size)))
            self._read = (log, first, entries)
        return entries[index - first], self._hashes[index - first]

    def _log(self, number: int) -> Log | None:
        if number not in self._origins:
            self._origins = self._index.origins()
        return self._logs.by_origin(self._origins[number])
