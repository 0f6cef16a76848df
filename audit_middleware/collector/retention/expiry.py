"""How the entries of one log go: what was there is written down, put on record, and only then are they removed.

::

    expiring -> `retention` record, durable -> renamed to expired -> index -> bundles and leaf hashes

A crash leaves ``expiring``, which means nothing, or ``expired``, after which removing goes on at the next start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit_middleware.collector.logs import FinishedLog, Log
from audit_middleware.collector.quarantine import Quarantine
from audit_middleware.collector.storage import Store
from audit_middleware.collector.storage.durable import Durable, replace, storage_errors
from audit_middleware.collector.storage.stores import place_of
from audit_middleware.collector_record import Quarantined
from audit_middleware.errors import MalformedLine
from audit_middleware.record import COLLECTOR_SERVICE, Opened, Payload
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import Frame, leaf_hash, parse_frame
from audit_middleware.sealing.stream import StreamFollower
from audit_middleware.sealing.text import b64url
from audit_middleware.tlog.encoding import to_base64
from audit_middleware.tlog.tiles import WIDTH, Tile
from audit_middleware.verify.expired import FILE, ExpiredLog, ExpiredStream, encode_manifest
from audit_middleware.verify.quarantine import PASSED_OVER

EXPIRING: Final = "expiring"
WRITE_AHEAD: Final = ".write-ahead"


@dataclass(slots=True)
class _Seen:
    follower: StreamFollower
    service: str = "unknown"
    opened_by: str | None = None
    closed: bool = False


@dataclass(slots=True)
class Inventory:
    """What a log holds of every stream; fed entry by entry."""

    quarantine: Quarantine
    _streams: dict[str, _Seen] = field(default_factory=dict)

    def take(self, line: bytes) -> None:
        """Follow one entry; raise `MalformedLine` for what was never admitted."""
        frame = parse_frame(line)
        payload = parse_rec(line, frame)
        seen = self._follow(frame, line)
        seen.service = getattr(payload, "service", None) or seen.service
        if isinstance(payload, Opened) and frame.seq == 0:
            seen.opened_by = payload.service
        if frame.seq == seen.follower.next - 1:
            seen.closed = frame.type == "close"
        self._pass_over(payload)

    def manifest(self, log: Log) -> bytes:
        """Return the bytes of the ``expired`` file."""
        streams = [
            ExpiredStream(
                stream,
                seen.service,
                seen.opened_by,
                seen.closed,
                [(run.first, run.last, run.prev.decode(), run.leaf.decode()) for run in seen.follower.segments],
            )
            for stream, seen in self._streams.items()
        ]
        head = ExpiredLog(1, log.origin, log.ledger.size, to_base64(log.ledger.root))
        return encode_manifest(head, streams)

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return len(self._streams)

    def _follow(self, frame: Frame, line: bytes) -> _Seen:
        seen = self._streams.get(frame.stream)
        if seen is None:
            seen = self._streams[frame.stream] = _Seen(StreamFollower(frame.stream))
        seen.follower.follow(frame, b64url(leaf_hash(line)))
        return seen

    def _pass_over(self, payload: Payload) -> None:
        """A line in quarantine with a good seal took its place in its stream; only the collector's record says so."""
        if not isinstance(payload, Quarantined) or payload.service != COLLECTOR_SERVICE or payload.state != "kept":
            return
        held = self.quarantine.read(payload.leaf) if payload.reason in PASSED_OVER else None
        if held is None:
            return
        try:
            self._follow(parse_frame(held.line), held.line)
        except MalformedLine:
            return


def write_inventory(log: Log, quarantine: Quarantine) -> tuple[bytes, int]:
    """Write down what a log holds, as ``expiring``; return the bytes and the number of streams.

    Raises `BadLedger` for a damaged log, `StorageError`.
    """
    inventory = Inventory(quarantine)
    for line in log.ledger.entries():
        inventory.take(line)
    data = inventory.manifest(log)
    with storage_errors(f"cannot write {log.folder / EXPIRING}"):
        replace(Durable(), log.folder / EXPIRING, data)
    return data, inventory.streams


def declare_expired(folder: Path) -> None:
    """Make ``expiring`` the ``expired`` file: from now on the entries are gone, whether they still lie there or not."""
    with storage_errors(f"cannot rename {folder / EXPIRING}"):
        os.rename(folder / EXPIRING, folder / FILE)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_entries(log: FinishedLog) -> int:
    """Remove bundles and full tiles of leaf hashes; return how many files there were. May be repeated.

    The last commit's write-ahead holds entries too, and goes first. A store elsewhere gets the ``expired`` file before:
    who reads that alone has to be able to tell expired from missing.
    """
    if place_of(log.folder) is not None:
        with storage_errors(f"cannot read {log.folder / FILE}"):
            manifest = (log.folder / FILE).read_bytes()
        log.store.put(FILE, manifest)
    with storage_errors(f"cannot remove {log.folder / WRITE_AHEAD}"):
        (log.folder / WRITE_AHEAD).unlink(missing_ok=True)
    count = 0
    for key in list(_to_go(log.store, log.size)):
        log.store.discard(key)
        count += 1
    return count


def _to_go(store: Store, size: int) -> Iterator[str]:
    """The leaf hashes of the last, partial tile stay: without them the rest does not lead to the signed root."""
    kept = Tile(0, size // WIDTH, size % WIDTH).path if size % WIDTH else None
    yield from store.keys("tile/entries/")
    yield from (key for key in store.keys("tile/0/") if key != kept)
