"""The spool: the folder that holds the journals of every process of a host, living and dead.

::

    <spool>/                 0700, owned by this user, not a link
        streams/<stream>/    one journal each
        streams/.new-*       half-made, swept
        quarantine/          lines a collector would not take, or bytes that are no line
        last.json            the head of the stream delivered and removed last
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import threading
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from audit_middleware.errors import ConfigurationError, JournalError
from audit_middleware.journal.cursor import Position
from audit_middleware.journal.files import REAL_FILES, Files, read_whole, write_whole
from audit_middleware.journal.journal import NEW_PREFIX, Journal
from audit_middleware.journal.outbox import Outbox, StreamEnd, StreamView, stream_end, stream_view
from audit_middleware.record import StreamHead

_STREAM: Final = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]")
_TEMPORARY: Final = re.compile(r"\.[a-z]+\.json-[0-9]+-[0-9]+")  # as `Spool._replace` names them
_HALF_MADE_AFTER_S: Final = 60
_META_BYTES: Final = 4096
_LAST_FILE: Final = "last.json"


class Spool:
    """An open spool folder. Opening creates it; `JournalError` when that fails or the folder is not safe to use."""

    def __init__(self, path: Path, files: Files = REAL_FILES) -> None:
        self.path = path
        self.files = files
        self._root_fd = self._streams_fd = -1
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_folder(path)
            self._root_fd = files.open_folder(os.fspath(path))
            self._streams_fd = self._folder("streams")
        except OSError as error:
            self.close()
            raise JournalError(f"spool {path}: {error.strerror}", errno=error.errno) from error
        except ConfigurationError as error:
            raise JournalError(str(error)) from error

    def begin(self, stream: str, meta: dict[str, Any]) -> Journal:
        """Begin the journal of a new stream; raise `JournalError` when the disk will not have it."""
        return Journal(self.files, self._streams_fd, stream, {**meta, "began_ns": time.time_ns()})

    def streams(self) -> list[str]:
        """Return the streams that have a folder, in no order of time."""
        return [name for name in self.files.names(self._streams_fd) if _STREAM.fullmatch(name)]

    def outbox(self, stream: str) -> Outbox | None:
        """Take the delivering side of a stream, or None when another process delivers it or it is gone."""
        try:
            return Outbox.take(self.files, self._streams_fd, stream)
        except OSError:
            return None

    def view(self, stream: str) -> StreamView:
        """Look at a stream without taking anything; what cannot be read shows as nothing waiting."""
        try:
            return stream_view(self.files, self._streams_fd, stream)
        except OSError:
            return StreamView(Position(), 0, writer_is_dead=True)

    def meta(self, stream: str) -> dict[str, Any]:
        """Return the unsigned hints of a stream, an empty dict when they cannot be read."""
        try:
            fd = self.files.open_folder(stream, dir_fd=self._streams_fd)
        except OSError:
            return {}
        try:
            meta = json.loads(read_whole(self.files, "meta.json", dir_fd=fd, limit=_META_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        finally:
            self.files.close(fd)
        return meta if isinstance(meta, dict) else {}

    def newest_head(self) -> StreamHead | None:
        """Return the head of the stream begun last on this spool: the ``previous`` of the next ``open`` record.

        A stream without a line is none: its process was killed before its first, no ledger will ever have it, and a
        record that named it would look as if somebody had removed it. Others may remove delivered streams, and those
        without a line, while this looks.
        """
        began = {name: self._began_ns(name) for name in self.streams()}
        for name in sorted(began, key=lambda name: (began[name], name), reverse=True):
            if began[name] < self._last_removed()[1]:
                break
            head = self._head_of(name)
            if head is not None:
                return head
        return self._last_removed()[0]

    def _head_of(self, stream: str) -> StreamHead | None:
        """Return the head of a stream; None for one without a line, or that was removed since it was listed."""
        try:
            end = stream_end(self.files, self._streams_fd, stream)
        except FileNotFoundError:
            return None  # if it had lines, its head was kept first
        except OSError:
            return StreamHead(stream)
        return StreamHead(stream, end.seq, end.leaf, closed=end.closed) if end.seq is not None else None

    def end(self, stream: str) -> StreamEnd | None:
        """Return where a stream ends now; None when it cannot be read."""
        try:
            return stream_end(self.files, self._streams_fd, stream)
        except OSError:
            return None

    def retire(self, outbox: Outbox) -> None:
        """Remove a dead stream that was delivered whole, keeping its head for the next ``open`` record."""
        end, began = self.end(outbox.stream), self._began_ns(outbox.stream)
        if end is not None and end.seq is not None and began >= self._last_removed()[1]:
            self._write_last(StreamHead(outbox.stream, end.seq, end.leaf, closed=end.closed), began)
        outbox.remove(self._streams_fd)

    def keep_aside(self, stream: str, name: str, data: bytes, why: dict[str, Any]) -> None:
        """Put bytes that could not be delivered into ``quarantine/<stream>/``; the same name is kept once.

        Raises ``OSError`` when they could not be kept.
        """
        quarantine_fd = self._folder("quarantine")
        try:
            folder_fd = self._folder(stream, dir_fd=quarantine_fd)
        finally:
            self.files.close(quarantine_fd)
        try:
            for suffix, content in ((".line", data), (".why.json", json.dumps(why).encode())):
                if name + suffix not in self.files.names(folder_fd):
                    self._replace(name + suffix, content, dir_fd=folder_fd)
        finally:
            self.files.close(folder_fd)

    def read_state(self, name: str, limit: int) -> bytes:
        """Read a small file beside the streams; ``OSError`` when there is none."""
        return read_whole(self.files, name, dir_fd=self._root_fd, limit=limit)

    def write_state(self, name: str, data: bytes) -> None:
        """Replace a small file beside the streams, whole or not at all; ``OSError`` when the disk will not."""
        self._replace(name, data, dir_fd=self._root_fd)

    def sweep(self) -> None:
        """Remove folders and files that a process began and did not finish, once they are a minute old."""
        for name in self.files.names(self._streams_fd):
            if name.startswith(NEW_PREFIX):
                with contextlib.suppress(OSError):
                    self._sweep_one(name)
        for name in self.files.names(self._root_fd):
            if _TEMPORARY.fullmatch(name):
                with contextlib.suppress(OSError):
                    self._sweep_temporary(name)

    def used_bytes(self) -> int:
        """Return the bytes of all files below the spool, recomputed from the folder."""
        return sum(_folder_bytes(self.path / "streams" / name) for name in self.streams())

    def bound_reached(self, max_bytes: int, min_free: int) -> str:
        """Say in words which bound is reached, so that policy acts before the disk is full; empty when none is."""
        try:
            free, total = self.files.free_bytes(self._root_fd)
        except OSError as error:
            return f"the spool's file system does not answer: {error.strerror}"
        floor = min(min_free, total // 20)
        if free < floor:
            return f"{free} bytes are free beside the spool, {floor} have to stay free"
        used = self.used_bytes()
        return f"the spool holds {used} bytes, its bound is {max_bytes}" if used > max_bytes else ""

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self._streams_fd, self._root_fd):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    self.files.close(fd)
        self._root_fd = self._streams_fd = -1

    def _began_ns(self, stream: str) -> int:
        """When a stream began, as its unsigned hints say; 0 for hints that say nothing of the kind."""
        began = self.meta(stream).get("began_ns")
        return began if type(began) is int else 0

    def _folder(self, name: str, *, dir_fd: int | None = None) -> int:
        at = self._root_fd if dir_fd is None else dir_fd
        with contextlib.suppress(FileExistsError):
            self.files.make_folder(name, dir_fd=at)
        return self.files.open_folder(name, dir_fd=at)

    def _replace(self, name: str, data: bytes, *, dir_fd: int) -> None:
        """Write under a temporary name, then rename: nobody ever reads half of it."""
        temporary = f".{name}-{os.getpid()}-{threading.get_ident()}"
        with contextlib.suppress(FileNotFoundError):  # of a process with the same numbers that was killed here
            self.files.unlink(temporary, dir_fd=dir_fd)
        fd = self.files.create(temporary, dir_fd=dir_fd)
        try:
            write_whole(self.files, fd, data)
            self.files.rename(temporary, name, dir_fd=dir_fd)
        except OSError:
            with contextlib.suppress(OSError):
                self.files.unlink(temporary, dir_fd=dir_fd)
            raise
        finally:
            self.files.close(fd)

    def _write_last(self, head: StreamHead, began_ns: int) -> None:
        with contextlib.suppress(OSError):
            self.write_state(_LAST_FILE, msgspec.json.encode({"began_ns": began_ns, "head": head}))

    def _last_removed(self) -> tuple[StreamHead | None, int]:
        try:
            content = self.read_state(_LAST_FILE, _META_BYTES)
            last = msgspec.json.decode(content, type=_Last)
        except (OSError, msgspec.MsgspecError):
            return None, 0
        return last.head, last.began_ns

    def _sweep_one(self, name: str) -> None:
        fd = self.files.open_folder(name, dir_fd=self._streams_fd)
        try:
            if time.time() - self.files.stat(fd).st_mtime < _HALF_MADE_AFTER_S or not self._is_dead(fd):
                return
            for entry in self.files.names(fd):
                self.files.unlink(entry, dir_fd=fd)
            self.files.remove_folder(name, dir_fd=self._streams_fd)
        finally:
            self.files.close(fd)

    def _sweep_temporary(self, name: str) -> None:
        if time.time() - self.files.stat_name(name, dir_fd=self._root_fd).st_mtime >= _HALF_MADE_AFTER_S:
            self.files.unlink(name, dir_fd=self._root_fd)

    def _is_dead(self, folder_fd: int) -> bool:
        try:
            lock_fd = self.files.open_existing("lock", dir_fd=folder_fd, write=True)
        except FileNotFoundError:
            return True
        try:
            return self.files.lock(lock_fd)
        finally:
            self.files.close(lock_fd)


class _Last(msgspec.Struct):
    head: StreamHead
    began_ns: int


def check_folder(path: Path) -> None:
    """Raise `ConfigurationError` unless only this user can change what lies in ``path``, an existing folder."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"spool {path} is a link or no folder; name the folder itself")
    if status.st_uid != os.geteuid():
        raise ConfigurationError(f"spool {path} belongs to uid {status.st_uid}; this process runs as {os.geteuid()}")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigurationError(f"spool {path} has mode {mode:04o}; other users can reach it: chmod 700 {path}")
    _check_parent(path, path.resolve().parent)


def why_unusable(path: Path) -> str:
    """Say why `Spool` could not be opened at ``path``, which is not made to find out; empty when it could."""
    try:
        if os.path.lexists(path):
            check_folder(path)
            place = path
        else:
            place = next(folder for folder in path.absolute().parents if folder.exists())
            if not place.is_dir():
                return f"spool {path} cannot be made: {place} is no folder"
            if place == path.absolute().parent:  # any other parent is made by us
                _check_parent(path, place)
    except ConfigurationError as error:
        return str(error)
    except OSError as error:
        return f"spool {path}: {error.strerror}"
    return "" if os.access(place, os.W_OK | os.X_OK) else f"spool {path}: {place} is not writable by this user"


def _check_parent(path: Path, parent: Path) -> None:
    if parent.stat().st_mode & stat.S_IWOTH:
        raise ConfigurationError(
            f"spool {path} lies in a folder that anybody can write to, and cleaners empty: move it"
        )


def _folder_bytes(path: Path) -> int:
    total = 0
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_size
    return total
