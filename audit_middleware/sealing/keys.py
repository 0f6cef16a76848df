"""Application keys: a ring of them, oldest first. The newest seals, every one verifies.

A key never seals a line itself. Each stream derives its own first key from it, and a ratchet derives a
fresh MAC key every 64 records (wire format, section 1), so that a process that is taken over cannot
reseal what it wrote before.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from audit_middleware.errors import ConfigurationError, UnknownKey
from audit_middleware.sealing.text import b64url, unb64url

KEY_BYTES: Final = 32  # wire format, section 1: an application key has at least 32 bytes
DEVELOPMENT_KID: Final = "dev"
_KID: Final = re.compile(r"[A-Za-z0-9._-]{1,32}")
_KEY_FILE_BYTES: Final = 64 * 1024
_STREAM_INFO: Final = b"audit-middleware/stream/v1"
_CONTEXT_INFO: Final = b"audit-middleware/context/v1"


@dataclass(frozen=True, slots=True)
class Keyring:
    """Application keys by ``kid``, oldest first; ``repr`` shows names only."""

    keys: Mapping[str, bytes] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.keys:
            raise ConfigurationError("no application key: set AUDIT_KEYS, or make one with `audit-ready keys new`")

    @property
    def newest(self) -> str:
        """The ``kid`` that seals."""
        return list(self.keys)[-1]

    @property
    def is_development(self) -> bool:
        """Whether the sealing key is the development key, whose seals are no evidence."""
        return self.newest == DEVELOPMENT_KID

    def stream_key(self, kid: str, stream: bytes) -> bytes:
        """Derive ``K[0]`` of a stream (16 raw bytes) for ``kid``; raise `UnknownKey` for one not in the ring."""
        return HKDF(SHA256(), length=32, salt=stream, info=_STREAM_INFO).derive(self._key(kid))

    def context_key(self, kid: str) -> bytes:
        """Derive what seals contexts (wire format, section 7); raise `UnknownKey` for one not in the ring."""
        return HKDF(SHA256(), length=32, salt=None, info=_CONTEXT_INFO).derive(self._key(kid))

    def _key(self, kid: str) -> bytes:
        key = self.keys.get(kid)
        if key is None:
            raise UnknownKey(f"key {kid!r} is not in the keyring; configure it to verify its lines", kid=kid)
        return key


def new_key(kid: str) -> str:
    """Make a key and spell it ``kid:base64url``; raise `ConfigurationError` for a bad name."""
    _check_kid(kid)
    return f"{kid}:{b64url(secrets.token_bytes(KEY_BYTES)).decode()}"


def parse_keys(text: str, *, origin: str = "AUDIT_KEYS") -> Keyring:
    """Read ``kid:base64url[,kid:base64url]`` (commas or lines, oldest first, ``#`` comments).

    Raises `ConfigurationError` naming ``origin`` and the position of the first bad key, never its bytes.
    """
    lines = (line.split("#", 1)[0] for line in text.splitlines())
    items = [item.strip() for line in lines for item in line.split(",") if item.strip()]
    keys: dict[str, bytes] = {}
    for number, item in enumerate(items, 1):
        kid, _, secret = item.partition(":")
        _check_kid(kid, origin=f"{origin}, key {number}")
        if kid in keys:
            raise ConfigurationError(f"{origin}, key {number}: {kid!r} is there twice; a name belongs to one key")
        keys[kid] = _decode(secret, where=f"{origin}, key {number} ({kid})")
    if not keys:
        raise ConfigurationError(f"{origin} holds no key; expected kid:base64url")
    return Keyring(keys)


def has_kid(text: str, kid: str, *, origin: str) -> bool:
    """Say whether the text of a key file holds a key of this name; raise `ConfigurationError` for a bad key in it."""
    is_empty = not any(line.split("#", 1)[0].strip() for line in text.splitlines())
    return not is_empty and kid in parse_keys(text, origin=origin).keys


def read_key_file(path: Path) -> Keyring:
    """Read a key file; raise `ConfigurationError` unless it is a regular file only its owner can read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(f"key file {path}: {error.strerror}") from error
    try:
        return parse_keys(read_private(descriptor, path), origin=str(path))
    finally:
        os.close(descriptor)


def read_private(descriptor: int, path: Path) -> str:
    """Return the text of an open key file; raise `ConfigurationError` for one that is unsafe, or over 64 KiB."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"key file {path} is not a regular file")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigurationError(f"key file {path} has mode {mode:04o}; others can read it: chmod 600 {path}")
    if status.st_size > _KEY_FILE_BYTES:
        raise ConfigurationError(f"key file {path} has {status.st_size} bytes; at most {_KEY_FILE_BYTES} are read")
    return os.read(descriptor, _KEY_FILE_BYTES).decode("utf-8", "replace")


def development_keyring(environ: Mapping[str, str] = os.environ) -> Keyring:
    """Return the keyring of the user's development key, made once in the XDG state folder (0600).

    Raises `ConfigurationError` when neither reading nor making it works.
    """
    base = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local/state")
    path = Path(base, "audit-ready", "dev.key")
    if not path.exists():
        _create_once(path, new_key(DEVELOPMENT_KID) + "\n")
    return read_key_file(path)


def _create_once(path: Path, text: str) -> None:
    """Write ``path`` whole or not at all; of several processes that try at once, one wins and all agree."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        finally:
            temporary.unlink()
    except OSError as error:
        hint = "set AUDIT_KEYS, or make the folder writable"
        raise ConfigurationError(
            f"no key is configured and {path} cannot be made ({error.strerror}): {hint}"
        ) from error


def _check_kid(kid: str, *, origin: str = "kid") -> None:
    if not _KID.fullmatch(kid):
        raise ConfigurationError(f"{origin}: expected kid:base64url with a kid of 1-32 characters A-Z a-z 0-9 . _ -")


def _decode(secret: str, *, where: str) -> bytes:
    try:
        key = unb64url(secret.rstrip("=").encode("ascii"))
    except ValueError as error:
        raise ConfigurationError(f"{where}: the part behind the colon is not base64url") from error
    if len(key) < KEY_BYTES:
        raise ConfigurationError(f"{where}: {len(key)} bytes; a key needs at least {KEY_BYTES}")
    return key
