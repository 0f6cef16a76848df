"""The holds as the ledger says them, read from where the last reading ended."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from audit_middleware.collector.logs import Log
from audit_middleware.collector.retention.holds import HoldBook
from audit_middleware.collector.retention.policy import OWN_CLASS
from audit_middleware.collector_record import Held
from audit_middleware.errors import BadLedger
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import SealVerifier, leaf_hash, parse_frame
from audit_middleware.tlog.merkle import Frontier

_HOLD: Final = b',"type":"hold",'


@dataclass(slots=True)
class _Reading:
    book: HoldBook = field(default_factory=HoldBook)
    trees: dict[str, Frontier] = field(default_factory=dict)
    """How far each log of the collector's own class was read, by its origin."""


class LedgerBook:
    """Reads holds from the ledger, never from an index, and checks that they are what was signed for.

    Every reading checks what it reads against the published root, so what was read once need not be read again to be
    right: whoever alters it later alters nothing that is remembered here. Safe in several threads.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._seals = SealVerifier(keyring)
        self._turn = threading.Lock()
        self._reading = _Reading()

    def read(self, logs: Iterable[Log], *, is_fresh: bool = False) -> HoldBook:
        """Return every hold as it stands now, read as far as the logs have grown; ``is_fresh`` reads all of them again.

        Raises `BadLedger` for a log that does not have the root that was signed, `StorageError`.
        """
        with self._turn:
            reading = _Reading() if is_fresh else self._reading
            self._reading = _Reading()  # what fails half-way is read from the beginning the next time
            for log in logs:
                if log.class_ == OWN_CLASS:
                    if is_fresh:
                        log.reader().check_tiles()
                    self._read_on(log, reading)
            self._reading = reading
            return reading.book

    def _read_on(self, log: Log, reading: _Reading) -> None:
        published = log.ledger.published
        tree = reading.trees.setdefault(log.origin, Frontier())
        if tree.size > published.size:
            raise BadLedger(f"{published.size} entries, and {tree.size} were read before", where="checkpoint")
        found: list[Held] = []
        for line in log.ledger.entries(tree.size, published.size - 1) if tree.size < published.size else ():
            tree.append(leaf_hash(line))
            if _HOLD in line:
                found += self._held(line)
        if tree.size and tree.root() != published.root:
            raise BadLedger("another root than that of the entries", where="checkpoint")
        for held in found:
            reading.book.take(held)

    def _held(self, line: bytes) -> list[Held]:
        frame = parse_frame(line)
        if frame.type != "hold":
            return []
        self._seals.verify_seal(line, frame)
        payload = parse_rec(line, frame)
        return [payload] if isinstance(payload, Held) else []
