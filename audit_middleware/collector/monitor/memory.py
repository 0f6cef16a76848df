"""What the monitor remembers across restarts, in one file beside the index, and as disposable.

The file says up to which entry of each log it knows everything; the rest is read from the ledgers. Without it, or when
somebody changed it, all of it is: the life of every finding is on record there.
"""

from __future__ import annotations

import logging
import os
from hmac import compare_digest, digest
from pathlib import Path
from typing import Final

import msgspec

from audit_middleware.collector.monitor.watch import WatchState

VERSION: Final = 1
_log: Final = logging.getLogger(__name__)


class Patrolled(msgspec.Struct):
    """How far the present pass over the store has come, and when the last one that came through began and ended."""

    log: str = ""
    level: int = -1
    index: int = 0
    began: float | None = None
    last_began: float | None = None
    last_ended: float | None = None


class Remembered(msgspec.Struct):
    """Everything; ``sizes`` are entries of each log, by origin."""

    version: int = VERSION
    sizes: dict[str, int] = {}
    state: WatchState = msgspec.field(default_factory=WatchState)
    patrolled: Patrolled = msgspec.field(default_factory=Patrolled)


class MonitorFile:
    """The file, sealed with a key that is derived from the seed that signs the logs."""

    def __init__(self, path: Path, seed: bytes) -> None:
        self.path = path
        self._key = digest(seed, b"audit-ready/monitor/v1", "sha256")

    def load(self) -> Remembered | None:
        """Return what was saved; None when there is nothing, or nothing that can be believed."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("the monitor's memory %s cannot be read, the ledger is: %s", self.path, error)
            return None
        seal, _, body = data.partition(b"\n")
        if not compare_digest(seal, self._seal(body)):
            _log.warning("the monitor's memory %s was changed by somebody else; the ledger is read instead", self.path)
            return None
        try:
            found = msgspec.json.decode(body, type=Remembered)
        except msgspec.DecodeError:
            return None
        return found if found.version == VERSION else None

    def save(self, remembered: Remembered) -> None:
        """Replace the file; losing it costs a reading of the ledger and nothing else, so that it is not synced."""
        body = msgspec.json.encode(remembered)
        temporary = self.path.with_name(f".{self.path.name}.new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(self._seal(body) + b"\n" + body)
            os.rename(temporary, self.path)
        except OSError as error:
            _log.warning("the monitor's memory %s cannot be written: %s", self.path, error)

    def _seal(self, body: bytes) -> bytes:
        return digest(self._key, body, "sha256").hex().encode()
