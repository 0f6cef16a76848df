"""The journal of one stream: one folder, one writer, appended to and never re-opened for writing.

::

    <spool>/streams/<stream>/
        lock        flock held while the writer lives: its liveness, pids are never asked
        meta.json   unsigned hints for people
        cursor      how far the stream was delivered (`audit_middleware.journal.cursor`)
        reserve     64 KiB, given up on a full disk so that the drop record finds room
        seg-*.ndjson
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import Any, Final, NamedTuple

from audit_middleware.errors import JournalError
from audit_middleware.journal.cursor import FILE_BYTES
from audit_middleware.journal.files import Files, write_whole
from audit_middleware.journal.segment import SEGMENT_BYTES, segment_name

RESERVE_BYTES: Final = 64 * 1024
NEW_PREFIX: Final = ".new-"


class SyncPart(NamedTuple):
    """Bytes ``start`` to ``end`` of an open segment that were not synced yet."""

    fd: int
    start: int
    end: int


class SyncTicket(NamedTuple):
    """What one sync has to cover; owns its descriptors."""

    files: Files
    parts: tuple[SyncPart, ...]
    folder_fd: int
    ordinal: int

    def sync(self) -> OSError | None:
        """Sync everything; return the first error instead of raising it, for `Journal.end_sync`."""
        try:
            for part in self.parts:
                self.files.datasync(part.fd)
            if self.folder_fd >= 0:
                self.files.sync_folder(self.folder_fd)
        except OSError as error:
            return error
        return None

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (*(part.fd for part in self.parts), self.folder_fd):
            if fd >= 0:
                self.files.close(fd)


class Journal:
    """Appends sealed lines; not thread-safe, the recorder's lock is its lock.

    Every method that touches the disk raises `JournalError` with the system's ``errno``. After an error no half
    line remains: it is cut off, or its segment is left behind for a new one.
    """

    def __init__(self, files: Files, streams_fd: int, stream: str, meta: dict[str, Any]) -> None:
        self._files = files
        self.stream = stream
        self.written_bytes = 0
        self.tampered = 0
        self._ordinal = 0
        self._offset = 0
        self._synced_offset = 0
        self._full: tuple[SyncPart, ...] = ()
        self._folder_is_dirty = False
        self._segment_fd = self._lock_fd = self._dir_fd = -1
        try:
            self._create(streams_fd, meta)
        except OSError as error:
            self.abandon()
            raise _journal_error("cannot begin a stream", error) from error

    def append(self, line: bytes) -> None:
        """Append one line (without LF) with one write; it survives the death of this process once this returns."""
        data = line + b"\n"
        try:
            written = self._files.write(self._segment_fd, data)
        except OSError as error:
            raise self._failed(error) from error
        if written != len(data):
            self._cut_back()
            raise self._failed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        self._offset += written
        self.written_bytes += written
        if self._offset >= SEGMENT_BYTES:
            self._rotate()

    def begin_sync(self) -> SyncTicket | None:
        """Return what has to be synced so that all that was appended survives power loss; None when nothing has.

        The caller syncs the ticket without the recorder's lock, and hands it to `end_sync` with it.
        """
        if self._synced_offset == self._offset and not self._full:
            return None
        current = SyncPart(self._files.duplicate(self._segment_fd), self._synced_offset, self._offset)
        parts, self._full = (*self._full, current), ()
        folder_fd = self._files.duplicate(self._dir_fd) if self._folder_is_dirty else -1
        self._folder_is_dirty = False
        return SyncTicket(self._files, parts, folder_fd, self._ordinal)

    def end_sync(self, ticket: SyncTicket, error: OSError | None) -> None:
        """Note that the ticket was synced, or make good that it could not be.

        After a failed sync the kernel calls the pages clean though they never reached the disk, so the same file
        is never synced again: its lines go into a new segment, and that is synced. `JournalError` when that fails.
        """
        try:
            if error is not None:
                self._rewrite(ticket, error)
            elif ticket.ordinal == self._ordinal:
                self._synced_offset = ticket.parts[-1].end
        finally:
            ticket.close()

    def check(self) -> str | None:
        """Look whether somebody removed, cut or swapped the segment; begin a new one and say what was found."""
        found = self._damage()
        if found is not None:
            self.tampered += 1
            self._new_segment()
        return found

    def restore_reserve(self) -> None:
        """Make the reserve again once there is room; keep quiet when there is not."""
        with contextlib.suppress(OSError):
            self._create_file("reserve", size=RESERVE_BYTES)

    def close(self) -> None:
        """Sync what is left and let the lock go: from now on anybody may adopt the stream."""
        with contextlib.suppress(JournalError, OSError):
            ticket = self.begin_sync()
            if ticket is not None:
                self.end_sync(ticket, ticket.sync())
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptors and nothing else.

        A forked child must not unlock: the lock is shared with its parent, and closing a copy leaves it held.
        """
        for fd in (self._segment_fd, self._lock_fd, self._dir_fd, *(part.fd for part in self._full)):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    self._files.close(fd)
        self._segment_fd = self._lock_fd = self._dir_fd = -1
        self._full = ()

    def _create(self, streams_fd: int, meta: dict[str, Any]) -> None:
        """Others see the folder under its real name only when its lock is held (see `Spool.sweep`)."""
        files, temporary = self._files, NEW_PREFIX + self.stream
        files.make_folder(temporary, dir_fd=streams_fd)
        self._dir_fd = files.open_folder(temporary, dir_fd=streams_fd)
        self._lock_fd = files.create("lock", dir_fd=self._dir_fd)
        files.lock(self._lock_fd)
        self._create_file("cursor", data=bytes(FILE_BYTES))
        self._create_file("meta.json", data=json.dumps(meta, ensure_ascii=True).encode())
        self.restore_reserve()
        self._segment_fd = files.create(segment_name(0), dir_fd=self._dir_fd, append=True)
        files.sync_folder(self._dir_fd)
        files.rename(temporary, self.stream, dir_fd=streams_fd)
        files.sync_folder(streams_fd)

    def _create_file(self, name: str, *, data: bytes = b"", size: int = 0) -> None:
        fd = self._files.create(name, dir_fd=self._dir_fd)
        try:
            if size:
                self._files.allocate(fd, size)
            write_whole(self._files, fd, data)
        except OSError:
            self._files.unlink(name, dir_fd=self._dir_fd)
            raise
        finally:
            self._files.close(fd)

    def _failed(self, error: OSError) -> JournalError:
        """Give up the reserve on a full disk, so that the record of the failure has room."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            with contextlib.suppress(OSError):
                self._files.unlink("reserve", dir_fd=self._dir_fd)
        elif error.errno == errno.EIO:
            with contextlib.suppress(JournalError):
                self._new_segment()
        return _journal_error("cannot append", error)

    def _cut_back(self) -> None:
        try:
            self._files.truncate(self._segment_fd, self._offset)
        except OSError:
            self._new_segment()

    def _rotate(self) -> None:
        """Failing to begin the next segment is no failure of the line just written; the next one will tell."""
        with contextlib.suppress(JournalError):
            self._new_segment()

    def _new_segment(self) -> None:
        """Leave the segment, to be synced and closed with the next ticket, and begin another."""
        ordinal = self._ordinal + 1
        try:
            fd = self._files.create(segment_name(ordinal), dir_fd=self._dir_fd, append=True)
        except OSError as error:
            raise _journal_error("cannot begin a segment", error) from error
        self._full = (*self._full, SyncPart(self._segment_fd, self._synced_offset, self._offset))
        self._segment_fd, self._ordinal, self._offset, self._synced_offset = fd, ordinal, 0, 0
        self._folder_is_dirty = True

    def _rewrite(self, ticket: SyncTicket, error: OSError) -> None:
        """Write the un-synced lines again, into a new segment, and sync that; readers know a line by its seq."""
        try:
            lost = b"".join(self._read_back(part) for part in (*ticket.parts[:-1], self._current_part(ticket)))
            is_same_segment = ticket.ordinal == self._ordinal
            self._new_segment()
            if is_same_segment:
                *kept, left = self._full
                self._full = tuple(kept)
                self._files.close(left.fd)
            write_whole(self._files, self._segment_fd, lost)
            self._files.datasync(self._segment_fd)
            self._files.sync_folder(self._dir_fd)
        except OSError as second:
            raise _journal_error("cannot sync", second) from error
        self._offset = self._synced_offset = len(lost)

    def _current_part(self, ticket: SyncTicket) -> SyncPart:
        """The last part of a ticket, and what was appended to the same segment since."""
        part = ticket.parts[-1]
        return part._replace(end=self._offset) if ticket.ordinal == self._ordinal else part

    def _read_back(self, part: SyncPart) -> bytes:
        data = self._files.pread(part.fd, part.end - part.start, part.start)
        if len(data) != part.end - part.start:
            raise OSError(errno.EIO, "un-synced lines can no longer be read")
        return data

    def _damage(self) -> str | None:
        """Compare what is open with what the folder shows under its name."""
        name = segment_name(self._ordinal)
        try:
            status = self._files.stat(self._segment_fd)
            if status.st_nlink == 0:
                return f"segment {name} was removed"
            if status.st_size < self._offset:
                return f"segment {name} was cut from {self._offset} to {status.st_size} bytes"
            if self._files.stat_name(name, dir_fd=self._dir_fd).st_ino != status.st_ino:
                return f"segment {name} was swapped for another file"
        except OSError as error:
            return f"segment {name}: {error.strerror}"
        return None


def _journal_error(what: str, error: OSError) -> JournalError:
    return JournalError(f"journal: {what}: {error.strerror or error}", errno=error.errno)
