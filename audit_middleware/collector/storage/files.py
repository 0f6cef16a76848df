"""A `Store` in a folder: every file is created once, read-only, and durable before it has a name.

With ``immutable`` every file gets the file system's flag of that name as well (``chattr +i``), and not the one for
append-only (``+a``): a finished file never grows, and a tile with bytes appended is a damaged tile. The flag stops
``rm -rf``, a program that runs as root, and everybody without CAP_LINUX_IMMUTABLE; whoever has that capability clears
the flag, as this store does itself for a partial tile that is superseded. So it is an effort, and no WORM.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from audit_middleware.collector.storage.durable import Durable, make_folders, storage_errors
from audit_middleware.collector.storage.keys import PARTIAL, require_key
from audit_middleware.errors import AlreadyStored

_READY_LIMIT = 4096
_BATCH = 64  # descriptors open at once
_NO_FLAG: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW}
)
_log: Final = logging.getLogger(__name__)


class FileStore:
    """Keys are paths below ``root``. One writing process at a time; readers need no lock.

    Nothing is created before the first `put`, which also sweeps what a crash left in ``.staging``.
    """

    def __init__(self, root: Path | str, *, immutable: bool = False, files: Durable | None = None) -> None:
        self.immutable = immutable  # until the file system or the system refuses it once
        self._root = Path(root)
        self._staging = self._root / ".staging"
        self._files = files or Durable()
        self._numbers = itertools.count()
        self._preparing = threading.Lock()
        self._ready: set[Path] = set()  # folders known to be durable; owned by _preparing

    def put(self, key: str, data: bytes) -> None:
        """Store ``data`` durably: content synced, linked without replacing, folder synced.

        Raises:
            AlreadyStored: the key holds other bytes.
            StorageError: the key is malformed, or the file system failed; do not retry.
        """
        self.put_all([(key, data)])

    def put_all(self, files: Sequence[tuple[str, bytes]]) -> None:
        """Store every (key, data) as `put` does; names appear in the order given.

        Contents are written before the first is synced, and a folder is synced once, after its last
        file: the file system then has one journal to commit instead of one per file.

        Raises:
            AlreadyStored: a key holds other bytes.
            StorageError: a key is malformed, or the file system failed; do not retry.
        """
        located = [(self._path(key), data) for key, data in files]
        for at in range(0, len(located), _BATCH):
            batch = located[at : at + _BATCH]
            with storage_errors(f"cannot store {batch[0][0]} or one of the {len(batch) - 1} files after it"):
                self._store(batch)

    def get(self, key: str) -> bytes | None:
        """Return the bytes under ``key``, None when there are none.

        Raises:
            StorageError: the key is malformed, or the file system failed.
        """
        path = self._path(key)
        with storage_errors(f"cannot read {path}"):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with ``prefix``, in order; files whose name begins with a dot are none."""
        folder = self._root / prefix.rpartition("/")[0]
        for name in _walk(folder, self._root):
            if name.startswith(prefix):
                yield name

    def discard(self, key: str) -> None:
        """Remove a superseded file, and the folder of partial tiles that this empties."""
        path = self._path(key)
        with storage_errors(f"cannot remove {path}"):
            try:
                self._files.remove(path)
            except PermissionError:  # also one that was made when `immutable` was still set
                self._files.set_immutable(path, is_set=False)
                self._files.remove(path)
            folder = path.parent
            if folder.name.endswith(PARTIAL) and folder.is_dir() and not any(folder.iterdir()):
                self._ready.discard(folder)
                self._files.remove_folder(folder)

    def _store(self, batch: Sequence[tuple[Path, bytes]]) -> None:
        folders = dict.fromkeys(path.parent for path, _ in batch)
        for folder in folders:
            self._prepare(folder)
        staged = self._stage([data for _, data in batch])
        for (path, data), source in zip(batch, staged, strict=True):
            self._name(path, data, source)
        for folder in folders:
            self._files.sync_folder(folder)

    def _stage(self, contents: Sequence[bytes]) -> list[Path]:
        """Write durable content under temporary names."""
        paths = [self._staging / f"{os.getpid()}-{next(self._numbers)}" for _ in contents]
        try:
            self._write(paths, contents)
        except OSError:
            for path in paths:  # a disk that is full, and is tried again, does not get fuller
                with suppress(OSError):
                    self._files.remove(path)
            raise
        return paths

    def _write(self, paths: Sequence[Path], contents: Sequence[bytes]) -> None:
        with ExitStack() as opened:
            descriptors = []
            for path, data in zip(paths, contents, strict=True):
                descriptors.append(self._files.create(path, 0o444))
                opened.callback(os.close, descriptors[-1])
                self._files.write(descriptors[-1], data)
            for descriptor in descriptors:
                self._files.sync(descriptor)

    def _name(self, path: Path, data: bytes, staged: Path) -> None:
        try:
            self._files.link(staged, path)
        except FileExistsError:
            # content is synced before it has this name, so an equal file needs no second sync
            if path.read_bytes() != data:
                raise AlreadyStored(f"{path} holds other bytes, and is never replaced") from None
        self._files.remove(staged)  # before the flag, which is the inode's and would hold this name too
        if self.immutable:
            self._protect(path)

    def _protect(self, path: Path) -> None:
        try:
            self._files.set_immutable(path, is_set=True)
        except OSError as error:
            if error.errno not in _NO_FLAG:
                raise
            self.immutable = False
            _log.warning(
                "%s: files stay read-only, but not immutable (%s): that takes CAP_LINUX_IMMUTABLE, and a file "
                "system such as ext4, xfs or btrfs",
                self._root,
                error.strerror,
            )

    def _path(self, key: str) -> Path:
        return self._root / require_key(key)

    def _prepare(self, folder: Path) -> None:
        """Make the folder durable, once per process; the first time, sweep the staging folder."""
        with self._preparing:
            if not self._ready:
                make_folders(self._files, self._staging)
                for leftover in self._staging.iterdir():
                    self._files.remove(leftover)
            if folder in self._ready:
                return
            if len(self._ready) > _READY_LIMIT:
                self._ready.clear()
            for path in [self._staging, *reversed(folder.parents), folder]:
                if path not in self._ready and path.is_relative_to(self._root):
                    make_folders(self._files, path)
                    self._ready.add(path)


def _walk(folder: Path, root: Path) -> Iterator[str]:
    with storage_errors(f"cannot list {folder}"):
        found = sorted(os.scandir(folder), key=_order) if folder.is_dir() else []
    for item in found:
        if item.name.startswith("."):
            continue
        if item.is_dir(follow_symlinks=False):
            yield from _walk(Path(item.path), root)
        else:
            yield Path(item.path).relative_to(root).as_posix()


def _order(item: os.DirEntry[str]) -> str:
    """Sort a folder where its keys sort: by its name and the slash."""
    return item.name + "/" if item.is_dir(follow_symlinks=False) else item.name
