"""What of a journal has reached the disk itself, and what to do when the disk says no.

After a failed sync the kernel calls the pages clean though they never reached the disk: syncing the same file again
"succeeds" and proves nothing. So such a file is *failed* for ever: what was not synced of it is copied into another.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from audit_middleware.journal.files import Files


class SyncPart(NamedTuple):
    """Bytes ``start`` to ``end`` of segment ``ordinal`` that were not synced yet; owns its descriptor."""

    ordinal: int
    fd: int
    start: int
    end: int


class SyncTicket(NamedTuple):
    """What one sync has to cover; owns its descriptors."""

    files: Files
    parts: tuple[SyncPart, ...]
    folder_fd: int

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
        close_all(self.files, *(part.fd for part in self.parts), self.folder_fd)


class Backlog:
    """Segments that were left behind with bytes not synced: ``waiting`` for a sync, or ``failed`` in one."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.waiting: tuple[SyncPart, ...] = ()
        self.failed: tuple[SyncPart, ...] = ()

    def add(self, part: SyncPart, *, has_failed: bool) -> None:
        """Take a segment that is left; one with nothing to sync is closed."""
        if part.start == part.end:
            close_all(self._files, part.fd)
        elif has_failed:
            self.failed = (*self.failed, part)
        else:
            self.waiting = (*self.waiting, part)

    def take(self) -> tuple[SyncPart, ...]:
        """Hand the waiting parts over to a ticket."""
        parts, self.waiting = self.waiting, ()
        return parts

    def fail(self, ticket: SyncTicket, current: int) -> None:
        """Take the parts of a ticket that failed; segment ``current`` is still the journal's own."""
        ordinals = {part.ordinal for part in ticket.parts}
        left = tuple(part for part in self.waiting if part.ordinal in ordinals)
        self.waiting = tuple(part for part in self.waiting if part.ordinal not in ordinals)
        known = {current, *(part.ordinal for part in left)}  # those know more bytes than the ticket did
        for part in ticket.parts:
            if part.ordinal in known:
                close_all(self._files, part.fd)
            else:
                left = (*left, part)
        close_all(self._files, ticket.folder_fd)
        self.failed = tuple(sorted((*self.failed, *left)))

    def read_failed(self) -> bytes:
        """Return what was not synced of the failed segments, in order."""
        return b"".join(self._read(part) for part in self.failed)

    def forget_failed(self) -> None:
        """The bytes of the failed segments stand, synced, in another one."""
        close_all(self._files, *(part.fd for part in self.failed))
        self.failed = ()

    def close(self) -> None:
        """Close the descriptors."""
        self.forget_failed()
        close_all(self._files, *(part.fd for part in self.take()))

    def _read(self, part: SyncPart) -> bytes:
        """What somebody cut off is not there to be saved; `Journal.check` says that it was cut."""
        data = self._files.pread(part.fd, part.end - part.start, part.start)
        return data[: data.rfind(b"\n") + 1]


def close_all(files: Files, *fds: int) -> None:
    """Close descriptors, those below 0 left out."""
    for fd in fds:
        if fd >= 0:
            with contextlib.suppress(OSError):
                files.close(fd)
