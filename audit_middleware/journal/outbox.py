"""The delivering side of a journal: reads whole lines in order, remembers what was acknowledged, trims.

Whoever delivers a stream holds its ``outbox`` lock: the process that writes it, a living neighbour that adopts it
after its writer died, or a sidecar. They all run this code. Segments are read, never written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final, NamedTuple

from audit_middleware.journal.cursor import FILE_BYTES, Position, Slot, decode_cursor, encode_slot, slot_offset
from audit_middleware.journal.files import Files, read_whole
from audit_middleware.journal.segment import Line, peek, segment_name, segment_ordinals, split_lines
from audit_middleware.sealing.seal import leaf_hash
from audit_middleware.sealing.text import b64url

CHUNK_BYTES: Final = 256 * 1024
_TAIL_BYTES: Final = 128 * 1024
_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR})


class Pending(NamedTuple):
    """A line that waits to be delivered, and where delivery goes on behind it."""

    line: Line
    behind: Position


class StreamEnd(NamedTuple):
    """The last whole line of a stream: its seq, leaf hash, and whether it is the ``close`` record."""

    seq: int | None
    leaf: str | None
    closed: bool


class Outbox:
    """What one stream still has to deliver. One thread at a time; `take` it, `release` it."""

    def __init__(self, files: Files, stream: str, folder_fd: int, lock_fd: int) -> None:
        self.stream = stream
        self._files = files
        self._folder_fd = folder_fd
        self._lock_fd = lock_fd
        self._cursor_fd = _open_cursor(files, folder_fd)
        try:
            slot = decode_cursor(files.pread(self._cursor_fd, FILE_BYTES, 0))
            self._generation = slot.generation
            self.acked = self._find(slot.position)
        except OSError:
            _close(files, self._cursor_fd)
            raise

    @classmethod
    def take(cls, files: Files, streams_fd: int, stream: str) -> Outbox | None:
        """Take the outbox of a stream; None when another holds it. Raises ``OSError`` when the folder is gone."""
        folder_fd = files.open_folder(stream, dir_fd=streams_fd)
        lock_fd = -1
        try:
            lock_fd = _open_or_create(files, "outbox", folder_fd)
            if files.lock(lock_fd):
                return cls(files, stream, folder_fd, lock_fd)
        except OSError:
            _close(files, lock_fd, folder_fd)
            raise
        _close(files, lock_fd, folder_fd)
        return None

    def pending(self, limit: int, max_bytes: int) -> list[Pending]:
        """Return up to ``limit`` lines behind what was acknowledged, at most ``max_bytes`` together, at least one.

        Raises ``OSError`` when a segment is there and cannot be read.
        """
        found: list[Pending] = []
        position, size = self.acked, 0
        while len(found) < limit:
            lines, position = self._read(position)
            if not lines:
                break
            for item in lines:
                size += len(item.line.data) + 1
                if len(found) >= limit or (found and size > max_bytes):
                    return found
                found.append(item)
        return found

    def advance(self, last: Pending) -> None:
        """Note that everything up to and with ``last`` was acknowledged, and remove the segments behind it."""
        self.acked = last.behind
        self._generation += 1
        slot = encode_slot(Slot(self._generation, self.acked))
        with contextlib.suppress(OSError):  # a cursor that stays behind costs a second delivery, no more
            self._files.pwrite(self._cursor_fd, slot, slot_offset(self._generation))
        for ordinal in self._ordinals():
            if ordinal < self.acked.ordinal:
                with contextlib.suppress(OSError):
                    self._files.unlink(segment_name(ordinal), dir_fd=self._folder_fd)

    def writer_is_dead(self) -> bool:
        """Whether the writer's lock is free; a stream is never opened for writing twice, so it stays free."""
        return _writer_is_dead(self._files, self._folder_fd)

    def is_delivered(self) -> bool:
        """Whether nothing is left that could be delivered; False also while that cannot be known.

        A file that bears a segment's name and is not ours (a link, a FIFO, a second name) is never delivered, and
        as long as it lies there nothing is removed either.
        """
        try:
            return not self.pending(1, 1) and self._segments_are_ours()
        except OSError:
            return False

    def _segments_are_ours(self) -> bool:
        names = (segment_name(ordinal) for ordinal in self._ordinals() if ordinal >= self.acked.ordinal)
        return all(_is_ours(self._files.stat_name(name, dir_fd=self._folder_fd)) for name in names)

    def left_bytes(self) -> int:
        """Return the bytes behind the acknowledged position, a torn tail counted."""
        return _left_bytes(self._files, self._folder_fd, self.acked)

    def remove(self, streams_fd: int) -> None:
        """Remove the folder of a dead stream, its locks last, so that nobody finds it half-removed and free."""
        names = self._files.names(self._folder_fd)
        for name in sorted(names, key=lambda name: (name in ("lock", "outbox"), name)):
            with contextlib.suppress(OSError):
                self._files.unlink(name, dir_fd=self._folder_fd)
        with contextlib.suppress(OSError):
            self._files.remove_folder(self.stream, dir_fd=streams_fd)
        self.release()

    def release(self) -> None:
        """Let another process deliver this stream."""
        _close(self._files, self._cursor_fd, self._lock_fd, self._folder_fd)
        self._cursor_fd = self._lock_fd = self._folder_fd = -1

    def _ordinals(self) -> list[int]:
        return segment_ordinals(self._files.names(self._folder_fd))

    def _find(self, position: Position) -> Position:
        """Where to go on: the cursor's place if that segment is still there, else the first segment behind it."""
        ordinals = self._ordinals()
        if position.ordinal in ordinals:
            return position
        behind = [ordinal for ordinal in ordinals if ordinal > position.ordinal]
        return Position(position.seq, behind[0] if behind else position.ordinal, 0)

    def _read(self, position: Position) -> tuple[list[Pending], Position]:
        """Read the whole lines at a position; goes on to the next segment once there is one."""
        while True:
            lines = self._lines_at(position)
            if lines:
                return lines, lines[-1].behind
            following = [ordinal for ordinal in self._ordinals() if ordinal > position.ordinal]
            if not following or (lines := self._lines_at(position)):
                return lines, lines[-1].behind if lines else position
            position = Position(position.seq, following[0], 0)

    def _lines_at(self, position: Position) -> list[Pending]:
        """Only a segment that is not there, or is not ours, counts as empty; one that cannot be read now raises."""
        try:
            fd = self._files.open_existing(segment_name(position.ordinal), dir_fd=self._folder_fd)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return []
            raise
        try:
            if not _is_ours(self._files.stat(fd)):
                return []
            lines = split_lines(self._files.pread(fd, CHUNK_BYTES, position.offset), position.offset)
        finally:
            self._files.close(fd)
        return [Pending(line, self._behind(position, line)) for line in lines]

    def _behind(self, position: Position, line: Line) -> Position:
        named = peek(line.data)
        return Position(named[1] + 1 if named else position.seq, position.ordinal, line.end)


class StreamView(NamedTuple):
    """What shows of a stream from outside."""

    acked: Position
    waiting_bytes: int
    writer_is_dead: bool


def stream_view(files: Files, streams_fd: int, stream: str) -> StreamView:
    """Return how far a stream was delivered and whether its writer lives, without taking it. Raises ``OSError``."""
    folder_fd = files.open_folder(stream, dir_fd=streams_fd)
    try:
        acked = decode_cursor(read_whole(files, "cursor", dir_fd=folder_fd, limit=FILE_BYTES)).position
        return StreamView(acked, _left_bytes(files, folder_fd, acked), _writer_is_dead(files, folder_fd))
    finally:
        files.close(folder_fd)


def stream_end(files: Files, streams_fd: int, stream: str) -> StreamEnd:
    """Return the last whole line of a stream, living or dead, without taking anything. Raises ``OSError``."""
    folder_fd = files.open_folder(stream, dir_fd=streams_fd)
    try:
        for ordinal in reversed(segment_ordinals(files.names(folder_fd))):
            line = _last_line(files, folder_fd, ordinal)
            named = peek(line) if line else None
            if line and named:
                return StreamEnd(named[1], b64url(leaf_hash(line)).decode(), closed=_is_close(line))
    finally:
        files.close(folder_fd)
    return StreamEnd(None, None, closed=False)


def _writer_is_dead(files: Files, folder_fd: int) -> bool:
    try:
        fd = files.open_existing("lock", dir_fd=folder_fd, write=True)
    except FileNotFoundError:
        return True
    try:
        return files.lock(fd)
    finally:
        files.close(fd)


def _left_bytes(files: Files, folder_fd: int, acked: Position) -> int:
    total = 0
    for ordinal in segment_ordinals(files.names(folder_fd)):
        if ordinal >= acked.ordinal:
            with contextlib.suppress(OSError):
                total += files.stat_name(segment_name(ordinal), dir_fd=folder_fd).st_size
    return max(0, total - acked.offset)


def _last_line(files: Files, folder_fd: int, ordinal: int) -> bytes | None:
    fd = files.open_existing(segment_name(ordinal), dir_fd=folder_fd)
    try:
        size = files.stat(fd).st_size
        start = max(0, size - _TAIL_BYTES)
        whole, _, _ = files.pread(fd, size - start, start).rpartition(b"\n")
    finally:
        files.close(fd)
    return whole.rpartition(b"\n")[2] or None


def _is_close(line: bytes) -> bool:
    return b'"type":"close"' in line[:240]


def _is_ours(status: os.stat_result) -> bool:
    """A regular file with one name: no FIFO that blocks, no hard link to a file of somebody else."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _open_or_create(files: Files, name: str, folder_fd: int) -> int:
    try:
        return files.open_existing(name, dir_fd=folder_fd, write=True)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            return files.create(name, dir_fd=folder_fd)
        return files.open_existing(name, dir_fd=folder_fd, write=True)


def _open_cursor(files: Files, folder_fd: int) -> int:
    return _open_or_create(files, "cursor", folder_fd)


def _close(files: Files, *fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            with contextlib.suppress(OSError):
                files.close(fd)
