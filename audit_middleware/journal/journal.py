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
from typing import Any, Final

from audit_middleware.errors import JournalError
from audit_middleware.journal.cursor import FILE_BYTES
from audit_middleware.journal.files import Files, write_some, write_whole
from audit_middleware.journal.segment import SEGMENT_BYTES, segment_name
from audit_middleware.journal.syncing import Backlog, SyncPart, SyncTicket, close_all

RESERVE_BYTES: Final = 64 * 1024
NEW_PREFIX: Final = ".new-"
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_SEGMENT_FAILED: Final = frozenset({errno.EIO, errno.EFBIG})  # another file may do what this one cannot


class Journal:
    """Appends sealed lines; not thread-safe, the recorder's lock is its lock.

    Every method that touches the disk raises `JournalError` with the system's ``errno``. After an error no half
    line remains: it is cut off, or its segment is left behind for a new one.
    """

    def __init__(self, files: Files, streams_fd: int, stream: str, meta: dict[str, Any]) -> None:
        self._files = files
        self.stream = stream
        self.tampered = 0
        self._ordinal = 0
        self._offset = 0
        self._synced_offset = 0
        self._backlog = Backlog(files)
        self._is_torn = self._has_failed_sync = self._folder_is_dirty = False
        self._streams_fd = streams_fd
        self._segment_fd = self._lock_fd = self._dir_fd = -1
        try:
            self._create(meta)
        except OSError as error:
            self.discard()
            raise _journal_error("cannot begin a stream", error) from error

    def append(self, line: bytes) -> None:
        """Append one line (without LF) with one write; it survives the death of this process once this returns."""
        data = line + b"\n"
        if self._is_torn:
            self._new_segment()
        try:
            written = self._files.write(self._segment_fd, data)
            if written != len(data):
                self._write(data, written)
        except OSError as error:
            if error.errno not in _SEGMENT_FAILED or not self._offset:
                raise self._failed(error) from error
            self._new_segment()
            try:
                self._write(data)
            except OSError as second:
                raise self._failed(second) from second
        self._offset += len(data)
        if self._offset >= SEGMENT_BYTES:
            self._rotate()

    def begin_sync(self) -> SyncTicket | None:
        """Return what has to be synced so that all that was appended survives power loss; None when nothing has.

        The caller syncs the ticket without the recorder's lock, and hands it to `end_sync` with it. `JournalError`
        when a sync failed before and cannot be made good now either.
        """
        if self._has_failed_sync or self._backlog.failed:
            self._write_again()
        if self._synced_offset == self._offset and not self._backlog.waiting:
            return None
        folder_fd = -1
        try:
            folder_fd = self._files.duplicate(self._dir_fd) if self._folder_is_dirty else -1
            current = self._part(self._files.duplicate(self._segment_fd))
        except OSError as error:
            close_all(self._files, folder_fd)
            raise _journal_error("cannot sync", error) from error
        self._folder_is_dirty = False
        return SyncTicket(self._files, (*self._backlog.take(), current), folder_fd)

    def end_sync(self, ticket: SyncTicket, error: OSError | None) -> None:
        """Note that the ticket was synced, or make good that it could not be.

        No file of a failed ticket is ever synced again: its lines go into a new segment, and that is synced.
        `JournalError` when that fails; then the next `begin_sync` tries once more.
        """
        part = ticket.parts[-1]
        if error is None or self._dir_fd < 0:
            ticket.close()
            if error is not None:
                raise _journal_error("closed, and not synced", error) from error
            if part.ordinal == self._ordinal:
                self._synced_offset = part.end
            return
        self._has_failed_sync = self._has_failed_sync or part.ordinal == self._ordinal
        self._folder_is_dirty = True
        self._backlog.fail(ticket, self._ordinal)
        self._write_again()

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
        close_all(self._files, self._segment_fd, self._lock_fd, self._dir_fd)
        self._segment_fd = self._lock_fd = self._dir_fd = -1
        self._backlog.close()

    def discard(self) -> None:
        """Let go of a stream that has no line, and remove its folder."""
        with contextlib.suppress(OSError):
            for name in self._files.names(self._dir_fd) if self._dir_fd >= 0 else ():
                self._files.unlink(name, dir_fd=self._dir_fd)
        for name in (NEW_PREFIX + self.stream, self.stream):
            with contextlib.suppress(OSError):
                self._files.remove_folder(name, dir_fd=self._streams_fd)
        self.abandon()

    def _create(self, meta: dict[str, Any]) -> None:
        """Others see the folder under its real name only when its lock is held (see `Spool.sweep`)."""
        files, streams_fd, temporary = self._files, self._streams_fd, NEW_PREFIX + self.stream
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

    def _write(self, data: bytes, written: int = 0) -> None:
        """Write the rest of a line or, as far as that can be had, none of it; the write after a short one tells why."""
        view = memoryview(data)[written:]
        try:
            while view:
                view = view[write_some(self._files, self._segment_fd, view) :]
        except OSError:
            self._is_torn = len(view) != len(data)
            if self._is_torn:
                with contextlib.suppress(OSError):
                    self._files.truncate(self._segment_fd, self._offset)
                    self._is_torn = False
            raise

    def _failed(self, error: OSError, what: str = "cannot append") -> JournalError:
        """Give up the reserve on a full disk, so that the record of the failure has room."""
        if error.errno in _DISK_FULL:
            with contextlib.suppress(OSError):
                self._files.unlink("reserve", dir_fd=self._dir_fd)
        return _journal_error(what, error)

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
            raise self._failed(error, "cannot begin a segment") from error
        part = self._part(self._segment_fd)
        self._backlog.add(part, has_failed=self._has_failed_sync)
        self._segment_fd, self._ordinal, self._offset, self._synced_offset = fd, ordinal, 0, 0
        self._is_torn = self._has_failed_sync = False
        self._folder_is_dirty = True

    def _part(self, fd: int) -> SyncPart:
        return SyncPart(self._ordinal, fd, self._synced_offset, self._offset)

    def _write_again(self) -> None:
        """Write the lines of failed syncs into a new segment and sync that; readers know a line by its seq."""
        if self._offset or self._is_torn or self._has_failed_sync:
            self._new_segment()
        try:
            lost = self._backlog.read_failed()
            self._is_torn = True  # until the copy stands whole
            write_whole(self._files, self._segment_fd, lost)
            self._is_torn, self._offset, self._synced_offset = False, len(lost), len(lost)
            self._has_failed_sync = True  # until this sync did not fail; the originals are kept as long
            self._files.datasync(self._segment_fd)
            self._files.sync_folder(self._dir_fd)
        except OSError as error:
            raise _journal_error("cannot sync", error) from error
        self._has_failed_sync = False
        self._backlog.forget_failed()

    def _damage(self) -> str | None:
        """Compare what is open with what the folder shows under its name."""
        name = segment_name(self._ordinal)
        try:
            status = self._files.stat(self._segment_fd)
            if status.st_nlink == 0:
                return f"segment {name} was removed"
            if status.st_nlink > 1:
                return f"segment {name} was given a second name"
            if status.st_size < self._offset:
                return f"segment {name} was cut from {self._offset} to {status.st_size} bytes"
            if self._files.stat_name(name, dir_fd=self._dir_fd).st_ino != status.st_ino:
                return f"segment {name} was swapped for another file"
        except OSError as error:
            return f"segment {name}: {error.strerror}"
        return None


def _journal_error(what: str, error: OSError) -> JournalError:
    return JournalError(f"journal: {what}: {error.strerror or error}", errno=error.errno)
