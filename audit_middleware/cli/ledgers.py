"""What there is to verify below a path or behind a URL, and with which keys."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from audit_middleware.errors import ConfigurationError, VerificationError
from audit_middleware.tlog.checkpoint import open_checkpoint
from audit_middleware.tlog.note import MAX_NOTE, Verifier, is_key_name
from audit_middleware.tlog.reader import LogReader, ReadFile
from audit_middleware.verify.expired import FILE as EXPIRED
from audit_middleware.verify.expired import order_of
from audit_middleware.verify.ledger import Log, Scope
from audit_middleware.verify.quarantine import ReadKept, folder_kept
from audit_middleware.verify.report import Finding
from audit_middleware.verify.rollback import FolderFiles, KeptCheckpoint


class Trust(NamedTuple):
    """Which keys may have signed: given by hand, else pinned by AUDIT_LOG_KEYS, else those offered beside the logs.

    A log of another period has another name and the same key, so it is the key that counts.
    """

    explicit: tuple[Verifier, ...]
    pinned: tuple[Verifier, ...]

    @classmethod
    def parse(cls, explicit: Iterable[str], pinned: Iterable[str]) -> Trust:
        """Read verifier keys; raise `ConfigurationError` for text that is none."""
        return cls(tuple(map(Verifier.parse, explicit)), tuple(map(Verifier.parse, pinned)))

    def keys(self, offered: Sequence[Verifier]) -> list[Verifier]:
        """Return the keys to trust, each once."""
        named = self.explicit or self.pinned or offered
        return list({verifier.public: verifier for verifier in reversed(named)}.values())


class Target(NamedTuple):
    """Logs to verify, what is known beside them, and what else was found while they were read."""

    logs: list[Log]
    scope: Scope
    found: Callable[[], Iterable[Finding]] = tuple


def together(targets: Sequence[tuple[str, Target]]) -> Target:
    """Return the logs of several collectors, which share an index, as one target: streams move between them.

    A log goes by its origin then. Raises `ConfigurationError` for one that is there twice.
    """
    logs: dict[str, tuple[tuple[str, bool, str], Log]] = {}
    for named, target in targets:
        for log in target.logs:
            origin = log.reader.verifier.name
            if origin in logs:
                raise ConfigurationError(f"{named}: {origin} is there twice; name each collector once")
            logs[origin] = (order_of(log.name), log._replace(name=origin, collector=named))
    scopes = [target.scope for _, target in targets]
    readers = [scope.read_kept for scope in scopes]
    scope = Scope(
        sorted({origin for scope in scopes for origin in scope.origins}),
        scopes[0].kept,
        _first_kept([read for read in readers if read is not None]) if None not in readers else None,
        misses_earlier=any(scope.misses_earlier for scope in scopes),
        misses_later=any(scope.misses_later for scope in scopes),
    )
    ordered = [log for _, log in sorted(logs.values(), key=lambda each: (each[0], each[1].name))]
    return Target(ordered, scope, lambda: [finding for _, target in targets for finding in target.found()])


def _first_kept(readers: Sequence[ReadKept]) -> ReadKept:
    def read(leaf: str, reason: str) -> bytes | None:
        return next((line for kept in readers if (line := kept(leaf, reason)) is not None), None)

    return read


def folder_target(path: Path, trust: Trust, kept: Sequence[KeptCheckpoint]) -> Target:
    """Return what a data folder or one log's folder holds; raise `ConfigurationError` for anything else."""
    offered = _keys_beside(path)
    is_one = _is_log(path)
    folders = log_folders(path)
    if not folders and not (offered and (path / "log.vkey").is_file()):
        raise ConfigurationError(f"{path} holds neither a spool (streams/) nor a ledger (checkpoint, or log/)")
    trusted = trust.keys(offered)
    if not trusted:
        raise ConfigurationError(f"no log.vkey beside {path}, or it is empty: give the log's verifier key with --vkey")
    logs = [_log(name, folder, trusted, is_named=not is_one) for name, folder in folders]
    origins = [verifier.name for verifier in trust.explicit]
    if is_one:
        earlier, later = _periods_beside(path)
        return Target(logs, Scope(origins, kept, misses_earlier=earlier, misses_later=later))
    data = path.resolve().parent if path.resolve().name == "log" else path
    is_whole = (data / "quarantine").is_dir() or (data / "collector.json").is_file()
    read_kept = folder_kept(data / "quarantine") if is_whole else None
    return Target(logs, Scope([*origins, *(verifier.name for verifier in offered)], kept, read_kept))


def log_folders(path: Path) -> list[tuple[str, Path]]:
    """Return the logs of a data folder as (class/period, folder), oldest period first; a log folder is itself one."""
    if _is_log(path):
        return [(path.name, path)]
    root = path / "log" if (path / "log").is_dir() else path
    found = [folder for folder in root.glob("*/*") if _is_log(folder)]
    named = [("/".join(folder.parts[-2:]), folder) for folder in found]
    return sorted(named, key=lambda each: order_of(each[0]))


def folder_reader(folder: Path) -> ReadFile:
    """Return a function that reads the files of a log's folder, None for one that is not there as a file."""

    def read(key: str) -> bytes | None:
        try:
            descriptor = os.open(folder / key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with open(descriptor, "rb", closefd=True) as file:
            return file.read() if stat.S_ISREG(os.fstat(descriptor).st_mode) else None

    return read


def read_vkeys(text: bytes, where: str) -> list[Verifier]:
    """Return the verifier keys of a ``log.vkey``; raise `ConfigurationError` for what is none."""
    try:
        return [Verifier.parse(vkey) for vkey in text.decode().split()]
    except (UnicodeDecodeError, ConfigurationError) as error:
        raise ConfigurationError(f"{where} is no list of verifier keys: {error}") from error


def verifier_for(note: bytes, trusted: Sequence[Verifier], name: str | None) -> Verifier:
    """Return the trusted key that signed a checkpoint, under the origin it claims; any of them if none did.

    ``name`` is the class and period that the origin has to end with.
    """
    origin = note.partition(b"\n")[0].decode("utf-8", "replace")
    if not is_key_name(origin) or (name is not None and not origin.endswith(f"/{name}")):
        known = [each.name for each in trusted if name is not None and each.name.endswith(f"/{name}")]
        origin = known[0] if known else trusted[0].name
    named = [replace(each, name=origin) for each in trusted]
    return next((each for each in named if _opens(note, each)), named[0])


def _log(name: str, folder: Path, trusted: Sequence[Verifier], *, is_named: bool) -> Log:
    read = folder_reader(folder)
    if (place := read("store")) is not None and not (folder / "tile").exists():
        raise ConfigurationError(
            f"{folder} has no tiles, they are in {place[:MAX_NOTE].decode(errors='replace').strip()}: verify that "
            "place, or the collector by its URL"
        )
    note = (read("checkpoint") or b"")[:MAX_NOTE]
    reader = LogReader(read, verifier_for(note, trusted, name if is_named else None))
    return Log(name, reader, FolderFiles(folder), expired=read(EXPIRED))


def _opens(note: bytes, verifier: Verifier) -> bool:
    try:
        open_checkpoint(note, verifier)
    except VerificationError:
        return False
    return True


def _is_log(folder: Path) -> bool:
    return (folder / "tile").is_dir() or (folder / "checkpoint").exists()


def _periods_beside(path: Path) -> tuple[bool, bool]:
    """Say whether logs of earlier and of later periods lie beside one; of a log that lies alone nobody knows."""
    whole = path.resolve()
    periods = [folder.name for folder in whole.parents[1].glob("*/*") if _is_log(folder) and folder != whole]
    is_in_data = (whole.parents[2] / "collector.json").is_file() if len(whole.parents) > 2 else False  # noqa: PLR2004 - DIR/log/class
    earlier = any(period <= whole.name for period in periods) or not is_in_data
    return earlier, any(period >= whole.name for period in periods)


def _keys_beside(path: Path) -> list[Verifier]:
    for folder in (path, *path.resolve().parents[:4]):
        file = folder / "log.vkey"
        if file.is_file():
            return read_vkeys(file.read_bytes(), str(file))
    return []
