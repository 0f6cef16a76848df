"""The index follows the ledgers in a thread of its own and answers where things are. It is disposable.

A batch is one group commit: its rows, the states of the streams it moved, and the root it led to. Batches are
written whole, so the index stands at one size of each log at any time, and the ledger's tail completes it.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count, groupby
from pathlib import Path
from typing import Final

from audit_middleware.collector.index_rows import COLUMNS, Row, entry_id, row, split_id
from audit_middleware.collector.index_schema import PART_BITS, connect, failed, is_full, make_part, prepare, unusable
from audit_middleware.collector.index_seal import IndexSeal, is_sealed
from audit_middleware.collector.index_search import FileLookup, FileSearcher
from audit_middleware.collector.index_store import Batch, Double, Hit, Place, Totals
from audit_middleware.collector.query import Query
from audit_middleware.collector.streams import StreamState
from audit_middleware.errors import StorageError
from audit_middleware.sealing.keys import Keyring

MAX_WAITING: Final = 16  # commits; beyond that the committer waits for the index
CHUNK: Final = 1000  # rows a statement: one step without the GIL, and fewer variables than SQLite allows
_ROW: Final = f"({', '.join('?' * len(COLUMNS))})"
_CHUNK: Final = ", ".join([_ROW] * CHUNK)
_TS: Final = COLUMNS.index("ts")
_SPAN: Final = (
    "INSERT INTO parts VALUES (?, ?, ?) ON CONFLICT (number)"
    " DO UPDATE SET oldest = min(oldest, excluded.oldest), newest = max(newest, excluded.newest)"
)
_STREAM: Final = "INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ASIDE: Final = "INSERT OR IGNORE INTO asides VALUES (?, ?, ?, ?)"


class Index:
    """The index of all logs of one collector. `put` hands over; a failure shows in `failure` and at `flush`.

    After a failure nothing more is written, until `recover` if there was no room.
    """

    def __init__(self, path: Path, seal: IndexSeal) -> None:
        self.path = path
        self._seal = seal
        self.failure: Exception | None = None
        self._writer = prepare(path)
        self._inode = os.stat(path).st_ino
        self._searcher = FileSearcher(path)
        self._reader = connect(path)  # owned by the committer; queries have connections of their own
        self._waiting: queue.Queue[Sequence[Batch] | None] = queue.Queue(MAX_WAITING)
        self._written = threading.Condition()
        self._handed = 0  # commits ever put; owned by the committer
        self._done = 0  # commits ever written or failed; owned by _written
        self._thread = threading.Thread(target=self._run, name="audit-index", daemon=True)
        self._thread.start()

    def put(self, *batches: Batch) -> None:
        """Hand over what one commit added to its logs; waits when the index is `MAX_WAITING` commits behind.

        They are written together: the states of streams belong to all of them.
        """
        self._handed += 1
        self._waiting.put(batches)

    @property
    def lag(self) -> int:
        """Commits that are handed over and not yet in the index."""
        return self._handed - self._done

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything handed over so far is in the index; raise `StorageError` if the index failed."""
        self._wait(timeout)
        self.require_sound()

    def require_sound(self) -> None:
        """Raise `StorageError` if a batch could not be written, `StoreFull` if there was no room for it."""
        if self.failure is not None:
            raise failed(self.path, self.failure) from self.failure

    def recover(self) -> None:
        """Write again after there was no room; what is missing then is in the ledger. Raises as `require_sound`."""
        self._wait()
        if self.failure is not None and is_full(self.failure):
            self.failure = None
        self.require_sound()

    def _wait(self, timeout: float | None = None) -> None:
        target = self._handed
        with self._written:
            self._written.wait_for(lambda: self._done >= target, timeout)

    def close(self) -> None:
        """Write what is waiting and close."""
        self._waiting.put(None)
        self._thread.join()
        self._searcher.close()
        self._reader.close()
        self._writer.close()

    @property
    def label(self) -> str:
        """The file."""
        return str(self.path)

    @contextmanager
    def held(self, _streams: Iterable[str]) -> Iterator[Mapping[str, StreamState | None]]:
        """Keep nobody off: nobody else writes to this file."""
        yield {}

    def unusable(self, why: str) -> StorageError:
        """Return the error that asks for a rebuild."""
        return unusable(self.path, why)

    def select(self, query: Query) -> list[Hit]:
        """Return the newest matches, one more than asked for."""
        if not self.is_there:
            raise unusable(self.path, "it is gone")
        return self._searcher.select(query)

    def lookup(self) -> FileLookup:
        """Return what looks up streams."""
        return FileLookup(self.path)

    def elsewhere(self) -> None:
        """Nobody shares this index."""

    @property
    def is_there(self) -> bool:
        """Whether the file that was opened still is the index: it may have been deleted while it was open."""
        try:
            return os.stat(self.path).st_ino == self._inode
        except OSError:
            return False

    def log_number(self, origin: str) -> int:
        """Return the number of a log, a new one if it was never indexed."""
        known = self._one("SELECT number FROM logs WHERE origin = ?", origin)
        return int(known[0]) if known else int((self._one("SELECT max(number) FROM logs") or [None])[0] or 0) + 1

    def standing(self, origin: str) -> tuple[int, bytes] | None:
        """Return the size up to which a log is indexed and the root of that size."""
        return self._one("SELECT size, root FROM logs WHERE origin = ?", origin)

    def origins(self) -> dict[int, str]:
        """Return the origin of every log by its number."""
        return dict(self._all("SELECT number, origin FROM logs"))

    def own_origins(self) -> set[str]:
        """Return the origin of every log: there are no others in this file."""
        return set(self.origins().values())

    def load_stream(self, stream: str) -> StreamState | None:
        """Return the state of a stream; the caller sees to it that it is written."""
        return self._state(self._one("SELECT * FROM streams WHERE stream = ?", stream), stream)

    def last_stream_of(self, service: str) -> StreamState | None:
        """Return the newest stream of a service."""
        return self._state(
            self._one("SELECT * FROM streams WHERE service = ? ORDER BY number DESC LIMIT 1", service), service
        )

    def _state(self, row: Row | None, name: str) -> StreamState | None:
        if row is None:
            return None
        *values, seal = row
        state = StreamState(*values)
        if not is_sealed(seal, self._seal.stream(state)):
            raise unusable(self.path, f"what it says of stream {name} was changed")
        return state

    def stream_totals(self) -> Totals:
        """Return what is known of all streams together; they are numbered without a hole."""
        sql = "SELECT count(*), coalesce(max(number), 0), coalesce(sum(open_gaps), 0) FROM streams"
        number, highest, gaps = self._one(sql) or (0, 0, 0)
        if number != highest:
            raise unusable(self.path, f"it has {number} of {highest} streams")
        return Totals(count(highest + 1), gaps, number)

    def has_judged(self, keyring: Keyring) -> bool:
        """Say whether the lines in quarantine were judged with these keys since the index was made."""
        found = self._one("SELECT keyring FROM judged")
        return found is not None and is_sealed(found[0], self._seal.keyring(keyring))

    def note_judged(self, keyring: Keyring) -> None:
        """Remember that they were."""
        self.flush()
        self._all("DELETE FROM judged")
        self._all("INSERT INTO judged VALUES (?)", self._seal.keyring(keyring))

    def doubles(self) -> list[Double]:
        """Return nothing: one collector admits no line twice."""
        return []

    def note_doubles(self) -> None:
        """There is nothing to remember."""

    def locate(self, stream: str, seq: int) -> Place | None:
        """Return where the line (stream, seq) is; what it is, the ledger knows."""
        number = self._one("SELECT number FROM streams WHERE stream = ?", stream)
        if number is None:
            return None
        for (part,) in self._all("SELECT number FROM parts ORDER BY number DESC"):
            sql = f"SELECT min(id) FROM records_{part} WHERE stream = ? AND seq = ?"  # noqa: S608 - a number of ours
            found = self._one(sql, number[0], seq)
            if found is not None and found[0] is not None:
                return Place(*split_id(found[0]))
        return None

    def aside(self, stream: str, seq: int) -> str | None:
        """Return the leaf of the line with a good seal that was set aside at (stream, seq)."""
        found = self._one("SELECT leaf, seal FROM asides WHERE stream = ? AND seq = ?", stream, seq)
        if found is None:
            return None
        leaf: str = found[0]
        if not is_sealed(found[1], self._seal.aside(stream, seq, leaf)):
            raise unusable(self.path, f"what it says of {seq} of {stream} was changed")
        return leaf

    def forget(self, origin: str) -> None:
        """Drop the rows of a log whose entries have expired; where streams stand is kept. Raises `StorageError`.

        Their pages are overwritten, and so is what the write-ahead log still has of them.
        """
        self.flush()
        self._all("PRAGMA secure_delete = ON")
        number = self.log_number(origin)
        first, last = entry_id(number, 0) >> PART_BITS, entry_id(number + 1, 0) >> PART_BITS
        for (part,) in self._all("SELECT number FROM parts WHERE number >= ? AND number < ?", first, last):
            self._all(f"DROP TABLE records_{part}")
            self._all("DELETE FROM parts WHERE number = ?", part)
        self._all("PRAGMA wal_checkpoint(TRUNCATE)")

    def _one(self, sql: str, *values: object) -> Row | None:
        return next(iter(self._all(sql, *values)), None)

    def _all(self, sql: str, *values: object) -> list[Row]:
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise failed(self.path, error) from error

    def _run(self) -> None:
        running = True
        while running:
            commits = self._take()
            running = commits[-1] is not None
            try:
                if self.failure is None:
                    write(self._writer, [batch for batches in commits for batch in batches or ()], self._seal)
            except Exception as error:  # noqa: BLE001 - named containment point: kept, and raised by the next flush
                self.failure = error
            with self._written:
                self._done += len(commits)
                self._written.notify_all()

    def _take(self) -> list[Sequence[Batch] | None]:
        """Wait for a commit, then take all that wait: rows of one transaction share the pages they dirty."""
        commits = [self._waiting.get()]
        while commits[-1] is not None:
            try:
                commits.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return commits


def write(connection: sqlite3.Connection, batches: Sequence[Batch], seal: IndexSeal) -> None:
    """Write batches in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for batch in batches:
            first = entry_id(batch.log, batch.first)
            _insert(connection, [row(number, entry) for number, entry in enumerate(batch.entries, first)])
            connection.executemany(_STREAM, [(*state, seal.stream(state)) for state in batch.streams])
            connection.executemany(_ASIDE, [(*aside, seal.aside(*aside)) for aside in batch.asides])
            place = (batch.log, batch.origin, batch.first + len(batch.entries), batch.root)
            connection.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?, ?)", place)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself goes back when there is no room
            connection.execute("ROLLBACK")
        raise


def _insert(connection: sqlite3.Connection, rows: list[Row]) -> None:
    for part, some in groupby(rows, key=_part_of):
        _insert_part(connection, part, list(some))


def _insert_part(connection: sqlite3.Connection, part: int, rows: list[Row]) -> None:
    make_part(connection, part)
    into = f"INSERT INTO records_{part} VALUES "  # noqa: S608 - a number of ours
    whole = len(rows) - len(rows) % CHUNK
    for start in range(0, whole, CHUNK):
        connection.execute(into + _CHUNK, list(chain.from_iterable(rows[start : start + CHUNK])))
    connection.executemany(into + _ROW, rows[whole:])
    times = [values[_TS] for values in rows]
    connection.execute(_SPAN, (part, min(times), max(times)))


def _part_of(values: Row) -> int:
    number: int = values[0]
    return number >> PART_BITS


def remove(path: Path) -> None:
    """Delete the index; raise `StorageError`."""
    for suffix in ("", "-wal", "-shm"):
        try:
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {path}{suffix}: {error.strerror}") from error
