"""A disk whose machine can lose power: what was not synced may be there, or cut, or zeroed, or never have been.

The model is adversarial: `Files.datasync` saves the bytes of a file, `Files.sync_folder` the entries of a folder, and
nothing else saves anything. A rename or a removal that was not synced may be undone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Final

from audit_middleware.journal.files import Files

Choose = Callable[[Sequence[str]], str]
"""Picks one of several things that a power loss may do."""

BYTES: Final = ("kept", "cut", "half", "zeroed", "garbage")
ENTRY: Final = ("kept", "undone")


class PowerLossFiles(Files):
    """The real system calls; `lose_power` then rewrites the disk to one of the states a power loss may leave."""

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        self._saved: dict[int, int] = {}
        self._folders: dict[int, int] = {}
        self._undo: dict[int, list[Callable[[], None]]] = {}

    def lose_power(self, choose: Choose) -> None:
        """Leave of each thing that was not synced what ``choose`` picks; whoever wrote must be gone by then."""
        for inode, fd in self._files.items():
            size = os.fstat(fd).st_size
            if size > self._saved[inode]:
                _lose_bytes(fd, self._saved[inode], size, choose(BYTES))
        for undos in self._undo.values():
            while undos and choose(ENTRY) == "undone":
                with contextlib.suppress(OSError):
                    undos.pop()()
        self.close_all()

    def close_all(self) -> None:
        """Let go of what the model holds on to."""
        for fd in (*self._files.values(), *self._folders.values()):
            os.close(fd)
        self._files, self._saved, self._folders, self._undo = {}, {}, {}, {}

    def create(self, name: str, *, dir_fd: int, append: bool = False) -> int:
        """Create a file; until its folder is synced it may never have been."""
        fd = super().create(name, dir_fd=dir_fd, append=append)
        inode = os.fstat(fd).st_ino
        if inode in self._files:  # the number of a file that was removed
            os.close(self._files[inode])
        self._files[inode], self._saved[inode] = os.dup(fd), 0
        self._may_undo(dir_fd, lambda folder: os.unlink(name, dir_fd=folder))
        return fd

    def datasync(self, fd: int) -> None:
        """Save the bytes that are in the file now."""
        status = os.fstat(fd)
        self._saved[status.st_ino] = status.st_size

    def sync_folder(self, fd: int) -> None:
        """Save the entries of the folder."""
        self._undo.pop(os.fstat(fd).st_ino, None)

    def rename(self, old: str, new: str, *, dir_fd: int) -> None:
        """Rename; until the folder is synced it may bear the old name."""
        super().rename(old, new, dir_fd=dir_fd)
        self._may_undo(dir_fd, lambda folder: os.rename(new, old, src_dir_fd=folder, dst_dir_fd=folder))

    def unlink(self, name: str, *, dir_fd: int) -> None:
        """Remove a file; until the folder is synced it may be back."""
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd), "rb") as file:
            content = file.read()
        super().unlink(name, dir_fd=dir_fd)

        def undo(folder: int) -> None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
                file.write(content)

        self._may_undo(dir_fd, undo)

    def _may_undo(self, dir_fd: int, undo: Callable[[int], None]) -> None:
        inode = os.fstat(dir_fd).st_ino
        if inode not in self._folders:
            self._folders[inode] = os.dup(dir_fd)
        folder = self._folders[inode]
        self._undo.setdefault(inode, []).append(lambda: undo(folder))


def _lose_bytes(fd: int, saved: int, size: int, how: str) -> None:
    if how == "cut":
        os.ftruncate(fd, saved)
    elif how == "half":
        os.ftruncate(fd, (saved + size) // 2)
    elif how in {"zeroed", "garbage"}:
        fill = b"\0" if how == "zeroed" else b"\xa5{\n"
        data = (fill * (size - saved))[: size - saved]
        os.ftruncate(fd, saved)  # an O_APPEND descriptor writes at the end, wherever pwrite points
        os.write(fd, data)
