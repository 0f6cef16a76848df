"""The index in PostgreSQL.

A group commit is one transaction, which holds the streams it moves from before they are judged until their rows are
in; so that of two collectors that get lines of one stream, one waits for the other.

The ledger is appended to inside of that transaction. A collector that dies in between finds the lines in its ledger
when it starts again, and whoever admitted them meanwhile in ``places``: equal lines are copies, which no search shows
twice, other lines a conflict.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from itertools import chain
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus

from audit_middleware.collector.index_rows import split_id
from audit_middleware.collector.index_seal import IndexSeal, is_sealed
from audit_middleware.collector.index_store import Batch, Double, Hit, Place, Totals
from audit_middleware.collector.postgres.elsewhere import PostgresElsewhere
from audit_middleware.collector.postgres.link import Link
from audit_middleware.collector.postgres.locks import key_of, lock_streams
from audit_middleware.collector.postgres.schema import MIGRATIONS, version
from audit_middleware.collector.postgres.search import STATE, Finder, Searcher, checked_state
from audit_middleware.collector.postgres.writing import write
from audit_middleware.collector.query import Query
from audit_middleware.collector.streams import StreamState
from audit_middleware.errors import StorageError, StoreUnavailable
from audit_middleware.sealing.keys import Keyring

NUMBERS: Final = 64  # of streams, fetched at once; those not used are lost, and that is all


class PostgresIndex:
    """The index that collectors share; see `IndexStore`. The committer owns the connection that writes."""

    lag = 0
    """Nothing waits: what `put` took is written when it returns."""

    def __init__(self, dsn: str, seal: IndexSeal, collector: str, clock: Callable[[], float] = time.time) -> None:
        self._link = Link(dsn, collector)
        self.label = self._link.label
        self._seal = seal
        self._collector = collector
        self._clock = clock
        self._parts: set[tuple[int, date]] = set()
        self._is_holding = False
        self._connection: psycopg.Connection | None = None
        self._searcher = Searcher(self._link, seal, collector)
        with (
            self._link.errors(),
            suppress(psycopg.OperationalError),
        ):  # one that is away is asked again by whoever uses it
            self._live()

    @property
    def is_there(self) -> bool:
        """Whether PostgreSQL answered when it was asked last."""
        connection = self._connection
        return connection is not None and not connection.closed

    def close(self) -> None:
        """Close every connection."""
        self._drop()
        self._searcher.close()

    def unusable(self, why: str) -> StorageError:
        """Return the error that asks for a rebuild."""
        return self._link.unusable(why)

    @contextmanager
    def held(self, streams: Iterable[str]) -> Iterator[Mapping[str, StreamState | None]]:
        """Keep other collectors from moving these streams until `put`, or the end of the block; give their states."""
        names = sorted(set(streams))
        self._begin()
        try:
            with self._link.errors():
                lock_streams(self._required(), names)
            yield self._states(names)
        finally:
            self._end()

    def put(self, *batches: Batch) -> None:
        """Write what one commit added, in the transaction of `held` if there is one."""
        if not self._is_holding:
            self._begin()
        try:
            with self._link.errors():
                connection = self._required()
                month = datetime.fromtimestamp(self._clock(), UTC).date().replace(day=1)
                for batch in batches:
                    if batch.entries and (batch.log, month) not in self._parts:
                        connection.execute("SELECT make_part(%s, %s)", (batch.log, month))
                        self._parts.add((batch.log, month))
                    write(connection, batch, month, self._seal, self._collector)
                connection.execute("COMMIT")
                self._is_holding = False
        finally:
            self._end()

    def flush(self, timeout: float | None = None) -> None:
        """There is nothing to wait for."""

    def recover(self) -> None:
        """There is nothing to get ready: a connection that was lost is opened when it is needed."""

    def require_sound(self) -> None:
        """Raise `StoreUnavailable` if what is held was lost: somebody else may move these streams now."""
        if self._is_holding:
            with self._link.errors():
                self._required().execute("SELECT 1")

    def select(self, query: Query) -> list[Hit]:
        """Return the newest matches of all collectors, one more than asked for."""
        return self._searcher.select(query)

    def lookup(self) -> Finder:
        """Return what looks up streams."""
        return Finder(self._link, self._seal)

    def elsewhere(self) -> PostgresElsewhere:
        """Return what tells of other collectors."""
        return PostgresElsewhere(self._link, self._seal, self._collector)

    def log_number(self, origin: str) -> int:
        """Return the number of a log, a new one if it was never indexed."""
        known = self._one("SELECT number FROM logs WHERE origin = %s", origin)
        return int((known or self._one("SELECT nextval('log_numbers')") or (0,))[0])

    def standing(self, origin: str) -> tuple[int, bytes] | None:
        """Return the size up to which a log is indexed and the root of that size."""
        found = self._one("SELECT size, root FROM logs WHERE origin = %s", origin)
        return (found[0], found[1]) if found else None

    def origins(self) -> dict[int, str]:
        """Return the origin of every log of every collector by its number."""
        return dict(self._all("SELECT number, origin FROM logs"))

    def own_origins(self) -> set[str]:
        """Return the origins of this collector's logs."""
        return {origin for (origin,) in self._all("SELECT origin FROM logs WHERE collector = %s", self._collector)}

    def load_stream(self, stream: str) -> StreamState | None:
        """Return the state of a stream."""
        return self._state(self._one(f"SELECT {STATE} FROM streams WHERE stream = %s", stream))  # noqa: S608 - names

    def last_stream_of(self, service: str) -> StreamState | None:
        """Return the newest stream of a service that this collector has followed."""
        sql = f"SELECT {STATE} FROM streams WHERE collector = %s AND service = %s ORDER BY number DESC LIMIT 1"  # noqa: S608 - names
        return self._state(self._one(sql, self._collector, service))

    def stream_totals(self) -> Totals:
        """Return what is known of all streams together."""
        found = self._one("SELECT coalesce(sum(open_gaps), 0), count(*) FROM streams") or (0, 0)
        return Totals(self._numbers(), int(found[0]), int(found[1]))

    def has_judged(self, keyring: Keyring) -> bool:
        """Say whether the lines in this collector's quarantine were judged with these keys."""
        found = self._one("SELECT keyring FROM judged WHERE collector = %s", self._collector)
        return found is not None and is_sealed(found[0], self._seal.keyring(keyring))

    def note_judged(self, keyring: Keyring) -> None:
        """Remember that they were."""
        self._run(
            "INSERT INTO judged VALUES (%s, %s) ON CONFLICT (collector) DO UPDATE SET keyring = excluded.keyring",
            self._collector,
            self._seal.keyring(keyring),
        )

    def doubles(self) -> list[Double]:
        """Return the places for which this collector's ledger and another one hold different lines."""
        sql = "SELECT stream, seq, kept, other FROM copies WHERE collector = %s AND kept <> other AND NOT is_said"
        return [Double(*found) for found in self._all(sql, self._collector)]

    def note_doubles(self) -> None:
        """Remember that they are on record."""
        self._run("UPDATE copies SET is_said = true WHERE collector = %s AND NOT is_said", self._collector)

    def locate(self, stream: str, seq: int) -> Place | None:
        """Return where the line (stream, seq) is, and its leaf hash, under the seal of whoever admitted it."""
        sql = (
            "SELECT places.stream, id, leaf, places.seal FROM places JOIN streams ON places.stream = streams.number"
            " WHERE streams.stream = %s AND seq = %s"
        )
        found = self._one(sql, stream, seq)
        if found is None:
            return None
        number, id_, leaf, seal = found
        if not is_sealed(seal, self._seal.place(number, seq, id_, leaf)):
            raise self.unusable(f"what it says of {seq} of {stream} was changed")
        return Place(*split_id(id_), leaf)

    def aside(self, stream: str, seq: int) -> str | None:
        """Return the leaf of the line with a good seal that was set aside at (stream, seq)."""
        found = self._one("SELECT leaf, seal FROM asides WHERE stream = %s AND seq = %s", stream, seq)
        if found is None:
            return None
        leaf: str = found[0]
        if not is_sealed(found[1], self._seal.aside(stream, seq, leaf)):
            raise self.unusable(f"what it says of {seq} of {stream} was changed")
        return leaf

    def forget(self, origin: str) -> None:
        """Drop the rows of a log whose entries have expired; where streams stand is kept."""
        with self._link.errors(), self._link.connect() as connection:
            connection.execute("SELECT forget_log(number) FROM logs WHERE origin = %s", (origin,))

    def _live(self) -> psycopg.Connection:
        """Return the connection that writes; make it again if it was lost. Raises `psycopg.Error`."""
        if self._connection is not None and not self._connection.closed:
            return self._connection
        self._drop()
        connection = self._link.connect()
        try:
            self._sign_in(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _sign_in(self, connection: psycopg.Connection) -> None:
        """Check that the tables are those of this release, and that nobody else goes by this collector's name."""
        found, known = version(connection), len(MIGRATIONS)
        if found != known:
            raise StorageError(
                f"the index {self.label} has version {found}, not {known}: run `audit-ready index migrate`"
            )
        try:
            connection.execute("SELECT pg_advisory_lock(%s)", (key_of(f"collector {self._collector}"),))
        except psycopg.errors.LockNotAvailable as error:
            raise StoreUnavailable(
                f"another collector named {self._collector} has the index {self.label} open: every collector "
                "needs a data folder and a name of its own"
            ) from error

    def _drop(self) -> None:
        self._is_holding = False
        self._parts.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _begin(self) -> None:
        """Begin a transaction; nothing has happened yet, so that a connection that was lost is made again."""
        with self._link.errors():
            try:
                self._live().execute("BEGIN")
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self._drop()
                self._live().execute("BEGIN")
        self._is_holding = True

    def _end(self) -> None:
        """Give up what is held and not committed."""
        if not self._is_holding and self._is_idle():
            return
        try:
            with suppress(psycopg.Error):
                if self._connection is not None:
                    self._connection.execute("ROLLBACK")
        finally:
            self._is_holding = False
            self._parts.clear()
            if not self._is_idle():
                self._drop()

    def _is_idle(self) -> bool:
        return self._connection is not None and self._connection.info.transaction_status == TransactionStatus.IDLE

    def _required(self) -> psycopg.Connection:
        """Return the connection of the transaction; a new one would not have what the old one held."""
        if self._connection is None or self._connection.closed:
            raise StoreUnavailable(f"the index {self.label} was lost during a commit")
        return self._connection

    def _states(self, names: Sequence[str]) -> dict[str, StreamState | None]:
        states: dict[str, StreamState | None] = dict.fromkeys(names)
        rows = self._all(f"SELECT {STATE} FROM streams WHERE stream = ANY(%s)", list(names))  # noqa: S608 - names
        for found in rows:
            states[found[1]] = self._state(found)
        return states

    def _state(self, row: tuple[Any, ...] | None) -> StreamState | None:
        return None if row is None else checked_state(row, self._seal, self._link)

    def _numbers(self) -> Iterator[int]:
        sql = f"SELECT nextval('stream_numbers') FROM generate_series(1, {NUMBERS})"  # noqa: S608 - a number
        return chain.from_iterable([number for (number,) in rows] for rows in iter(lambda: self._all(sql), None))

    def _one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        return next(iter(self._all(sql, *values)), None)

    def _all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._link.errors():
            return self._asked().execute(sql, values).fetchall()

    def _run(self, sql: str, *values: object) -> None:
        with self._link.errors():
            self._asked().execute(sql, values)

    def _asked(self) -> psycopg.Connection:
        return self._required() if self._is_holding else self._live()
