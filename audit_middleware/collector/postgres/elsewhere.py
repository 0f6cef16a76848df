"""What other collectors do, as the shared index tells, and which collector watches for all of them.

The session is closed by PostgreSQL when nothing was asked for `IDLE_SECONDS`: a collector that freezes loses the lock
of the one that watches as soon as one that dies.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import psycopg

from audit_middleware.collector.index_rows import entry_id, split_id
from audit_middleware.collector.index_seal import IndexSeal, is_sealed
from audit_middleware.collector.index_store import OtherLine, OtherLog, Presence
from audit_middleware.collector.postgres.link import Link
from audit_middleware.collector.postgres.locks import key_of
from audit_middleware.collector.postgres.search import STATE, checked_state
from audit_middleware.sealing.seal import leaf_hash

IDLE_SECONDS: Final = 5
"""Longer than the time between two turns of a monitor, by as much as a busy machine takes."""

PAGE: Final = 1000
_SESSION: Final = f"SET idle_session_timeout = '{IDLE_SECONDS}s'; SET statement_timeout = '10s'"
_LIVES: Final = "type NOT IN ('attempt', 'call', 'event', 'request', 'task')"  # the words of the index, or it is unused
_MEET: Final = """
INSERT INTO presence VALUES (%s, %s, %s, %s) ON CONFLICT (collector) DO UPDATE
SET (at, closed, seal) = (excluded.at, excluded.closed, excluded.seal)
"""
_WATCH: Final = key_of("who watches for all")


class PostgresElsewhere:
    """See `Elsewhere`; it has a connection of its own."""

    def __init__(self, link: Link, seal: IndexSeal, collector: str) -> None:
        self._link = link
        self._seal = seal
        self._collector = collector
        self._connection: psycopg.Connection | None = None
        self._is_claimed = False

    def meet(self, mine: Presence | None) -> dict[str, Presence]:
        """Say that this collector is there, and return who else was; a row that was changed says nothing."""
        if mine is not None:
            seal = self._seal.presence(self._collector, mine.at, is_closed=mine.is_closed)
            self._run(_MEET, self._collector, mine.at, int(mine.is_closed), seal)
        rows = self._all("SELECT collector, at, closed, seal FROM presence WHERE collector <> %s", self._collector)
        return {
            name: Presence(at, bool(closed))
            for name, at, closed, seal in rows
            if is_sealed(seal, self._seal.presence(name, at, is_closed=bool(closed)))
        }

    def logs(self) -> list[OtherLog]:
        """Return the logs of all other collectors."""
        sql = "SELECT number, origin, collector, size FROM logs WHERE collector <> %s ORDER BY origin"
        return [OtherLog(*found) for found in self._all(sql, self._collector)]

    def lives(self, log: OtherLog, first: int) -> list[OtherLine]:
        """Return the next lines that are no application's records, each checked against its seal."""
        rows = self._all(
            f"SELECT id, stream, seq, seal, line FROM records WHERE log = %s AND id >= %s AND id < %s AND {_LIVES}"  # noqa: S608 - of our own
            f" ORDER BY id LIMIT {PAGE}",
            log.number,
            entry_id(log.number, first),
            entry_id(log.number, log.size),
        )
        return [OtherLine(split_id(row[0])[1], self._checked(*row)) for row in rows]

    def missing(self, stream: str) -> list[tuple[int, int]]:
        """Return the ranges of a stream that no collector has."""
        found = self._all(f"SELECT {STATE} FROM streams WHERE stream = %s", stream)  # noqa: S608 - names
        if not found:
            return []
        state = checked_state(found[0], self._seal, self._link)
        gaps = msgspec.json.decode(state.gaps, type=list[tuple[int, int, str, str]])
        return [(first, last) for first, last, _, _ in gaps]

    def claim(self, *, wants: bool) -> bool:
        """Take or keep the lock of the one that watches, or let go of it."""
        if wants and not self._is_claimed:
            self._is_claimed = bool(self._all("SELECT pg_try_advisory_lock(%s)", _WATCH)[0][0])
        elif not wants and self._is_claimed:
            self._is_claimed = False
            self._run("SELECT pg_advisory_unlock(%s)", _WATCH)
        elif self._is_claimed:
            self._run("SELECT 1")  # a connection that was lost meanwhile has lost the lock
        return self._is_claimed

    def close(self) -> None:
        """Close the connection, and so let go of the lock."""
        self._is_claimed = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _checked(self, id_: int, stream: int, seq: int, seal: bytes, line: bytes) -> bytes | None:
        return line if is_sealed(seal, self._seal.place(stream, seq, id_, leaf_hash(line))) else None

    def _run(self, sql: str, *values: object) -> None:
        with self._link.errors():
            self._execute(sql, values)

    def _all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._link.errors():
            return self._execute(sql, values).fetchall()

    def _execute(self, sql: str, values: tuple[object, ...]) -> psycopg.Cursor[tuple[Any, ...]]:
        """Execute; a connection that PostgreSQL has closed since is made again, once."""
        if self._connection is not None:
            try:
                return self._connection.execute(sql, values)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self.close()
        return self._connect().execute(sql, values)

    def _connect(self) -> psycopg.Connection:
        connection = self._connection = self._link.connect()
        connection.execute(_SESSION)
        return connection
