"""The tables of the index. Nothing in it is evidence: all of it is read from the ledgers.

What the collector itself goes by, where each stream stands, is sealed row by row (`IndexSeal`).

Records lie in parts of `PART_BITS` entries, each a table with indexes of its own. Keys such as trace ids come in no
order, and in one large tree every row would dirty a page of its own; the trees of the part being filled stay small,
so that a row costs the same at 10^5 records and at 10^7.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from audit_middleware.errors import StorageError, StoreFull

VERSION: Final = 2
PART_BITS: Final = 17
SCHEMA: Final = """
CREATE TABLE logs (number INTEGER PRIMARY KEY, origin TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, root BLOB NOT NULL);
CREATE TABLE streams (
    number INTEGER PRIMARY KEY, stream TEXT NOT NULL UNIQUE, service TEXT, next INTEGER NOT NULL,
    head TEXT NOT NULL, gaps TEXT NOT NULL, open_gaps INTEGER NOT NULL, closed INTEGER NOT NULL, seal BLOB NOT NULL
);
CREATE TABLE asides (
    stream TEXT, seq INTEGER, leaf TEXT NOT NULL, seal BLOB NOT NULL, PRIMARY KEY (stream, seq)
) WITHOUT ROWID;
CREATE TABLE judged (keyring BLOB NOT NULL);
CREATE TABLE parts (number INTEGER PRIMARY KEY, oldest INTEGER NOT NULL, newest INTEGER NOT NULL);
PRAGMA user_version = 2;
"""
PART: Final = """
CREATE TABLE records_{0} (
    id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL, ts INTEGER NOT NULL,
    service TEXT, principal TEXT, action TEXT, resource_type TEXT, resource_id TEXT, outcome TEXT, ip TEXT,
    request_id TEXT, trace_id TEXT
);
CREATE INDEX records_{0}_by_stream ON records_{0} (stream, seq);
CREATE INDEX records_{0}_by_time ON records_{0} (ts);
CREATE INDEX records_{0}_by_principal ON records_{0} (principal, ts) WHERE principal IS NOT NULL;
CREATE INDEX records_{0}_by_resource ON records_{0} (resource_id, ts) WHERE resource_id IS NOT NULL;
CREATE INDEX records_{0}_by_action ON records_{0} (action, ts) WHERE action IS NOT NULL;
CREATE INDEX records_{0}_by_request ON records_{0} (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX records_{0}_by_trace ON records_{0} (trace_id) WHERE trace_id IS NOT NULL;
"""

_NO_ROOM: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})


def connect(path: Path) -> sqlite3.Connection:
    """Open the index for any thread, one at a time; transactions are begun by hand."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    with closed_on_error(connection):
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA wal_autocheckpoint = 16000")
    return connection


def connect_to_read(path: Path, *, is_still: bool = False, statements: int = 128) -> sqlite3.Connection:
    """Open an index that exists, for reading only; ``is_still`` when nobody writes to it and its folder may be sealed.

    ``statements`` are kept prepared.

    Raises ``sqlite3.Error`` when there is none: a search never makes one.
    """
    address = f"file:{quote(str(path))}?mode=ro"
    connection = _open(address, statements)
    try:
        connection.execute("SELECT count(*) FROM logs")
    except sqlite3.OperationalError:
        connection.close()
        if not is_still:
            raise
        connection = _open(f"{address}&immutable=1", statements)
    return connection


def _open(address: str, statements: int) -> sqlite3.Connection:
    return sqlite3.connect(
        address, uri=True, isolation_level=None, check_same_thread=False, timeout=30.0, cached_statements=statements
    )


def prepare(path: Path) -> sqlite3.Connection:
    """Open the index and make its tables if it has none.

    Raises `StorageError` for a file that is no index of this version: it is safe to rebuild it.
    """
    try:
        connection = connect(path)
        with closed_on_error(connection):
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript("BEGIN;" + SCHEMA + "COMMIT;")
                version = VERSION
            if version != VERSION:
                raise unusable(path, f"it has version {version}, not {VERSION}")
    except sqlite3.Error as error:
        raise failed(path, error) from error
    return connection


@contextmanager
def closed_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    """Close the connection if the block fails: nobody else will have it."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def make_part(connection: sqlite3.Connection, number: int) -> None:
    """Make the tables of a part, inside the transaction that fills it, unless they are there."""
    if connection.execute("SELECT 1 FROM parts WHERE number = ?", (number,)).fetchone() is None:
        for statement in PART.format(number).split(";\n")[:-1]:
            connection.execute(statement)


def is_full(error: Exception) -> bool:
    """Say whether SQLite had no room, for a page or for what connections share."""
    return getattr(error, "sqlite_errorcode", None) in _NO_ROOM


def failed(path: Path, error: Exception) -> StorageError:
    """Return what such an error means: there is no room now, or the index has to be made anew."""
    if is_full(error):
        return StoreFull(f"there is no room for the index {path} ({error})")
    return unusable(path, f"{type(error).__name__}: {error}")


def unusable(path: Path, why: str) -> StorageError:
    """Return the error that asks for a rebuild, which loses nothing."""
    return StorageError(f"the index {path} cannot be used ({why}): rebuild it with `audit-ready rebuild-index`")
