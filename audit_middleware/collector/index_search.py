"""Reading the SQLite index beside its writer: searches, and the monitor's look-ups. Nothing here writes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Final

from audit_middleware.collector.idle import IdleConnections
from audit_middleware.collector.index_rows import split_id
from audit_middleware.collector.index_schema import connect_to_read, failed
from audit_middleware.collector.index_store import Hit
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.query import SEARCH_SECONDS, Query

PROGRESS_STEPS: Final = 100_000  # steps of SQLite's machine between two looks at the clock
STATEMENTS: Final = 512  # kept by a connection: a search has one for each part
_FEW: Final = ("principal ", "resource_id ", "(resource_id ", "request_id ", "trace_id ")
_BEFORE_ALL: Final = -(1 << 63)  # no id is as small: a part is looked into before a match of the same time is taken


def select(path: Path, query: Query) -> list[Hit]:
    """Return the newest matches, one more than asked for, of an index that nobody writes to and may be read-only.

    Raises `Problem` 503 when that takes too long, `StorageError` for an index that cannot be used.
    """
    with _errors(path), closing(connect_to_read(path, is_still=True)) as connection:
        return _select(connection, query)


class FileSearcher:
    """Answers searches beside the writer; safe from any thread. A connection that is kept knows every part already."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: IdleConnections[sqlite3.Connection] = IdleConnections()

    def select(self, query: Query) -> list[Hit]:
        """Return the newest matches; raises as the function `select` does."""
        with _errors(self._path), self._idle.lend(self._connect) as connection:
            return _select(connection, query)

    def close(self) -> None:
        """Close what is idle."""
        self._idle.close()

    def _connect(self) -> sqlite3.Connection:
        return connect_to_read(self._path, statements=STATEMENTS)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise too_slow() from error
        raise failed(path, error) from error


def _select(connection: sqlite3.Connection, query: Query) -> list[Hit]:
    connection.set_progress_handler(_deadline(SEARCH_SECONDS), PROGRESS_STEPS)
    connection.execute("BEGIN")
    origins = dict(connection.execute("SELECT number, origin FROM logs").fetchall())
    found = _newest(connection, query)
    connection.execute("COMMIT")
    return [Hit(ts, number, origins[split_id(number)[0]]) for ts, number in found]


def too_slow() -> Problem:
    """Return what a search is told that was given up."""
    return Problem(503, "search-too-slow", "narrow it: add from and to, a principal or a resource")


class FileLookup:
    """Looks streams up in the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def find(self, stream: str) -> tuple[int, bool] | None:
        """Return where a stream stands; None when it was never seen, or nobody can tell now."""
        try:
            if self._connection is None:
                self._connection = connect_to_read(self._path)
            found = self._connection.execute("SELECT next, closed FROM streams WHERE stream = ?", (stream,)).fetchone()
        except sqlite3.Error:
            self.close()
            return None
        return (found[0], bool(found[1])) if found else None

    def close(self) -> None:
        """Close the connection; the next look-up opens one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()


def _newest(connection: sqlite3.Connection, query: Query) -> list[tuple[int, int]]:
    """Return time and id of the newest matches, one more than asked for.

    The parts are merged, and each is looked into only when its newest record comes before every match at hand, so
    that of parts whose times overlap no more is read than is answered.
    """
    where = f"WHERE {' AND '.join(_conditions(query))} " if query.conditions else ""
    values, wanted = (*query.values, query.limit + 1), query.limit + 1
    parts = connection.execute("SELECT newest, number FROM parts WHERE newest >= ? AND oldest <= ?", query.span)
    waiting: list[tuple[int, int, sqlite3.Cursor | None, int]]
    waiting = [(-newest, _BEFORE_ALL, None, part) for newest, part in parts.fetchall()]
    heapify(waiting)
    found: list[tuple[int, int]] = []
    while waiting and len(found) < wanted:
        ts, number, rows, part = heappop(waiting)
        if rows is None:
            sql = f"SELECT ts, id FROM records_{part} {where}ORDER BY ts DESC, id DESC LIMIT ?"  # noqa: S608 - of our own
            rows = connection.execute(sql, values)
        else:
            found.append((-ts, -number))
        if (row := rows.fetchone()) is not None:
            heappush(waiting, (-row[0], -row[1], rows, part))
    for _, _, rows, _ in waiting:
        if rows is not None:
            rows.close()
    return found


def _conditions(query: Query) -> list[str]:
    """Keep SQLite, which has no statistics of the parts, from going by an action when fewer records are named."""
    conditions = list(query.conditions)
    if any(condition.startswith(_FEW) for condition in conditions):
        return [f"+{each}" if each.startswith("action ") else each for each in conditions]
    return conditions


def _deadline(seconds: float) -> Callable[[], bool]:
    """Return a handler that interrupts a statement after ``seconds``."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
