"""What shows that a log is older than it once was: checkpoints that are archived or were kept, files beyond its end."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from audit_middleware.errors import BadLedger, BadProof, BadSignature, VerificationError
from audit_middleware.tlog.checkpoint import Checkpoint, open_checkpoint
from audit_middleware.tlog.merkle import (
    EMPTY_ROOT,
    Frontier,
    NodeReader,
    consistency_proof,
    leaf_hash,
    verify_consistency,
)
from audit_middleware.tlog.note import MAX_NOTE, Verifier
from audit_middleware.tlog.reader import LogReader
from audit_middleware.tlog.tiles import HEIGHT, decode_bundle, parse_path
from audit_middleware.verify.report import Severity

MAX_ARCHIVED: Final = 1000
"""Archived checkpoints that are compared, the newest ones."""

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_WRITE_AHEAD: Final = re.compile(rb"audit-ready-write-ahead/1 [0-9]{1,19} ([0-9]{1,19}) ([0-9]{1,19}) ([0-9a-f]{64})\n")
_MAX_WRITE_AHEAD: Final = 64 * 1024 * 1024

Note = Callable[[Severity, str, str, str], None]
"""Called with severity, rule, where and message."""


class LogFiles(Protocol):
    """Where the files of a log can be listed as well as read: a folder, a bucket."""

    def read(self, key: str, limit: int) -> bytes | None:
        """Return the bytes of a file, at most so many; None when it is not there or cannot be read."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names of the files below a prefix that ends with ``/``, in any order."""

    def unsigned(self, key: str) -> Severity:
        """Say what it means that this file lies beyond the checkpoint, and no write-ahead explains it."""


class FolderFiles:
    """A log's folder; what cannot be read is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, key: str, limit: int) -> bytes | None:
        """Return the bytes of a file; opens nothing that could block."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with open(os.open(self._folder / key, flags), "rb") as file:
                return file.read(limit)
        except OSError:
            return None

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the names below a folder."""
        return _files(self._folder / prefix, prefix.rstrip("/"))

    def unsigned(self, key: str) -> Severity:  # noqa: ARG002 - the protocol's
        """A folder has its checkpoint, so it is tampering."""
        return Severity.TAMPERING


class KeptCheckpoint(NamedTuple):
    """A checkpoint that somebody kept from earlier: the note and where it was read from."""

    where: str
    note: bytes

    @property
    def origin(self) -> str:
        """The log it claims to be of."""
        return self.note.partition(b"\n")[0].decode("utf-8", "replace")


def check_kept(
    kept: KeptCheckpoint, reader: LogReader, verifier: Verifier, note: Note, *, is_expired: bool = False
) -> None:
    """Check that a log extends a checkpoint that was kept outside of it.

    Of one whose entries have expired that can be said only where it needs no leaf hashes.
    """
    try:
        old = open_checkpoint(kept.note, verifier)
    except VerificationError as error:
        message = f"not signed by the key its log is verified with, so it proves nothing: {error}"
        note(Severity.UNCHECKED, "signature", kept.where, message)
        return
    if not _check_extends(old, reader, reader.nodes(), kept.where, note, is_expired=is_expired):
        message = f"size {old.size} cannot be compared any more: the leaf hashes that the proof needs have expired"
        note(Severity.UNCHECKED, "rollback", kept.where, message)


def check_files(
    name: str, files: LogFiles, reader: LogReader, verifier: Verifier, note: Note, *, is_expired: bool = False
) -> None:
    """Look among a log's files for what is newer than its checkpoint."""
    sizes, extent = archived_sizes(files), _extent(files)
    # in this order a log that grows meanwhile explains what was just listed: its write-ahead comes first
    pending = files.read(".write-ahead", _MAX_WRITE_AHEAD)
    present = _present(files, verifier) or reader.checkpoint()
    for size in sizes[-MAX_ARCHIVED:]:
        if size > present.size:
            message = f"was signed, but the log's checkpoint is at {present.size}: an older copy was put in place"
            note(Severity.TAMPERING, "rollback", f"{name}/checkpoints/{size}", message)
    _check_archived(name, files, sizes, reader, verifier, note, is_expired=is_expired)
    reached = present.size
    if extent.leaves > reached:
        reached = _end_of(pending, present, reader.nodes() if present == reader.checkpoint() else None) or reached
    if extent.leaves > reached:
        severity = files.unsigned(extent.path)
        is_rollback = severity is Severity.TAMPERING
        why = "no write-ahead says why" if is_rollback else "a newer one (--checkpoint) would cover the rest"
        message = f"holds entries up to {extent.leaves - 1}; the checkpoint is at {present.size}, {why}"
        note(severity, "rollback" if is_rollback else "ahead", f"{name}/{extent.path}", message)


def _check_archived(
    name: str,
    files: LogFiles,
    sizes: list[int],
    reader: LogReader,
    verifier: Verifier,
    note: Note,
    *,
    is_expired: bool,
) -> None:
    """The present tree has to extend every checkpoint that was archived; one signature tells whose each is."""
    nodes, end = reader.nodes(), reader.checkpoint().size
    for size in [size for size in sizes[-MAX_ARCHIVED:] if size <= end]:
        where = f"{name}/checkpoints/{size}"
        try:
            old = open_checkpoint(files.read(f"checkpoints/{size}", MAX_NOTE) or b"", verifier)
        except BadSignature as error:
            note(Severity.TAMPERING, "signature", where, str(error))
            continue
        except VerificationError as error:
            note(Severity.TAMPERING, "ledger", where, str(error))
            continue
        if old.size != size:
            note(Severity.TAMPERING, "ledger", where, f"is a checkpoint of size {old.size}")
        _check_extends(old, reader, nodes, where, note, is_expired=is_expired)


def _check_extends(
    old: Checkpoint, reader: LogReader, nodes: NodeReader, where: str, note: Note, *, is_expired: bool
) -> bool:
    """Note what shows that a log does not extend ``old``; say whether that could be found out."""
    new = reader.checkpoint()
    if new.size < old.size:
        message = f"signed size {old.size}; the log's checkpoint is at {new.size} now: an older copy was put in place"
        note(Severity.TAMPERING, "rollback", where, message)
        return True
    try:
        root = old.root if old.size else EMPTY_ROOT
        verify_consistency(old.size, root, new.size, new.root, consistency_proof(old.size, new.size, nodes))
    except (BadProof, BadLedger) as error:
        if is_expired and isinstance(error, BadLedger):
            return False
        note(Severity.TAMPERING, "rollback", where, f"the log does not continue the tree of {old.size}: {error}")
    return True


class _Extent(NamedTuple):
    leaves: int
    path: str


def _extent(files: LogFiles) -> _Extent:
    """Return how many entries the widest file of a log speaks of."""
    furthest = _Extent(0, "")
    for path in files.keys("tile/"):
        try:
            tile = parse_path(path)
        except BadLedger:
            continue
        leaves = (tile.index * 256 + tile.width) << HEIGHT * max(tile.level, 0)
        furthest = max(furthest, _Extent(leaves, path))
    return furthest


def _files(folder: Path, name: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError:
        return
    for entry, is_folder in found:
        if is_folder:
            yield from _files(folder / entry, f"{name}/{entry}")
        else:
            yield f"{name}/{entry}"


def archived_sizes(files: LogFiles) -> list[int]:
    """Return the sizes of the checkpoints that are archived, smallest first."""
    names = [key.removeprefix("checkpoints/") for key in files.keys("checkpoints/")]
    return sorted(int(name) for name in names if _SIZE.fullmatch(name))


def _present(files: LogFiles, verifier: Verifier) -> Checkpoint | None:
    """Return the checkpoint as it is now: the log may have grown since verification began."""
    try:
        return open_checkpoint(files.read("checkpoint", MAX_NOTE) or b"", verifier)
    except VerificationError:
        return None


def _end_of(write_ahead: bytes | None, present: Checkpoint, nodes: NodeReader | None) -> int | None:
    """Return where a pending commit ends, None when the write-ahead does not continue the tree it should."""
    match = _WRITE_AHEAD.match(write_ahead or b"")
    if match is None or int(match[1]) != present.size:
        return None
    end = int(match[2])
    if nodes is None:  # the log grew since it was verified; this commit is checked the next time
        return end
    try:
        entries = decode_bundle((write_ahead or b"")[match.end() :], end - present.size)
        frontier = Frontier.read(present.size, nodes)
    except VerificationError:
        return None
    frontier.extend([leaf_hash(entry) for entry in entries])
    return end if frontier.root().hex().encode() == match[3] else None
