"""Verify a spool: every line of every journal that still lies on this host."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from audit_middleware.journal.cursor import FILE_BYTES, Position, decode_cursor
from audit_middleware.journal.segment import segment_name, segment_ordinals
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.seal import FIRST_PREV, Frame, leaf_hash
from audit_middleware.sealing.stream import Step, StreamFollower
from audit_middleware.verify.lines import LineVerifier, StreamSeen
from audit_middleware.verify.report import Progress, Report, Severity

STREAM: Final = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]")
FILES: Final = frozenset({"lock", "outbox", "cursor", "meta.json", "reserve"})
LAST: Final = "last.json"
"""What a spool remembers of the streams that were delivered and removed."""

_SAFELY: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REPORT_EVERY: Final = 1 << 20
_REMEMBERED: Final = 10_000


class _Place(NamedTuple):
    line: bytes
    where: str
    ordinal: int


def verify_spool(path: Path, keyring: Keyring, progress: Progress = lambda _done, _total: None) -> Report:
    """Verify the journals below ``path``; read only. Never raises for what lies there.

    Lines that were delivered are trimmed from the front, so a journal is checked from its first line on; a missing
    end shows in what the cursor acknowledged and in what later streams name as their predecessor.
    """
    report = Report()
    verifier = LineVerifier(keyring, report)
    streams = list(_stream_folders(path / "streams", verifier))
    total = sum(_size_of(folder) for folder in streams)
    done = 0
    for folder in streams:
        try:
            for size in _verify_stream(folder, verifier):
                done += size
                progress(done, total)
        except OSError as error:
            _unreadable(verifier, f"streams/{folder.name}", error.strerror or str(error))
        report.count("streams")
    _check_previous(path, verifier)
    progress(total, total)
    return report


def _stream_folders(streams: Path, verifier: LineVerifier) -> Iterator[Path]:
    """Yield the folders of streams; whatever else lies there is named."""
    with os.scandir(streams) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith("."):  # half-made, swept by the next process
            continue
        if entry.is_dir(follow_symlinks=False) and STREAM.fullmatch(entry.name):
            yield Path(entry.path)
        else:
            _unreadable(verifier, f"streams/{entry.name}", "is no folder of a stream")


def _size_of(folder: Path) -> int:
    try:
        return sum(file.lstat().st_size for file in folder.glob("seg-*.ndjson"))
    except OSError:
        return 0


def _unreadable(verifier: LineVerifier, where: str, message: str) -> None:
    verifier.note(Severity.UNCHECKED, "unreadable", where, message)


def _verify_stream(folder: Path, verifier: LineVerifier) -> Iterator[int]:
    """Verify one journal; yields the bytes it went through now and then."""
    leaves: dict[int, tuple[bytes, int]] = {}
    pending = 0
    _name_strangers(folder, verifier)
    for place in _lines(folder, verifier):
        verifier.report.count("lines")
        pending += len(place.line) + 1
        frame = verifier.frame(place.line, place.where)
        if frame is not None:
            _verify_line(folder, place, frame, verifier, leaves)
        if pending >= _REPORT_EVERY:
            yield pending
            pending = 0
    yield pending
    _verify_end(folder, verifier)


def _verify_line(
    folder: Path, place: _Place, frame: Frame, verifier: LineVerifier, leaves: dict[int, tuple[bytes, int]]
) -> None:
    if frame.stream != folder.name:
        verifier.note(Severity.TAMPERING, "stream", place.where, f"belongs to stream {frame.stream}", frame)
        return
    leaf = leaf_hash(place.line)
    if frame.stream not in verifier.streams:
        # what stood before the first line was delivered and trimmed: the chain is followed from here
        verifier.streams[frame.stream] = StreamSeen(
            StreamFollower(frame.stream, next=frame.seq, head=frame.prev), frame.seq
        )
        _verify_begin(folder, place, frame, verifier)
    step = verifier.follow(place.line, frame, leaf=leaf)
    _note_step(step, place, frame, verifier, leaves.get(frame.seq))
    leaves[frame.seq] = (leaf, place.ordinal)
    if len(leaves) > _REMEMBERED:
        del leaves[next(iter(leaves))]
    verifier.read(place.line, frame, place.where)


def _verify_begin(folder: Path, place: _Place, frame: Frame, verifier: LineVerifier) -> None:
    """What stood before the first line was delivered, or was removed: the cursor says how far delivery came."""
    acked = _acked(folder)
    if frame.prev == FIRST_PREV or acked >= frame.seq:
        return
    if acked == 0:
        message = f"the journal begins with {frame.seq}, and nothing of it was ever delivered"
        verifier.note(Severity.TAMPERING, "truncated", place.where, message, frame)
    else:
        message = f"the journal begins with {frame.seq}, delivered up to {acked - 1}: removed, or the cursor is older"
        verifier.note(Severity.UNCHECKED, "truncated", place.where, message, frame)


def _name_strangers(folder: Path, verifier: LineVerifier) -> None:
    """Name what is no file of a journal; a regular file is at least nothing that was to be checked."""
    with os.scandir(folder) as entries:
        strangers = [each for each in entries if not (each.name in FILES or segment_ordinals([each.name]))]
    for entry in sorted(strangers, key=lambda entry: entry.name):
        severity = Severity.NOTE if entry.is_file(follow_symlinks=False) else Severity.UNCHECKED
        if not entry.name.startswith("."):
            where = f"streams/{folder.name}/{entry.name}"
            verifier.note(severity, "unreadable", where, "is no file of a journal")


def _note_step(
    step: Step, place: _Place, frame: Frame, verifier: LineVerifier, earlier: tuple[bytes, int] | None
) -> None:
    where = place.where
    follower = verifier.streams[frame.stream].follower
    if step is Step.GAP:
        gap = follower.gaps[-1]
        severity = verifier.judge_gap(frame.stream, gap)
        if severity is None:
            return
        verifier.note(severity, "gap", where, f"{gap.first} to {gap.last} are missing before this line", frame)
    elif step is Step.GIVEN_UP:
        verifier.note(Severity.NOTE, "given_up", where, "numbers before this line were given up at the source", frame)
    elif step is Step.BROKEN:
        verifier.note(Severity.TAMPERING, "broken", where, f"{frame.seq} does not link to the line before it", frame)
    elif step is Step.LATE:
        verifier.note(Severity.TAMPERING, "order", where, f"{frame.seq} stands behind a later line", frame)
    elif step is Step.SEEN:
        _note_seen(place, frame, verifier, earlier)


def _note_seen(place: _Place, frame: Frame, verifier: LineVerifier, earlier: tuple[bytes, int] | None) -> None:
    """After a failed sync the writer itself repeats lines in a new segment; anything else is not its doing."""
    if earlier is not None and earlier[0] != leaf_hash(place.line):
        verifier.note(Severity.TAMPERING, "conflict", place.where, f"another line carries number {frame.seq}", frame)
    elif earlier is not None and earlier[1] == place.ordinal:
        verifier.note(Severity.TAMPERING, "replay", place.where, f"{frame.seq} stands in this file twice", frame)


def _verify_end(folder: Path, verifier: LineVerifier) -> None:
    seen = verifier.streams.get(folder.name)
    if seen is None:
        return
    acked = _acked(folder)
    if acked > seen.follower.next:
        message = f"delivered up to {acked - 1}, but the journal ends at {seen.follower.next - 1}"
        verifier.note(Severity.TAMPERING, "truncated", folder.name, message)
    if not seen.is_closed:
        verifier.note(Severity.NOTE, "unclosed", folder.name, f"ends at {seen.follower.next - 1} without close")


def _acked(folder: Path) -> int:
    return _position(folder).seq


def _position(folder: Path) -> Position:
    try:
        with open(os.open(folder / "cursor", _SAFELY), "rb") as file:
            return decode_cursor(file.read(FILE_BYTES)).position
    except OSError:
        return Position()


def _lines(folder: Path, verifier: LineVerifier) -> Iterator[_Place]:
    for ordinal in segment_ordinals([file.name for file in folder.iterdir()]):
        name = segment_name(ordinal)
        where = f"streams/{folder.name}/{name}"
        try:
            with open(os.open(folder / name, _SAFELY), "rb") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    yield from _file_lines(file, where, ordinal, verifier)
                else:
                    _unreadable(verifier, where, "is no regular file")
        except OSError as error:
            # whoever delivers removes segments while they are verified
            is_delivered = isinstance(error, FileNotFoundError) and ordinal < _position(folder).ordinal
            if not is_delivered:
                _unreadable(verifier, where, error.strerror or str(error))


def _file_lines(file: Iterator[bytes], path: str, ordinal: int, verifier: LineVerifier) -> Iterator[_Place]:
    for number, line in enumerate(file, 1):
        where = f"{path} line {number}"
        if line.endswith(b"\n"):
            yield _Place(line[:-1], where, ordinal)
        else:
            verifier.note(Severity.NOTE, "torn", where, f"{len(line)} bytes without end")


def _check_previous(path: Path, verifier: LineVerifier) -> None:
    """A predecessor that was delivered whole is gone, as it should be; one that is here must reach what was named."""
    for _, head, where in verifier.previous:
        seen = verifier.streams.get(head.stream)
        if head.seq is None:
            continue
        if seen is None:
            _check_emptied(path / "streams" / head.stream, head.seq, where, verifier)
            _check_removed(path, head.stream, where, verifier)
            continue
        end = seen.follower.next - 1
        if end < head.seq:
            message = f"stream {head.stream} reached {head.seq} when the next one began; it ends at {end} now"
            verifier.note(Severity.TAMPERING, "truncated", where, message)
        elif end == head.seq and head.leaf is not None and seen.follower.head != head.leaf.encode():
            verifier.note(Severity.TAMPERING, "broken", where, f"line {end} of {head.stream} is not the one it was")


def _check_emptied(folder: Path, seq: int, where: str, verifier: LineVerifier) -> None:
    """A journal without any line is good once what a later stream saw of it was delivered."""
    if folder.is_dir() and _acked(folder) <= seq:
        message = f"stream {folder.name} reached {seq} when the next one began; its journal holds no line"
        verifier.note(Severity.TAMPERING, "truncated", where, message)


def _check_removed(path: Path, stream: str, where: str, verifier: LineVerifier) -> None:
    """A stream that was delivered whole is removed; the spool remembers the newest of those, the ledger all."""
    if (path / "streams" / stream).is_dir():
        return
    last = _last_removed(path)
    if last is None:
        message = f"stream {stream} is gone, and this spool remembers no stream that was delivered whole and removed"
        verifier.note(Severity.UNCHECKED, "missing_stream", where, message)
    elif last != stream:
        message = f"stream {stream} is gone: delivered whole and removed, or removed; the collector's ledger tells"
        verifier.note(Severity.NOTE, "missing_stream", where, message)


def _last_removed(path: Path) -> str | None:
    try:
        with open(os.open(path / LAST, _SAFELY), "rb") as file:
            return str(json.loads(file.read(FILE_BYTES * 4))["head"]["stream"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
