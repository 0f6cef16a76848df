"""Lines that could not be admitted, kept with their bytes: ``quarantine/<reason>/<leaf>.json``, one file per line.

A line that is admitted later moves to ``quarantine/admitted``. Nothing is ever deleted here.
"""

from __future__ import annotations

import logging
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from audit_middleware.collector.problems import Problem, busy
from audit_middleware.collector.storage.durable import Durable, replace
from audit_middleware.errors import StorageError

ADMITTED: Final = "admitted"
UNDECIDED: Final = frozenset({"unknown_key", "service", "jump"})
"""Reasons that say nothing of the line itself: the same line can get a better verdict later."""
REVISED: Final = UNDECIDED | {"mac"}
"""Reasons that a better one takes the place of: of a bad mac, too, the key may have been the wrong one."""

REJUDGED: Final = ("mac", "sequence")
"""Reasons that are looked at again when the keys have changed or the index was made anew."""

UNSAID: Final = ".unsaid"
"""File that names the lines of a group from before they are written until the ledger has their records."""
_AT_ONCE: Final = 64  # descriptors open at once
_log: Final = logging.getLogger(__name__)
_NAME: Final = re.compile(r"([A-Za-z0-9_-]{43})\.json")


class Held(msgspec.Struct, frozen=True):
    """One line in quarantine. ``base64`` is its bytes; ``services`` are those its deliverer may deliver for."""

    leaf: str
    reason: str
    base64: str
    received: str
    deliverer: str
    services: list[str]
    kid: str | None = None
    stream: str | None = None
    seq: int | None = None
    kept: str | None = None
    """Leaf of the line that it conflicts with."""

    @property
    def line(self) -> bytes:
        """The bytes as they were delivered."""
        return b64decode(self.base64)


def spell(line: bytes) -> str:
    """Return how ``line`` stands in a file of the quarantine."""
    return b64encode(line).decode()


class Quarantine:
    """The quarantine folder; knows the leaf of every line in it. One owner: the committer.

    At most ``limit`` bytes are kept; beyond that a new line raises `Problem` 503.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.bytes = 0
        self._limit = limit
        self._reserved: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._scan()

    def __len__(self) -> int:
        return len(self._reasons)

    def reason(self, leaf: str) -> str | None:
        """Return why the line is here, or None if it is not."""
        return self._reasons.get(leaf)

    def reserve(self, leaf: str, size: int) -> None:
        """Make sure that a line of ``size`` bytes can be kept; raise `Problem` 503 if not."""
        needed = size * 4 // 3 + 512
        if leaf in self._reasons or leaf in self._reserved:
            return
        if self.bytes + needed > self._limit:
            raise quarantine_full(self._limit)
        self.bytes += needed
        self._reserved.add(leaf)

    def keep(self, lines: list[Held]) -> None:
        """Keep the lines durably; those already here are left alone. Raises `StorageError`."""
        fresh = {line.leaf: line for line in lines if line.leaf not in self._reasons}
        files = {self._path(line.reason, leaf): msgspec.json.encode(line) for leaf, line in fresh.items()}
        try:
            if fresh:
                replace(Durable(), self.folder / UNSAID, msgspec.json.encode(list(fresh)), mode=0o600)
            for some in _chunks(files):
                _write_all(some)
        except OSError as error:
            raise StorageError(f"{self.folder}: {error.strerror}") from error
        self._reasons.update((leaf, line.reason) for leaf, line in fresh.items())
        self._reserved.clear()

    def said(self) -> None:
        """Note that the ledger has a record of every line that is here. Raises `StorageError`."""
        try:
            (self.folder / UNSAID).unlink()
            _sync_folder(self.folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError(f"{self.folder}: {error.strerror}") from error

    def unsaid(self) -> list[Held]:
        """Return the lines of which nobody knows whether a record says that they are here: a crash came between."""
        try:
            leaves = msgspec.json.decode((self.folder / UNSAID).read_bytes(), type=list[str])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            _log.critical("%s cannot be read, and lines may be here without a record: %s", self.folder / UNSAID, error)
            return []
        found = [self.read(leaf) for leaf in leaves if leaf in self._reasons]
        return [held for held in found if held is not None]

    def move(self, leaf: str, reason: str) -> None:
        """Move a line to another reason, or to `ADMITTED` once the ledger holds it. Raises `StorageError`."""
        target = self._path(reason, leaf)
        try:
            target.parent.mkdir(exist_ok=True, mode=0o700)
            os.rename(self._path(self._reasons.pop(leaf), leaf), target)
            _sync_folder(target.parent)
        except OSError as error:
            raise StorageError(f"{self.folder}: {error.strerror}") from error
        if reason != ADMITTED:
            self._reasons[leaf] = reason

    def read(self, leaf: str) -> Held | None:
        """Return a line that is or was here; None when its file is gone or unreadable."""
        folders = [self._reasons[leaf]] if leaf in self._reasons else sorted(os.listdir(self.folder))
        for folder in folders:
            try:
                return msgspec.json.decode(self._path(folder, leaf).read_bytes(), type=Held)
            except (OSError, msgspec.DecodeError):
                continue
        return None

    def held_for(self, reason: str) -> Iterator[Held]:
        """Return the readable lines that are here for ``reason``."""
        for leaf in [leaf for leaf, why in self._reasons.items() if why == reason]:
            held = self.read(leaf)
            if held is not None:
                yield held

    def _path(self, reason: str, leaf: str) -> Path:
        return self.folder / reason / f"{leaf}.json"

    def _scan(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.scandir(self.folder) as folders:
                reasons = [folder.name for folder in folders if folder.is_dir(follow_symlinks=False)]
            for reason in reasons:
                self._scan_reason(reason)
        except OSError as error:
            raise StorageError(f"the quarantine {error.filename} cannot be read: {error.strerror}") from error

    def _scan_reason(self, reason: str) -> None:
        """Note the lines in one folder; whatever else lies there only takes room."""
        with os.scandir(self.folder / reason) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                self.bytes += entry.stat(follow_symlinks=False).st_size
                if match and reason != ADMITTED and entry.is_file(follow_symlinks=False):
                    self._reasons[match[1]] = reason


def quarantine_full(limit: int) -> Problem:
    """Return the 503 that says that a bad line cannot be kept."""
    return busy("quarantine-full", f"a bad line cannot be kept: the quarantine holds its {limit} bytes", seconds=60)


def _chunks(files: dict[Path, bytes]) -> Iterator[dict[Path, bytes]]:
    items = iter(files.items())
    while some := dict(islice(items, _AT_ONCE)):
        yield some


def _write_all(files: dict[Path, bytes]) -> None:
    """Write whole files durably; all data first, so that the disk flushes once and not once per file."""
    written: list[tuple[int, Path, Path]] = []
    try:
        for path, data in files.items():
            path.parent.mkdir(exist_ok=True, mode=0o700)
            temporary = path.with_name(f".{path.name}.new")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            written.append((descriptor, temporary, path))
            _write(descriptor, data)
        for descriptor, temporary, path in written:
            os.fdatasync(descriptor)
            os.rename(temporary, path)
    finally:
        for descriptor, _, _ in written:
            os.close(descriptor)
    for folder in {path.parent for path in files}:
        _sync_folder(folder)
        _sync_folder(folder.parent)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
