"""Read-only access to a ledger."""

from __future__ import annotations

from pathlib import Path

from audit_middleware.collector.storage import Store
from audit_middleware.collector.storage.files import FileStore
from audit_middleware.tlog.note import Verifier
from audit_middleware.tlog.reader import LogReader


class LedgerReader(LogReader):
    """A ledger for whoever only reads it: no lock, no private key, nothing is created.

    ``source`` is the log's folder or its store.
    """

    def __init__(self, source: Path | str | Store, verifier: Verifier) -> None:
        store = FileStore(source) if isinstance(source, (str, Path)) else source
        super().__init__(store.get, verifier)
