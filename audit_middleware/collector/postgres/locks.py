"""Advisory locks: who may move a stream until the end of a transaction, who goes by a collector's name."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import psycopg

MANY: Final = 256
"""Streams locked one by one; a commit of more locks all, for PostgreSQL's table of locks is small."""


def lock_streams(connection: psycopg.Connection, names: Sequence[str]) -> None:
    """Lock streams until the transaction ends; in one order, so that no two wait for each other."""
    everything = key_of("every stream")
    if len(names) > MANY:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (everything,))
        return
    connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (everything,))
    keys = sorted(key_of(f"stream {name}") for name in names)
    connection.execute("SELECT count(pg_advisory_xact_lock(key)) FROM unnest(%s::bigint[]) AS key", (keys,))


def key_of(name: str) -> int:
    """Return the number of an advisory lock."""
    return int.from_bytes(sha256(b"audit-ready " + name.encode()).digest()[:8], "big", signed=True)
