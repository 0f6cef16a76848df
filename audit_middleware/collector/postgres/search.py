"""Reading the index in PostgreSQL beside its writer: searches, and the monitor's look-ups."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import psycopg

from audit_middleware.collector.idle import IdleConnections
from audit_middleware.collector.index_seal import IndexSeal, is_sealed
from audit_middleware.collector.index_search import too_slow
from audit_middleware.collector.index_store import Hit
from audit_middleware.collector.postgres.link import Link
from audit_middleware.collector.postgres.rows import index_text
from audit_middleware.collector.query import SEARCH_SECONDS, Query
from audit_middleware.collector.streams import StreamState
from audit_middleware.errors import StorageError
from audit_middleware.sealing.seal import leaf_hash

STATE: Final = "number, stream, service, next, head, gaps, open_gaps, closed, seal"
"""Columns of a stream that `checked_state` takes."""

_log: Final = logging.getLogger(__name__)
_Found = tuple[int, int, int, int, bytes, bytes | None]


class Searcher:
    """Answers searches; safe from any thread."""

    def __init__(self, link: Link, seal: IndexSeal, collector: str) -> None:
        self._link = link
        self._seal = seal
        self._collector = collector
        self._idle: IdleConnections[psycopg.Connection] = IdleConnections(_is_alive)

    def select(self, query: Query) -> list[Hit]:
        """Return the newest matches, one more than asked for.

        Raises `Problem` 503 when that takes too long, `StorageError` for an index that is away or was altered.
        """
        with self._link.errors(), self._idle.lend(self._link.connect) as connection:
            try:
                return self._select(connection, query)
            except psycopg.errors.QueryCanceled as error:
                raise too_slow() from error

    def close(self) -> None:
        """Close what is idle."""
        self._idle.close()

    def _select(self, connection: psycopg.Connection, query: Query) -> list[Hit]:
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(f"SET LOCAL statement_timeout = {max(1, int(SEARCH_SECONDS * 1000))}")
            logs = connection.execute("SELECT number, origin, collector FROM logs").fetchall()
            own = [number for number, _, collector in logs if collector == self._collector]
            found = _newest(connection, query, own)
        origins = {number: origin for number, origin, _ in logs}
        return [Hit(ts, id_, origins[id_ >> 40], self._checked(row)) for row in found for ts, id_ in (row[:2],)]

    def _checked(self, row: _Found) -> bytes | None:
        """Return the line of another collector's ledger, if it is the one that collector has put here."""
        _, id_, stream, seq, seal, line = row
        if line is not None and not is_sealed(seal, self._seal.place(stream, seq, id_, leaf_hash(line))):
            raise self._link.unusable(f"entry {id_} was changed")
        return line


def _is_alive(connection: psycopg.Connection) -> bool:
    """Say whether PostgreSQL has not forgotten it."""
    try:
        connection.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True


def _newest(connection: psycopg.Connection, query: Query, own: Sequence[int]) -> list[_Found]:
    """Search part by part; one whose newest record is older than all that were found has nothing to add."""
    conditions = "".join(f" AND {condition}" for condition in query.conditions).replace("?", "%s")
    values: list[Any] = [index_text(value) if isinstance(value, str) else value for value in query.values]
    wanted = query.limit + 1
    found: list[_Found] = []
    for log, month, newest in connection.execute(
        "SELECT log, month, newest FROM parts WHERE newest >= %s AND oldest <= %s ORDER BY newest DESC", query.span
    ).fetchall():
        if len(found) == wanted and newest < found[-1][0]:
            break
        line = "NULL::bytea" if log in own else "line"
        statement = (
            f"SELECT ts, id, stream, seq, seal, {line} FROM records WHERE log = {int(log)} AND month = '{month}'"  # noqa: S608 - of our own
            f"{conditions} ORDER BY ts DESC, id DESC LIMIT {wanted}"
        )
        # prepared, it would soon be planned for an average person, whose index is the wrong one for a busy one
        rows = connection.execute(statement, values, prepare=False).fetchall()
        found = sorted([*found, *rows], key=lambda row: row[:2], reverse=True)[:wanted]
    return found


def checked_state(row: tuple[Any, ...], seal: IndexSeal, link: Link) -> StreamState:
    """Return the state in a row of `STATE`; raise `StorageError` if somebody changed it."""
    *values, sealed = row
    state = StreamState(*values)
    if not is_sealed(sealed, seal.stream(state)):
        raise link.unusable(f"what it says of stream {state.stream} was changed")
    return state


class Finder:
    """Looks streams up; one thread at a time."""

    def __init__(self, link: Link, seal: IndexSeal) -> None:
        self._link = link
        self._seal = seal
        self._connection: psycopg.Connection | None = None

    def find(self, stream: str) -> tuple[int, bool] | None:
        """Return where a stream stands; None when it was never seen, or nobody can tell now."""
        try:
            if self._connection is None:
                self._connection = self._link.connect()
            statement = f"SELECT {STATE} FROM streams WHERE stream = %s"  # noqa: S608 - names
            found = self._connection.execute(statement, (stream,)).fetchone()
            state = checked_state(found, self._seal, self._link) if found else None
        except psycopg.Error:
            self.close()
            return None
        except StorageError as error:
            _log.critical("%s", error)
            return None
        return (state.next, bool(state.closed)) if state else None

    def close(self) -> None:
        """Close the connection; the next look-up opens one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
