"""The keys of every store."""

from __future__ import annotations

import re
from typing import Final

from audit_middleware.errors import StorageError

PARTIAL: Final = ".p"
"""Ends the name of a folder of partial tiles (C2SP tlog-tiles)."""
_KEY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def require_key(key: str) -> str:
    """Return the key; raise `StorageError` for one that could leave the folder or prefix of its store."""
    if _KEY.fullmatch(key) is None:
        raise StorageError(f"{key!r} is not a key: segments of A-Z a-z 0-9 . _ - without a leading dot")
    return key


def is_partial(key: str) -> bool:
    """Say whether the key is that of a partial tile or bundle."""
    return f"{PARTIAL}/" in key


def is_superseded_soon(key: str) -> bool:
    """Say whether it is a partial tile that every commit replaces; of higher levels one may stay for months."""
    return is_partial(key) and key.startswith(("tile/entries/", "tile/0/"))
