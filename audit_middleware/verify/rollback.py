"""What shows that a log is older than it once was: checkpoints that are archived or were kept, files beyond its end."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

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


def check_folder(
    name: str, folder: Path, reader: LogReader, verifier: Verifier, note: Note, *, is_expired: bool = False
) -> None:
    """Look in a log's folder for what is newer than its checkpoint."""
    sizes, extent = _archived_sizes(folder), _extent(folder)
    # in this order a log that grows meanwhile explains what was just listed: its write-ahead comes first
    pending = _read(folder / ".write-ahead", _MAX_WRITE_AHEAD)
    present = _present(folder, verifier) or reader.checkpoint()
    for size in sizes[-MAX_ARCHIVED:]:
        if size > present.size:
            message = f"was signed, but the log's checkpoint is at {present.size}: an older copy was put in place"
            note(Severity.TAMPERING, "rollback", f"{name}/checkpoints/{size}", message)
    _check_archived(name, folder, sizes, reader, verifier, note, is_expired=is_expired)
    reached = present.size
    if extent.leaves > reached:
        reached = _end_of(pending, present, reader.nodes() if present == reader.checkpoint() else None) or reached
    if extent.leaves > reached:
        message = (
            f"holds entries up to {extent.leaves - 1}; the checkpoint is at {present.size}, no write-ahead says why"
        )
        note(Severity.TAMPERING, "rollback", f"{name}/{extent.path}", message)


def _check_archived(
    name: str,
    folder: Path,
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
            old = open_checkpoint(_read(folder / "checkpoints" / str(size), MAX_NOTE) or b"", verifier)
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


def _extent(folder: Path) -> _Extent:
    """Return how many entries the widest file of a log speaks of."""
    furthest = _Extent(0, "")
    for path in _files(folder / "tile", "tile"):
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


def _archived_sizes(folder: Path) -> list[int]:
    archive = folder / "checkpoints"
    names = os.listdir(archive) if archive.is_dir() else []
    return sorted(int(name) for name in names if _SIZE.fullmatch(name))


def _present(folder: Path, verifier: Verifier) -> Checkpoint | None:
    """Return the checkpoint as it is now: the log may have grown since verification began."""
    try:
        return open_checkpoint(_read(folder / "checkpoint", MAX_NOTE) or b"", verifier)
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


def _read(path: Path, limit: int) -> bytes | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(limit)
    except OSError:
        return None
