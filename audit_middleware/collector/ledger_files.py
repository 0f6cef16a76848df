"""The files of a ledger that are replaced: lock, write-ahead, checkpoint, and the guard elsewhere.

Which states of them a crash can leave, and which ones mean that somebody put an older copy back,
is `settle`'s to say; it is pure.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from audit_middleware.collector.ledger_growth import WriteAhead
from audit_middleware.collector.storage.durable import Durable, make_folders, replace, storage_errors
from audit_middleware.errors import RollbackDetected, StorageError
from audit_middleware.tlog.checkpoint import Checkpoint, open_checkpoint
from audit_middleware.tlog.note import Verifier


def settle(
    signed: Checkpoint,
    guard: Checkpoint | None,
    write_ahead: WriteAhead | None,
    *,
    where: Path,
    second: Path | None = None,
) -> WriteAhead | None:
    """Return the commit to replay, None when the last one was finished.

    The rules, in order:

    * a checkpoint without a guard, or a guard behind it: the second place was lost or put back
    * guard and checkpoint of one size have one root
    * a write-ahead that begins at the checkpoint is replayed; one that ends there was finished
    * a guard ahead of the checkpoint is the checkpoint that the replay arrives at; anything else
      means that the folder is older than what was signed

    Raises:
        RollbackDetected: with the sizes and how to go on.
    """
    at = f" at {second}" if second else ""
    pending = write_ahead if write_ahead is not None and write_ahead.first == signed.size else None
    if guard is None or guard.size < signed.size:
        found = f"at {guard.size}" if guard else "missing"
        raise RollbackDetected(
            f"{where} is at size {signed.size}, its guard{at} {found}. If the collector runs with --guard or "
            "AUDIT_COLLECTOR_GUARD, or as another user, give the same here: that guard is the one that counts. Only if "
            "it is lost, and nobody keeps a larger checkpoint, copy the file 'checkpoint' over the guard"
        )
    if guard.size == signed.size and guard.root != signed.root:
        raise RollbackDetected(
            f"{where} and its guard have two roots for size {signed.size}: one of them is of another log. "
            "Compare both with a receipt or a witness before going on"
        )
    arrives = pending is not None and (pending.end, pending.root) == (guard.size, guard.root)
    if guard.size > signed.size and not arrives:
        raise RollbackDetected(
            f"{where} is at size {signed.size}, but size {guard.size} was signed: this is an older copy. Put "
            f"the newer folder back; entries {signed.size} to {guard.size - 1} are missing here. If they are "
            "lost for good, begin a new log folder and keep this one as it is"
        )
    if write_ahead is not None and signed.size not in {write_ahead.first, write_ahead.end}:
        raise RollbackDetected(
            f"{where} is at size {signed.size}, its write-ahead leads from {write_ahead.first} to "
            f"{write_ahead.end}: files of different times lie in this folder. Put a whole copy back"
        )
    return pending


class LedgerFolder:
    """The replaceable files themselves. Every failure is a `StorageError`; the lock is held while open."""

    def __init__(self, path: Path, guard: Path, *, files: Durable) -> None:
        self.path = path
        self._guard = guard
        self._files = files
        with storage_errors(f"cannot open the ledger {path}"):
            make_folders(files, path)
            make_folders(files, guard.parent)
            self._lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StorageError(
                f"{path} is open for writing in another process; a ledger has one writer. Stop the other "
                "collector, or give this one a --data folder of its own"
            ) from error

    @property
    def second(self) -> Path:
        """Where the guard lies."""
        return self._guard

    @property
    def closed(self) -> bool:
        """Whether the lock was given back."""
        return self._lock < 0

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock)
        self._lock = -1

    def checkpoint(self) -> bytes | None:
        """Return the published note."""
        return self._read(self.path / "checkpoint")

    def guard(self, verifier: Verifier) -> Checkpoint | None:
        """Return what was signed last, according to the second place.

        Raises:
            BadSignature: somebody else signed it.
        """
        note = self.guard_note()
        return None if note is None else open_checkpoint(note, verifier)

    def guard_note(self) -> bytes | None:
        """Return what lies in the second place, unread."""
        return self._read(self._guard)

    def write_ahead(self) -> WriteAhead | None:
        """Return the last commit, applied or not."""
        path = self.path / ".write-ahead"
        data = self._read(path)
        return None if data is None else WriteAhead.parse(data, path)

    def commit(self, write_ahead: WriteAhead) -> None:
        """Assign the indices: once this returns, the commit survives every crash."""
        self._replace(self.path / ".write-ahead", write_ahead.encode())

    def publish(self, note: bytes) -> None:
        """Remember in the second place what was signed, then make it the log's checkpoint."""
        self._replace(self._guard, note)
        self._replace(self.path / "checkpoint", note)

    def _read(self, path: Path) -> bytes | None:
        with storage_errors(f"cannot read {path}"):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def _replace(self, path: Path, data: bytes) -> None:
        with storage_errors(f"cannot write {path}"):
            replace(self._files, path, data)
