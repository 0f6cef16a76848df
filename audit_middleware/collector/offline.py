"""Search a data folder without its collector: index and tiles are read, nothing is locked, signed or written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from audit_middleware.collector.index_search import select
from audit_middleware.collector.index_store import Hit
from audit_middleware.collector.query import Query, Reader, parse_query
from audit_middleware.collector.storage.files import FileStore
from audit_middleware.collector.storage.stores import place_of
from audit_middleware.errors import ConfigurationError, StorageError
from audit_middleware.tlog.note import Verifier
from audit_middleware.tlog.proof import Proof
from audit_middleware.tlog.reader import LogReader


class OfflineLog:
    """One log, read by its files alone against its own key."""

    def __init__(self, folder: Path, verifier: Verifier) -> None:
        self._store = FileStore(folder)
        self._reader = LogReader(self._store.get, verifier)

    def entry(self, index: int) -> bytes:
        """Return one sealed line; raise `BadLedger` when it is not there."""
        return self._reader.entry(index)

    def proof(self, index: int) -> bytes:
        """Return the C2SP tlog-proof of an entry against the checkpoint in the folder."""
        note = self._store.get("checkpoint") or b""
        return Proof(index, tuple(self._reader.inclusion(index)), note).encode()


class OfflineLogs:
    """Every log that ``log.vkey`` of a data folder names."""

    def __init__(self, data: Path) -> None:
        self._data = data
        try:
            vkeys = (data / "log.vkey").read_text(encoding="utf-8").split()
            self._verifiers = {verifier.name: verifier for verifier in map(Verifier.parse, vkeys)}
        except (OSError, UnicodeDecodeError, ConfigurationError) as error:
            raise StorageError(f"{data} is no data folder of a collector: log.vkey: {error}") from error

    def by_origin(self, origin: str) -> OfflineLog | None:
        """Return the log of an origin, None when the folder has none of that name."""
        verifier = self._verifiers.get(origin)
        if verifier is None:
            return None
        folder = self._data.joinpath("log", *origin.split("/")[-2:])
        if (place := place_of(folder)) is not None:
            raise StorageError(f"the tiles of {folder} are in {place}: search the collector by its URL")
        return OfflineLog(folder, verifier)


class OfflineIndex:
    """An index nobody writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise StorageError(f"{path} is missing: make it with `audit-ready rebuild-index --data {path.parent}`")

    def select(self, query: Query) -> list[Hit]:
        """Search it; nothing is written beside it either."""
        return select(self.path, query)

    def flush(self, timeout: float | None = None) -> None:
        """There is nothing to wait for."""


def search_folder(data: Path, parameters: Mapping[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    """Yield up to ``limit`` records, newest first, in the shape of ``GET /v1/records``.

    Raises `Problem` for a bad parameter, `StorageError` or `BadLedger` for a folder that cannot be read.
    """
    reader = Reader(OfflineIndex(data / "index.sqlite"), OfflineLogs(data))
    cursor: str | None = None
    while limit > 0:
        items = {**parameters, "limit": min(limit, 500)} | ({"cursor": cursor} if cursor else {})
        page = reader.search(parse_query((name, str(value)) for name, value in items.items()))
        yield from (msgspec.json.decode(msgspec.json.encode(found)) for found in page.records)
        limit -= len(page.records)
        cursor = page.next
        if cursor is None:
            return
