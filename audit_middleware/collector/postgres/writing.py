"""Writing a batch into the tables, inside of a transaction that somebody else begins and ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, Final

import psycopg

from audit_middleware.collector.index_rows import microseconds
from audit_middleware.collector.index_seal import IndexSeal
from audit_middleware.collector.index_store import Batch
from audit_middleware.collector.postgres.rows import (
    PLACE_TYPES,
    RECORD_COLUMNS,
    RECORD_TYPES,
    Item,
    items,
    place_rows,
    record_rows,
)
from audit_middleware.collector.streams import StreamState
from audit_middleware.errors import StoreUnavailable
from audit_middleware.sealing.text import b64url

_RECORDS: Final = f"COPY records ({', '.join(RECORD_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
_PLACES: Final = "COPY places (stream, seq, id, leaf, seal) FROM STDIN (FORMAT BINARY)"
_STREAMS: Final = """
INSERT INTO streams (number, stream, service, next, head, gaps, open_gaps, closed, seal, collector)
SELECT *, %s FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::integer[],
    %s::integer[], %s::bytea[])
ON CONFLICT (stream) DO UPDATE SET (number, service, next, head, gaps, open_gaps, closed, seal, collector) =
    (excluded.number, excluded.service, excluded.next, excluded.head, excluded.gaps, excluded.open_gaps,
    excluded.closed, excluded.seal, excluded.collector)
"""
_ASIDE: Final = "INSERT INTO asides VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
_SPAN: Final = (
    "INSERT INTO parts VALUES (%s, %s, %s, %s) ON CONFLICT (log, month) DO UPDATE SET"
    " oldest = least(parts.oldest, excluded.oldest), newest = greatest(parts.newest, excluded.newest)"
)
_TAKEN: Final = (
    "SELECT stream, seq, leaf FROM places JOIN unnest(%s::bigint[], %s::bigint[]) AS asked (a, b)"
    " ON stream = a AND seq = b"
)
_COPY: Final = (
    "INSERT INTO copies (id, collector, stream, seq, kept, other) VALUES (%s, %s, %s, %s, %s, %s)"
    " ON CONFLICT DO NOTHING"
)


def write(connection: psycopg.Connection, batch: Batch, month: date, seal: IndexSeal, collector: str) -> None:
    """Write one batch.

    Raises `StoreUnavailable` when the index does not stand where the batch begins: it was set back, and the ledger has
    to be read again.
    """
    _advance(connection, batch, collector)
    some = items(batch)
    if batch.is_replayed:
        some = _without_copies(connection, some, collector)
    if some:
        _copy(connection, _PLACES, PLACE_TYPES, place_rows(some, seal))
        _copy(connection, _RECORDS, RECORD_TYPES, record_rows(batch.log, month, some, seal))
        times = [microseconds(item.entry.frame.ts) for item in some]
        connection.execute(_SPAN, (batch.log, month, min(times), max(times)))
    if batch.streams:
        _put_streams(connection, batch.streams, seal, collector)
    for aside in batch.asides:
        connection.execute(_ASIDE, (*aside, seal.aside(*aside)))


def _advance(connection: psycopg.Connection, batch: Batch, collector: str) -> None:
    size = batch.first + len(batch.entries)
    moved = connection.execute(
        "UPDATE logs SET size = %s, root = %s WHERE number = %s AND size = %s AND collector = %s",
        (size, batch.root, batch.log, batch.first, collector),
    )
    if moved.rowcount:
        return
    made = connection.execute(
        "INSERT INTO logs (number, origin, collector, size, root) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (batch.log, batch.origin, collector, size, batch.root),
    )
    if not made.rowcount:
        raise StoreUnavailable(f"the index does not stand at {batch.first} of {batch.origin}: it was set back")


def _copy(
    connection: psycopg.Connection, statement: str, types: Sequence[str], rows: Iterable[tuple[Any, ...]]
) -> None:
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _put_streams(
    connection: psycopg.Connection, streams: Sequence[StreamState], seal: IndexSeal, collector: str
) -> None:
    columns = [list(column) for column in zip(*streams, strict=True)]
    columns[-1] = [int(closed) for closed in columns[-1]]
    connection.execute(_STREAMS, (collector, *columns, [seal.stream(state) for state in streams]))


def _without_copies(connection: psycopg.Connection, some: list[Item], collector: str) -> list[Item]:
    """Leave out the lines whose places are taken: another collector admitted them while this one could not tell."""
    asked = [item.entry.stream for item in some], [item.entry.frame.seq for item in some]
    taken = {(stream, seq): leaf for stream, seq, leaf in connection.execute(_TAKEN, asked).fetchall()}
    fresh: list[Item] = []
    for item in some:
        frame = item.entry.frame
        kept = taken.setdefault((item.entry.stream, frame.seq), item.leaf)
        if kept is item.leaf:
            fresh.append(item)
        else:
            leaves = b64url(kept).decode(), b64url(item.leaf).decode()
            connection.execute(_COPY, (item.id, collector, frame.stream, frame.seq, *leaves))
    return fresh
