"""Every call that changes a file of the store or the ledger, one method each, and what is built on them.

`Durable` has one method per system call so that a test can stop, or fail, after any of them. What an
fsync cannot promise: that the disk tells the truth. One that failed is never tried again, because
the kernel may have dropped the pages it could not write.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from audit_middleware.errors import StorageError, StoreFull

# linux/fs.h, for the 64-bit machines that this runs on; the argument is an int for all that
FS_IOC_GETFLAGS: Final = 0x80086601
FS_IOC_SETFLAGS: Final = 0x40086602
FS_IMMUTABLE_FL: Final = 0x10
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Durable:
    """The system calls."""

    def create(self, path: Path, mode: int) -> int:
        """Create a file that does not exist; return its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of ``data``."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def sync(self, descriptor: int) -> None:
        """Make a file's content durable."""
        os.fsync(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; `FileExistsError` when that is taken."""
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file, replacing ``target``."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """Create a folder, if it is not there."""
        path.mkdir(mode=0o755, exist_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()

    def set_immutable(self, path: Path, *, is_set: bool) -> None:
        """Set or clear the file system's own flag against every change; `OSError` where it has none."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            (flags,) = struct.unpack("i", fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, struct.pack("i", 0)))
            flags = flags | FS_IMMUTABLE_FL if is_set else flags & ~FS_IMMUTABLE_FL
            fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("i", flags))
        finally:
            os.close(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_new(files: Durable, path: Path, data: bytes, *, mode: int) -> None:
    """Create a file with durable content; its name is durable when its folder is synced."""
    descriptor = files.create(path, mode)
    try:
        files.write(descriptor, data)
        files.sync(descriptor)
    finally:
        os.close(descriptor)


def replace(files: Durable, path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file as a whole or not at all; durable when this returns. One writer at a time."""
    staged = path.with_name(f".{path.name.lstrip('.')}.new")
    files.remove(staged)
    write_new(files, staged, data, mode=mode)
    files.rename(staged, path)
    files.sync_folder(path.parent)


def make_folders(files: Durable, folder: Path) -> None:
    """Create a folder and those above it; durable when this returns.

    A folder that is there already was perhaps made by a process that died before it synced the
    folder above, so the lowest one is synced into its parent in any case.
    """
    missing = [folder]
    while not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        files.make_folder(path)
        files.sync_folder(path.parent)


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn an `OSError` into a `StorageError` that says what could not be done; a full disk may have room later."""
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in _FULL else StorageError
        raise kind(f"{what}: {error.strerror or error}") from error
