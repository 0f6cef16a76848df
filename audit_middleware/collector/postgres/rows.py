"""Rows of the index as PostgreSQL takes them: text without NUL and short enough for an index. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from hashlib import sha256
from typing import Any, Final, NamedTuple

from audit_middleware.collector.index_rows import COLUMNS, Entry, entry_id, row
from audit_middleware.collector.index_seal import IndexSeal
from audit_middleware.collector.index_store import Batch

MAX_TEXT: Final = 512
"""Bytes of a value in an index: PostgreSQL takes at most 2704 an entry, of all its columns together."""

_SHOWN: Final = 128
RECORD_COLUMNS: Final = ("log", "month", *COLUMNS, "seal", "line")
RECORD_TYPES: Final = ["int8", "date", "int8", "int8", "int8", "text", "int8", *["text"] * 9, "bytea", "bytea"]
PLACE_TYPES: Final = ["int8", "int8", "int8", "bytea", "bytea"]


class Item(NamedTuple):
    """One entry of a batch on its way into the tables."""

    id: int
    entry: Entry
    line: bytes
    leaf: bytes


def items(batch: Batch) -> list[Item]:
    """Return the entries of a batch with their numbers."""
    first = entry_id(batch.log, batch.first)
    numbers = range(first, first + len(batch.entries))
    return [Item(*each) for each in zip(numbers, batch.entries, batch.lines, batch.leaves, strict=True)]


def index_text(value: str) -> str:
    """Return what stands for a value in the index, in rows and in searches alike; equal only for equal values.

    PostgreSQL knows no NUL, and takes no long value into an index: those are named by their hash.
    """
    if "\0" not in value and len(value) <= MAX_TEXT // 4:
        return value
    data = value.encode("utf-8", "surrogatepass")
    if "\0" not in value and len(data) <= MAX_TEXT:
        return value
    return f"{value[:_SHOWN].replace(chr(0), '?')} sha256:{sha256(data).hexdigest()}"


def record_rows(log: int, month: date, some: Sequence[Item], seal: IndexSeal) -> Iterator[tuple[Any, ...]]:
    """Yield the values of `RECORD_COLUMNS`."""
    for item in some:
        values = [index_text(value) if isinstance(value, str) else value for value in row(item.id, item.entry)]
        yield (log, month, *values, place_seal(item, seal), item.line)


def place_rows(some: Sequence[Item], seal: IndexSeal) -> Iterator[tuple[Any, ...]]:
    """Yield who has which place."""
    for item in some:
        yield (item.entry.stream, item.entry.frame.seq, item.id, item.leaf, place_seal(item, seal))


def place_seal(item: Item, seal: IndexSeal) -> bytes:
    """Return the seal that binds entry, place and leaf."""
    return seal.place(item.entry.stream, item.entry.frame.seq, item.id, item.leaf)
