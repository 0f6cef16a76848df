"""The ledger: the exact sealed lines as a C2SP tiled transparency log (wire format, section 6).

Files are created once; the tree state is nothing but the last tiles of every level, so that there
is no second copy of it to disagree with. A commit goes through these steps, and opening a ledger
repeats the ones that a crash cut off, giving the same bytes::

    write-ahead -> bundles -> tiles, bottom up -> sign -> guard -> checkpoint -> archive -> discard
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from audit_middleware.collector.ledger_files import LedgerFolder, settle
from audit_middleware.collector.ledger_growth import Growth, WriteAhead, grow
from audit_middleware.collector.storage import Store, keep, put_all
from audit_middleware.collector.storage.durable import Durable
from audit_middleware.errors import BadLedger, RollbackDetected, StorageError
from audit_middleware.tlog.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from audit_middleware.tlog.merkle import EMPTY_ROOT, leaf_hash
from audit_middleware.tlog.note import Signer, Verifier
from audit_middleware.tlog.reader import LogReader
from audit_middleware.tlog.tiles import (
    ENTRIES,
    WIDTH,
    Tile,
    TileEdge,
    encode_bundle,
    entries_path,
    partial_tiles,
    split_hashes,
)

ARCHIVE_INTERVAL = 60.0
"""Seconds between two archived checkpoints."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What `Ledger.append` made durable: entries ``first`` to ``last``, and the note that covers them."""

    first: int
    last: int
    checkpoint: bytes


class Ledger:
    """One log folder and its single writer.

    `append` and `close` may be called from several threads and take turns; reading needs no turn.
    After any failure of `append` it is unknown how far the commit came: the ledger refuses further
    appends, and opening it again finds out.
    """

    def __init__(self, folder: LedgerFolder, store: Store, signer: Signer, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._store = store
        self._signer = signer
        self._clock = clock
        self._turn = threading.RLock()
        self._sound = False
        self._edge = TileEdge()  # this and the next three: the published tree; owned by _turn
        self._tail = b""
        self._previous = 0
        self._archived: float | None = None
        self._archived_size = 0
        self._kept = 0
        self._published = (Checkpoint(signer.name, 0, EMPTY_ROOT), b"")
        self._signed: Checkpoint | None = None

    @classmethod
    def open(
        cls,
        path: Path | str,
        store: Store,
        signer: Signer,
        *,
        guard: Path | str,
        files: Durable | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Ledger:
        """Open or create the ledger in ``path``, finishing a commit that a crash cut off.

        ``guard`` is a file on another disk or at least in another backup than ``path``.

        Raises:
            StorageError: another writer has it, the write-ahead is damaged, or the disk failed.
            RollbackDetected: what lies here is older than what was signed.
            BadSignature: checkpoint or guard are of another key.
            BadLedger: the last tiles do not lead to the checkpoint.
        """
        folder = LedgerFolder(Path(path), Path(guard), files=files or Durable())
        ledger = cls(folder, store, signer, clock)
        try:
            ledger._recover()
        except BaseException:
            folder.close()
            raise
        return ledger

    @property
    def origin(self) -> str:
        """Name of the log and of its key."""
        return self._signer.name

    @property
    def verifier(self) -> Verifier:
        """The public key to verify this log with."""
        return self._signer.verifier

    @property
    def size(self) -> int:
        """Number of entries under the published checkpoint."""
        return self._published[0].size

    @property
    def root(self) -> bytes:
        """Root of the published tree."""
        return self._published[0].root

    @property
    def published(self) -> Checkpoint:
        """The published checkpoint, from memory."""
        return self._published[0]

    @property
    def signed(self) -> Checkpoint:
        """What was signed last, which its files may hold already though it is not published yet."""
        return self._signed or self.published

    def kept_notes(self) -> tuple[bytes | None, bytes | None]:
        """Return checkpoint and guard as their files hold them now, whoever wrote them; raises `StorageError`."""
        return self._folder.checkpoint(), self._folder.guard_note()

    @property
    def checkpoint(self) -> bytes:
        """The published checkpoint, a signed note."""
        return self._published[1]

    def append(self, entries: Sequence[bytes], leaves: Sequence[bytes] | None = None) -> Commit:
        """Commit entries as one group; they are durable, signed for and published when this returns.

        ``leaves`` are their leaf hashes, for a caller that has computed them already; trusted.
        Nothing to append is not an error, and not a commit.

        Raises:
            BadLedger: an entry is longer than 65,535 bytes; nothing happened.
            StorageError: not known how far it came; restart to recover.
        """
        if leaves is None:
            leaves = [leaf_hash(entry) for entry in entries]
        if len(leaves) != len(entries):
            raise ValueError(f"{len(leaves)} leaf hashes for {len(entries)} entries")
        with self._turn:
            self._require_sound()
            first = self.size
            if entries:
                growth = self._grow(entries, leaves)
                self._sound = False  # until the last step: whatever is raised in between poisons
                self._folder.commit(growth.write_ahead)
                self._apply(growth)
                self._sound = True
            return Commit(first, self.size - 1, self.checkpoint)

    @property
    def is_sound(self) -> bool:
        """Whether it takes appends: it is open, and no append has failed."""
        return self._sound

    def keep_last(self) -> None:
        """Have the partial tiles of the published tree kept like all others: perhaps nothing follows them."""
        if self._kept != self.size:
            keep(self._store, sorted(tile.path for tile in partial_tiles(self.size)))
            self._kept = self.size

    def entry(self, index: int) -> bytes:
        """Return one entry; raise `BadLedger` when there is none or its bundle is damaged."""
        return self._reader().entry(index)

    def entries(self, first: int = 0, last: int | None = None) -> Iterator[bytes]:
        """Yield the entries from ``first`` to ``last``, both included, one bundle in memory at a time."""
        return (entry for _, entry in self._reader().entries(first, last))

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the inclusion proof of an entry in the tree of ``size``; see `LogReader.inclusion`."""
        return self._reader().inclusion(index, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Return the consistency proof between two sizes; see `LogReader.consistency`."""
        return self._reader().consistency(old, new)

    def close(self) -> None:
        """Archive the last checkpoint, unless an append failed, and give the folder back."""
        with self._turn:
            if self._folder.closed:
                return
            try:
                if self._sound:
                    self.keep_last()
                    self.archive()
            finally:
                self._sound = False
                self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_sound(self) -> None:
        if not self._sound:
            state = "closed" if self._folder.closed else "in doubt after a failed append: restart to recover"
            raise StorageError(f"the ledger {self._folder.path} is {state}")

    def _grow(self, entries: Sequence[bytes], leaves: Sequence[bytes]) -> Growth:
        return grow(self._edge, self._tail, entries, leaves, previous=self._previous)

    def _apply(self, growth: Growth) -> None:
        """Store a commit whose write-ahead is durable, and publish it."""
        put_all(self._store, growth.files)
        self._publish(Checkpoint(self.origin, growth.write_ahead.end, growth.write_ahead.root))
        self._edge, self._tail = growth.edge, growth.tail
        if self._archived is None or self._clock() - self._archived >= ARCHIVE_INTERVAL:
            self.archive()
        self._discard(growth.write_ahead)

    def _publish(self, checkpoint: Checkpoint) -> None:
        note = sign_checkpoint(checkpoint, self._signer)
        self._signed = checkpoint
        self._folder.publish(note)
        self._published = checkpoint, note

    def archive(self) -> None:
        """Keep the published checkpoint for ever, as something later trees can be compared with."""
        with self._turn:
            if self._archived_size != self.size:
                self._store.put(f"checkpoints/{self.size}", self.checkpoint)
                self._archived, self._archived_size = self._clock(), self.size

    def _discard(self, done: WriteAhead) -> None:
        """Let go of the partial tiles that neither this checkpoint nor the one before it needs."""
        kept = partial_tiles(done.first) | partial_tiles(done.end)
        for tile in partial_tiles(done.previous) - kept:
            self._store.discard(tile.path)
        self._previous = done.first

    def _recover(self) -> None:
        note, guard = self._folder.checkpoint(), self._folder.guard(self.verifier)
        write_ahead = self._folder.write_ahead()
        signed = self._published[0] if note is None else open_checkpoint(note, self.verifier)
        if note is None and guard is None and write_ahead is None:
            self._require_empty_store()
            guard = signed
        pending = settle(signed, guard, write_ahead, where=self._folder.path, second=self._folder.second)
        if note is None:
            self._publish(signed)
        else:
            self._published = signed, note
        self._load(signed)
        self._finish(pending, write_ahead)
        self._require_nothing_ahead()
        self.keep_last()
        self.archive()
        self._sound = True

    def _finish(self, pending: WriteAhead | None, write_ahead: WriteAhead | None) -> None:
        """Replay the commit that a crash cut off, or only what came after its checkpoint."""
        if pending is not None:
            self._previous = pending.previous
            entries = pending.entries
            growth = self._grow(entries, [leaf_hash(entry) for entry in entries])
            if growth.write_ahead != pending:
                raise BadLedger("does not lead to the root it states", where=".write-ahead")
            self._apply(growth)
        elif write_ahead is not None:
            self._discard(write_ahead)

    def _load(self, signed: Checkpoint) -> None:
        """Read the right edge of the tree and check that it is the one that was signed."""
        reader = self._reader()
        self._edge = TileEdge.read(signed.size, reader.tile)
        if self._edge.frontier.root() != signed.root:
            raise BadLedger(f"the last tiles do not lead to the root of size {signed.size}", where="checkpoint")
        if width := signed.size % WIDTH:
            number = signed.size // WIDTH
            entries = reader.bundle(number)
            if [leaf_hash(entry) for entry in entries] != split_hashes(reader.tile(0, number, width)):
                raise BadLedger("does not hold the entries that were signed", where=entries_path(number, width))
            self._tail = encode_bundle(entries)

    def _require_empty_store(self) -> None:
        if (key := next(self._store.keys("tile/"), None)) is not None:
            raise RollbackDetected(
                f"the store holds {key}, but {self._folder.path} has no checkpoint and there is no guard: put "
                "both back, or begin a new log folder"
            )

    def _require_nothing_ahead(self) -> None:
        path = Tile(ENTRIES, self.size // WIDTH, WIDTH).path
        if self._store.get(path) is not None:
            raise RollbackDetected(
                f"the store holds {path}, which lies beyond size {self.size}: {self._folder.path} and its guard "
                "are older than the store. Put the newer ones back, or begin a new log folder"
            )

    def _reader(self) -> LogReader:
        """Return a reader of the tree as it is published now."""
        return LogReader(self._read, self.verifier, checkpoint=self._published[0])

    def _read(self, key: str) -> bytes | None:
        return self.checkpoint if key == "checkpoint" else self._store.get(key)
