"""What a collector's own stream says of lines it set aside: which gaps that explains, and whether they are kept."""

from __future__ import annotations

import os
import stat
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from audit_middleware.collector_record import ConflictFound, Quarantined
from audit_middleware.record import COLLECTOR_SERVICE, Payload
from audit_middleware.sealing.seal import Frame, leaf_hash
from audit_middleware.sealing.text import b64url
from audit_middleware.verify.lines import MAX_ACCOUNTED, Claim, LineVerifier
from audit_middleware.verify.report import Severity

PASSED_OVER: Final = frozenset({"json", "schema"})
"""Reasons that are reached behind a good seal: the stream went on over such a line."""

UNDECIDED: Final = frozenset({"unknown_key", "service", "jump"})
"""Reasons that say nothing of the line itself."""

_MAX_FILE: Final = 4 * 1024 * 1024  # a line of the longest body, in base64, and its reasons

ReadKept = Callable[[str, str], bytes | None]
"""Returns the line that is kept for (leaf, reason), or None when it is not there."""


class _Kept(NamedTuple):
    reason: str
    deliverer: str
    stream: str | None
    seq: int | None
    where: str
    is_verified: bool


class _File(msgspec.Struct):
    base64: str


class SetAside:
    """Follows the `quarantine` and `conflict` records of collectors' own streams; at most `MAX_ACCOUNTED` lines."""

    def __init__(self, lines: LineVerifier, *, is_part: bool) -> None:
        self._lines = lines
        self._is_part = is_part
        self._kept: dict[str, _Kept] = {}

    def take(self, payload: Payload, frame: Frame, where: str) -> None:
        """Note what a record says; one that no collector wrote says nothing."""
        if not isinstance(payload, Quarantined | ConflictFound) or not self.is_collectors(payload.service, frame):
            return
        if isinstance(payload, ConflictFound):
            message = f"{payload.seq} of {payload.stream} came twice: {payload.kept} is kept, {payload.other} set aside"
            self._lines.note(Severity.TAMPERING, "conflict", where, message, frame)
        elif payload.state == "admitted":
            self._kept.pop(payload.leaf, None)
        elif payload.leaf in self._kept or len(self._kept) < MAX_ACCOUNTED:
            is_verified = frame.kid in self._lines.keyring.keys
            self._kept[payload.leaf] = _Kept(
                payload.reason, payload.deliverer, payload.stream, payload.seq, where, is_verified
            )
        else:
            message = f"more than {MAX_ACCOUNTED} lines were set aside; {payload.leaf} was not followed further"
            self._lines.note(Severity.UNCHECKED, "quarantine", where, message, frame)

    def finish(self, read: ReadKept | None) -> None:
        """Say which lines stayed in quarantine, and let those explain gaps that can."""
        for leaf, kept in self._kept.items():
            self._claim(leaf, kept)
            place = f"{kept.seq} of {kept.stream}" if kept.stream is not None else "a line without a place"
            message = f"{kept.reason}: {place}, delivered by {kept.deliverer}, leaf {leaf}"
            self._report(kept, message)
            if read is not None:
                self._check_file(read, leaf, kept)

    def is_collectors(self, service: str, frame: Frame) -> bool:
        """Say whether a record is a collector's own.

        In a part of the logs, the ``open`` record of a stream that began before may be missing.
        """
        seen = self._lines.streams.get(frame.stream)
        if seen is None or service != COLLECTOR_SERVICE:
            return False
        return seen.opened_by == COLLECTOR_SERVICE or (self._is_part and seen.opened_by is None and seen.first > 0)

    def _claim(self, leaf: str, kept: _Kept) -> None:
        if kept.stream is None or kept.seq is None or kept.reason not in PASSED_OVER | UNDECIDED:
            return
        is_explained = kept.reason in PASSED_OVER and kept.is_verified
        severity = Severity.NOTE if is_explained else Severity.UNCHECKED
        self._lines.claim(kept.stream, kept.seq, Claim(severity, leaf))

    def _report(self, kept: _Kept, message: str) -> None:
        if kept.reason == "sequence":
            self._lines.note(Severity.TAMPERING, "broken", kept.where, f"set aside for {message}")
        else:
            self._lines.note(Severity.NOTE, "quarantine", kept.where, message)

    def _check_file(self, read: ReadKept, leaf: str, kept: _Kept) -> None:
        line = read(leaf, kept.reason)
        if line is None:
            message = f"{leaf}, set aside for {kept.reason}, is not in the quarantine folder, or cannot be read"
        elif b64url(leaf_hash(line)).decode() != leaf:
            message = f"{leaf}, set aside for {kept.reason}, holds other bytes"
        else:
            return
        self._lines.note(Severity.TAMPERING, "quarantine_lost", kept.where, message)


def folder_kept(folder: Path) -> ReadKept:
    """Return a reader of a quarantine folder; a line may move to another reason while it is read."""

    def read(leaf: str, reason: str) -> bytes | None:
        for _ in range(2):
            names = os.listdir(folder) if folder.is_dir() else []
            for name in sorted(names, key=lambda name: name != reason):
                line = _read_line(folder / name / f"{leaf}.json")
                if line is not None:
                    return line
        return None

    return read


def _read_line(path: Path) -> bytes | None:
    """Return the line of a file, None when it is none of ours; opens nothing that could block."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            return b64decode(msgspec.json.decode(file.read(_MAX_FILE), type=_File).base64)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
