"""The data folder of one collector: its lock, its name, and the key that signs its logs.

::

    DIR/collector.json       the name, chosen when the folder was made
    DIR/collector.lock       held while a collector has it open
    DIR/log.key              Ed25519 seed, base64url, 0600
    DIR/log.vkey             one verifier key a line, one for every log
    DIR/log/<class>/<period> ledgers
    DIR/quarantine           lines that were not admitted
    DIR/index.sqlite         the index, rebuilt at any time
    DIR/monitor.json         what the monitor remembers, read from the ledgers when it is gone
    DIR/alerts/              what each alert sink was told; without it open findings are told again
"""

from __future__ import annotations

import fcntl
import os
import secrets
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

import msgspec

from audit_middleware.collector.settings import CollectorSettings, default_name
from audit_middleware.collector.storage.durable import Durable, make_folders, replace
from audit_middleware.collector.storage.stores import make_stores
from audit_middleware.errors import ConfigurationError, StorageError
from audit_middleware.sealing.text import b64url, unb64url

SEED_BYTES: Final = 32


class _Identity(msgspec.Struct, frozen=True):
    version: int
    name: str


class DataFolder:
    """An open data folder; one process has it at a time.

    Raises `StorageError` when another collector has it, `ConfigurationError` when it is another collector's by name.
    """

    def __init__(self, settings: CollectorSettings) -> None:
        self.path = settings.data
        self.policy = settings.policy
        self.stores = make_stores(settings.store)
        self._files = Durable()
        try:
            if not self.path.is_dir():
                make_folders(self._files, self.path)
                self.path.chmod(0o700)  # records name people
            self._lock = os.open(self.path / "collector.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot open the data folder {self.path}: {error.strerror}") from error
        try:
            self._take_lock()
            self.name = self._identify(settings.name)
            self.seed = self._read_seed()
        except BaseException:
            self.close()
            raise
        # by key, so that two collectors of one host never share a guard, and a moved folder finds its own
        self.guard = settings.guard_folder / sha256(b"audit-ready/guard\0" + self.seed).hexdigest()[:32]

    @property
    def logs(self) -> Path:
        """Where the ledgers lie."""
        return self.path / "log"

    @property
    def quarantine(self) -> Path:
        """Where the lines lie that were not admitted."""
        return self.path / "quarantine"

    @property
    def index(self) -> Path:
        """The index."""
        return self.path / "index.sqlite"

    @property
    def monitor(self) -> Path:
        """What the monitor remembers."""
        return self.path / "monitor.json"

    @property
    def alerts(self) -> Path:
        """Where it is remembered what was told to whom."""
        return self.path / "alerts"

    def write_vkeys(self, vkeys: list[str]) -> None:
        """Replace ``log.vkey``."""
        replace(self._files, self.path / "log.vkey", "".join(f"{vkey}\n" for vkey in vkeys).encode())

    def close(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._lock >= 0:
            self.stores.close()
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"another collector has {self.path} open; a data folder has one collector. "
                "Stop the other one, or use another --data folder"
            ) from error

    def _identify(self, configured: str | None) -> str:
        file = self.path / "collector.json"
        if not file.exists():
            identity = _Identity(1, configured or default_name())
            replace(self._files, file, msgspec.json.encode(identity) + b"\n")
            return identity.name
        try:
            identity = msgspec.json.decode(file.read_bytes(), type=_Identity)
        except (OSError, msgspec.DecodeError) as error:
            raise StorageError(f"{file} cannot be read: {error}") from error
        if configured not in {None, identity.name}:
            raise ConfigurationError(
                f"name is {configured!r}, but {self.path} was made as {identity.name!r}; "
                "a log keeps its name: change the setting, or begin a new data folder"
            )
        return identity.name

    def _read_seed(self) -> bytes:
        file = self.path / "log.key"
        if not file.exists():
            if self.logs.exists():
                raise StorageError(f"{file} is missing, and {self.logs} was signed with it: put it back")
            replace(self._files, file, b64url(secrets.token_bytes(SEED_BYTES)) + b"\n", mode=0o600)
        try:
            seed = unb64url(file.read_bytes().strip())
        except (OSError, ValueError) as error:
            raise StorageError(f"{file} cannot be read as a key: {error}") from error
        if len(seed) != SEED_BYTES or file.stat().st_mode & 0o077:
            raise StorageError(f"{file}: expected {SEED_BYTES} bytes as base64url, readable by its owner only (0600)")
        return seed
