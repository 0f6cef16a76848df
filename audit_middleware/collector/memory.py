"""Which line took a place (stream, seq): exact for every line that was ever admitted.

What was admitted lately is in memory; behind that stand the index, which says where, and the ledger, which says what.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from audit_middleware.collector.index import Index
from audit_middleware.collector.logs import Log, Logs
from audit_middleware.errors import StorageError
from audit_middleware.sealing.seal import leaf_hash
from audit_middleware.sealing.text import b64url

GENERATION: Final = 100_000  # lines; more than one group commit can hold


class Known(NamedTuple):
    """The line that has a place: its leaf hash in base64url, and its log; None when it is in quarantine."""

    leaf: bytes
    log: Log | None


class Memory:
    """Finds the line of a place. One owner: the committer."""

    def __init__(self, index: Index, logs: Logs) -> None:
        self._index = index
        self._logs = logs
        self._newer: dict[tuple[str, int], Known] = {}
        self._older: dict[tuple[str, int], Known] = {}

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
        origin = self._index.origins()[found[0]]
        log = self._logs.by_origin(origin)
        if log is None:
            raise StorageError(f"the index names the log {origin}, which is not here")
        return Known(b64url(leaf_hash(log.ledger.entry(found[1]))), log)
