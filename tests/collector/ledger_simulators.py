"""A disk that stops, a disk that fails, and a store that only a bucket could be."""

from __future__ import annotations

import shutil
from pathlib import Path

from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.storage.durable import Durable
from audit_middleware.collector.storage.files import FileStore
from audit_middleware.errors import AlreadyStored, StorageError
from audit_middleware.tlog.note import Signer

SIGNER = Signer("log.example/default/2026h2", bytes(range(32)))


class PowerCut(BaseException):
    """The machine is gone; nothing may catch this."""


class CrashingFiles(Durable):
    """Carries out ``limit`` calls, then the machine is gone.

    With ``lossy``, whatever was not synced goes with it: content is cut to half, names are undone;
    also what a process ``after`` which this one was started had not synced when it was killed.
    """

    def __init__(self, limit=None, *, lossy=False, after=None):
        self.limit, self.lossy, self.calls = limit, lossy, 0
        self.paths = {}
        self.undo = after.undo if after else []  # (folder, how to undo a name in it)
        self.unsynced = after.unsynced if after else {}  # path -> content not synced

    def _count(self):
        if self.limit is not None and self.calls >= self.limit:
            self._lose()
            raise PowerCut
        self.calls += 1

    def _lose(self):
        if not self.lossy:
            return
        for path in self.unsynced:
            if path.exists():
                path.chmod(0o644)
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        for _, undo in reversed(self.undo):
            undo()

    def create(self, path, mode):
        self._count()
        descriptor = super().create(path, mode)
        self.paths[descriptor] = path
        self.undo.append((path.parent, lambda: path.unlink(missing_ok=True)))
        return descriptor

    def write(self, descriptor, data):
        self._count()
        super().write(descriptor, data)
        self.unsynced[self.paths[descriptor]] = True

    def sync(self, descriptor):
        self._count()
        super().sync(descriptor)
        self.unsynced.pop(self.paths.get(descriptor), None)

    def link(self, source, target):
        self._count()
        super().link(source, target)
        self.undo.append((target.parent, lambda: target.unlink(missing_ok=True)))

    def rename(self, source, target):
        self._count()
        before = target.read_bytes() if target.exists() else None
        super().rename(source, target)

        def undo():
            target.rename(source)
            if before is not None:
                target.write_bytes(before)

        self.undo.append((target.parent, undo))

    def remove(self, path):
        self._count()
        before = path.read_bytes() if path.exists() else None
        super().remove(path)
        if before is not None:
            self.undo.append((path.parent, lambda: path.parent.is_dir() and path.write_bytes(before)))

    def make_folder(self, path):
        self._count()
        made = not path.exists()
        super().make_folder(path)
        if made:
            self.undo.append((path.parent, lambda: shutil.rmtree(path, ignore_errors=True)))

    def remove_folder(self, path):
        self._count()
        super().remove_folder(path)
        self.undo.append((path.parent, lambda: path.mkdir(exist_ok=True)))

    def sync_folder(self, path):
        self._count()
        super().sync_folder(path)
        self.undo = [(folder, undo) for folder, undo in self.undo if folder != path]


class FailingFiles(Durable):
    """The ``n``-th call of one kind fails: not carried out, or carried out and failed all the same."""

    def __init__(self, kind, number, *, done, error):
        self.kind, self.number, self.done, self.error, self.asked = kind, number, done, error, 0

    def _answer(self, kind, *args):
        real = getattr(Durable, kind)
        if kind != self.kind:
            return real(self, *args)
        self.asked += 1
        if self.asked != self.number:
            return real(self, *args)
        if self.done:
            real(self, *args)
        raise self.error

    def create(self, path, mode):
        return self._answer("create", path, mode)

    def write(self, descriptor, data):
        return self._answer("write", descriptor, data)

    def sync(self, descriptor):
        return self._answer("sync", descriptor)

    def link(self, source, target):
        return self._answer("link", source, target)

    def rename(self, source, target):
        return self._answer("rename", source, target)

    def sync_folder(self, path):
        return self._answer("sync_folder", path)


class BucketStore:
    """A store in memory that keeps everything, and can lose a request or the answer to it."""

    def __init__(self):
        self.files, self.fail_at, self.puts, self.lose = {}, None, 0, None

    def put(self, key, data):
        self.puts += 1
        if self.puts == self.fail_at and self.lose == "request":
            raise StorageError("connection refused")
        if self.files.setdefault(key, data) != data:
            raise AlreadyStored(key)
        if self.puts == self.fail_at:
            raise StorageError("read timed out")

    def get(self, key):
        return self.files.get(key)

    def keys(self, prefix):
        return iter(sorted(key for key in self.files if key.startswith(prefix)))

    def discard(self, key):
        pass


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def entries(first, end):
    return [b'{"entry":%d}' % number for number in range(first, end)]


def open_ledger(folder: Path, *, files=None, store=None, signer=SIGNER, clock=None) -> Ledger:
    store = store or FileStore(folder / "log", files=files)
    return Ledger.open(
        folder / "log", store, signer, guard=folder / "guard" / "default", files=files, clock=clock or Clock()
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder; what may lie in the staging folder is no part of a ledger."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".staging" not in path.parts and not path.name.endswith(".new")
    }
