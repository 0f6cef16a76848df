"""Base64 and decimal numbers, strictly: one spelling for every value."""

from __future__ import annotations

import base64
import binascii


def to_base64(data: bytes) -> str:
    """Return the standard encoding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes | None:
    """Return the decoded bytes; None unless ``text`` is their one standard encoding."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if to_base64(data) == text else None


def from_decimal(text: str, *, limit: int) -> int | None:
    """Return the number; None unless ``text`` is ASCII digits without leading zero, up to ``limit``."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(limit)):
        return None
    number = int(text)
    return number if str(number) == text and number <= limit else None
