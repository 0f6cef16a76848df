"""Every system call of the journal, in one small object that tests replace.

All of them take descriptors, or a name inside an open folder (``dir_fd``): a path is resolved once, at the root,
so that nobody can swap a folder under a running writer.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

_SAFE: Final = os.O_CLOEXEC | os.O_NOFOLLOW | getattr(os, "O_NOCTTY", 0)


class Files:
    """The real system calls. Each raises ``OSError`` as the operating system does; none retries."""

    def open_folder(self, name: str, *, dir_fd: int | None = None) -> int:
        """Open a folder that is not a symbolic link."""
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | _SAFE, dir_fd=dir_fd)

    def create(self, name: str, *, dir_fd: int, append: bool = False) -> int:
        """Create a file that does not exist yet, 0600, to read and write."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE
        return os.open(name, flags | (os.O_APPEND if append else 0), 0o600, dir_fd=dir_fd)

    def open_existing(self, name: str, *, dir_fd: int, write: bool = False) -> int:
        """Open an existing file without following links and without blocking on a FIFO."""
        return os.open(name, (os.O_RDWR if write else os.O_RDONLY) | os.O_NONBLOCK | _SAFE, dir_fd=dir_fd)

    def close(self, fd: int) -> None:
        """Close a descriptor; a lock on it goes with its last copy."""
        os.close(fd)

    def duplicate(self, fd: int) -> int:
        """Return a second descriptor of the same open file."""
        return os.dup(fd)

    write = staticmethod(os.write)  # every record passes here: no Python frame between
    """Write once; may write less than all."""

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write at an offset, in place."""
        return os.pwrite(fd, data, offset)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Read up to ``size`` bytes at an offset."""
        return os.pread(fd, size, offset)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file back to ``size``."""
        os.ftruncate(fd, size)

    def datasync(self, fd: int) -> None:
        """Return when the file's bytes survive power loss."""
        os.fdatasync(fd)

    def sync_folder(self, fd: int) -> None:
        """Return when the folder's entries survive power loss."""
        os.fsync(fd)

    def allocate(self, fd: int, size: int) -> None:
        """Reserve ``size`` bytes on disk."""
        os.posix_fallocate(fd, 0, size)

    def make_folder(self, name: str, *, dir_fd: int) -> None:
        """Create a folder, 0700."""
        os.mkdir(name, 0o700, dir_fd=dir_fd)

    def rename(self, old: str, new: str, *, dir_fd: int) -> None:
        """Rename inside one folder, replacing what bears the new name."""
        os.rename(old, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def unlink(self, name: str, *, dir_fd: int) -> None:
        """Remove a file."""
        os.unlink(name, dir_fd=dir_fd)

    def remove_folder(self, name: str, *, dir_fd: int) -> None:
        """Remove an empty folder."""
        os.rmdir(name, dir_fd=dir_fd)

    def names(self, fd: int) -> list[str]:
        """Return the names in an open folder, sorted."""
        return sorted(os.listdir(fd))

    def stat(self, fd: int) -> os.stat_result:
        """Return what the kernel knows of an open file."""
        return os.fstat(fd)

    def stat_name(self, name: str, *, dir_fd: int) -> os.stat_result:
        """Return what the kernel knows of a name, links not followed."""
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)

    def free_bytes(self, fd: int) -> tuple[int, int]:
        """Return the bytes free to this process and all bytes of the file system that holds ``fd``."""
        status = os.fstatvfs(fd)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize

    def lock(self, fd: int) -> bool:
        """Take an exclusive flock without waiting; False when another open file holds it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def write_whole(files: Files, fd: int, data: bytes) -> None:
    """Write all of ``data``; a full disk shows as ``OSError`` from the write that follows a short one."""
    view = memoryview(data)
    while view:
        view = view[write_some(files, fd, view) :]


def write_some(files: Files, fd: int, data: memoryview) -> int:
    """Write once, at least one byte; a disk that takes none and says nothing is full."""
    written = files.write(fd, bytes(data))
    if not written:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return written


def read_whole(files: Files, name: str, *, dir_fd: int, limit: int) -> bytes:
    """Return at most ``limit`` bytes of a file; ``OSError`` when it cannot be opened."""
    fd = files.open_existing(name, dir_fd=dir_fd)
    try:
        return files.pread(fd, limit, 0)
    finally:
        files.close(fd)


REAL_FILES: Final = Files()
