"""Base64url without padding, and time stamps, as the sealed line spells them (wire format, section 1)."""

from __future__ import annotations

import time
from binascii import a2b_base64, b2a_base64
from typing import Final

TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")


def b64url(data: bytes) -> bytes:
    """Encode ``data`` as base64url without padding."""
    return b2a_base64(data, newline=False).translate(TO_URL).rstrip(b"=")


def b64url_hash(digest: bytes) -> bytes:
    """Encode 32 bytes as 43 characters; what `b64url` does, for the request path."""
    return b2a_base64(digest, newline=False)[:43].translate(TO_URL)


def unb64url(text: bytes) -> bytes:
    """Decode base64url without padding; raise ``ValueError`` unless ``text`` is the canonical spelling."""
    data = a2b_base64(text.translate(_FROM_URL) + b"=" * (-len(text) % 4), strict_mode=True)
    if b64url(data) != text:
        raise ValueError(f"{text!r} is not canonical base64url")
    return data


class _Second:
    """The text of the second seen last: time moves on, a request rarely does."""

    __slots__ = ("number", "text")

    def __init__(self, number: int) -> None:
        self.number = number
        self.text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(number)).encode()


_second = _Second(0)


def timestamp(ns: int) -> bytes:
    """Spell nanoseconds since the epoch as UTC with microseconds: ``2026-11-23T07:00:00.000001Z``."""
    global _second  # noqa: PLW0603 - one reference swap; a lost race costs one strftime
    number, fraction = divmod(ns // 1000, 1_000_000)
    second = _second
    if second.number != number:
        _second = second = _Second(number)
    return b"%b%06dZ" % (second.text, fraction)
