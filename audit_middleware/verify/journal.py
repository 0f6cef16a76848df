"""Verify a spool: every line of every journal that still lies on this host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from audit_middleware.journal.cursor import FILE_BYTES, decode_cursor
from audit_middleware.journal.segment import segment_name, segment_ordinals
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.seal import Frame, leaf_hash
from audit_middleware.sealing.stream import Step, StreamFollower
from audit_middleware.verify.lines import LineVerifier, StreamSeen
from audit_middleware.verify.report import Progress, Report, Severity

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
    streams = sorted((path / "streams").glob("[A-Za-z0-9_-]*"))
    total = sum(file.stat().st_size for folder in streams for file in folder.glob("seg-*.ndjson"))
    done = 0
    for folder in streams:
        for size in _verify_stream(folder, verifier):
            done += size
            progress(done, total)
        report.count("streams")
    _check_previous(path, verifier)
    progress(total, total)
    return report


def _verify_stream(folder: Path, verifier: LineVerifier) -> Iterator[int]:
    """Verify one journal; yields the bytes it went through now and then."""
    leaves: dict[int, tuple[bytes, int]] = {}
    pending = 0
    for place in _lines(folder, verifier):
        verifier.report.count("lines")
        pending += len(place.line) + 1
        frame = verifier.frame(place.line, place.where)
        if frame is not None:
            _verify_line(folder.name, place, frame, verifier, leaves)
        if pending >= _REPORT_EVERY:
            yield pending
            pending = 0
    yield pending
    _verify_end(folder, verifier)


def _verify_line(
    stream: str, place: _Place, frame: Frame, verifier: LineVerifier, leaves: dict[int, tuple[bytes, int]]
) -> None:
    if frame.stream != stream:
        verifier.note(Severity.TAMPERING, "stream", place.where, f"belongs to stream {frame.stream}", frame)
        return
    leaf = leaf_hash(place.line)
    if frame.stream not in verifier.streams:
        # what stood before the first line was delivered and trimmed: the chain is followed from here
        verifier.streams[frame.stream] = StreamSeen(
            StreamFollower(frame.stream, next=frame.seq, head=frame.prev), frame.seq
        )
    step = verifier.follow(place.line, frame, leaf=leaf)
    _note_step(step, place, frame, verifier, leaves.get(frame.seq))
    leaves[frame.seq] = (leaf, place.ordinal)
    if len(leaves) > _REMEMBERED:
        del leaves[next(iter(leaves))]
    verifier.read(place.line, frame, place.where)


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
    try:
        with open(os.open(folder / "cursor", os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return decode_cursor(file.read(FILE_BYTES)).position.seq
    except OSError:
        return 0


def _lines(folder: Path, verifier: LineVerifier) -> Iterator[_Place]:
    for ordinal in segment_ordinals([file.name for file in folder.iterdir()]):
        name = segment_name(ordinal)
        try:
            with open(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                yield from _file_lines(file, f"streams/{folder.name}/{name}", ordinal, verifier)
        except OSError as error:
            verifier.note(Severity.UNCHECKED, "unreadable", f"streams/{folder.name}/{name}", str(error.strerror))


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
