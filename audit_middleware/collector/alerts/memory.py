"""What each sink was told, across restarts: one sealed file for each, and as disposable as the monitor's.

Whoever could write into it without the key of the logs could keep a finding from being told.
"""

from __future__ import annotations

import logging
import os
from hmac import compare_digest, digest
from pathlib import Path
from typing import Final

import msgspec

from audit_middleware.collector.alerts.rules import Told

VERSION: Final = 1
_log: Final = logging.getLogger(__name__)


class Memory(msgspec.Struct):
    """What is in the file; ``told`` is by id of the finding."""

    version: int = VERSION
    told: dict[str, Told] = {}


class MemoryFile:
    """The file of one sink, sealed with a key that is derived from the seed that signs the logs, and its name."""

    def __init__(self, path: Path, seed: bytes) -> None:
        self.path = path
        self._key = digest(seed, b"audit-ready/alerts/v1\0" + path.name.encode(), "sha256")

    def load(self) -> dict[str, Told] | None:
        """Return what was saved; None when there is nothing, or nothing that can be believed."""
        try:
            seal, _, body = self.path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s cannot be read, open findings are told again: %s", self.path, error)
            return None
        if not compare_digest(seal, self._seal(body)):
            _log.warning("%s was changed by somebody else; open findings are told again", self.path)
            return None
        try:
            found = msgspec.json.decode(body, type=Memory)
        except msgspec.DecodeError:
            return None
        return found.told if found.version == VERSION else None

    def save(self, told: dict[str, Told]) -> None:
        """Replace the file; losing it costs a second message and nothing else, so that it is not synced."""
        body = msgspec.json.encode(Memory(told=told))
        temporary = self.path.with_name(f".{self.path.name}.new")
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(self._seal(body) + b"\n" + body)
            os.rename(temporary, self.path)
        except OSError as error:
            _log.warning("%s cannot be written, a restart tells open findings again: %s", self.path, error)

    def _seal(self, body: bytes) -> bytes:
        return digest(self._key, body, "sha256").hex().encode()
