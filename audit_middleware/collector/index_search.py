"""Reading the SQLite index beside its writer: searches, and the monitor's look-ups. Nothing here writes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from audit_middleware.collector.index_rows import split_id
from audit_middleware.collector.index_schema import connect_to_read, unusable
from audit_middleware.collector.index_store import Hit
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.query import SEARCH_SECONDS, Query

PROGRESS_STEPS: Final = 100_000  # steps of SQLite's machine between two looks at the clock


def select(path: Path, query: Query, *, is_still: bool = False) -> list[Hit]:
    """Return the newest matches, one more than asked for; ``is_still`` when nobody writes to the index.

    Raises `Problem` 503 when that takes too long, `StorageError` for an index that cannot be used.
    """
    try:
        with closing(connect_to_read(path, is_still=is_still)) as connection:
            connection.set_progress_handler(_deadline(SEARCH_SECONDS), PROGRESS_STEPS)
            connection.execute("BEGIN")
            origins = dict(connection.execute("SELECT number, origin FROM logs").fetchall())
            rows = _newest(connection, query)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise too_slow() from error
        raise unusable(path, str(error)) from error
    return [Hit(ts, number, origins[split_id(number)[0]]) for ts, number in rows]


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
    """Return time and id of the newest matches, one more than asked for, part by part.

    A part whose newest record is older than all that were found has nothing to add.
    """
    where = f"WHERE {' AND '.join(query.conditions)} " if query.conditions else ""
    wanted = query.limit + 1
    found: list[tuple[int, int]] = []
    for part, newest in connection.execute("SELECT number, newest FROM parts ORDER BY newest DESC").fetchall():
        if len(found) == wanted and newest < found[-1][0]:
            break
        sql = f"SELECT ts, id FROM records_{part} {where}ORDER BY ts DESC, id DESC LIMIT ?"  # noqa: S608 - of our own
        found = sorted([*found, *connection.execute(sql, (*query.values, wanted))], reverse=True)[:wanted]
    return found


def _deadline(seconds: float) -> Callable[[], bool]:
    """Return a handler that interrupts a statement after ``seconds``."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
