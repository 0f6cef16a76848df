"""The sealed context: who asked for what another process does, so that it can be believed there.

It travels beside a task or a call: ``v1.<kid>.<base64url of JSON>.<base64url of HMAC-SHA256>`` (wire format, section
7). Whoever reads it learns who acts; whoever changes it, or puts it beside something else than its ``purpose``, is
found.
"""

from __future__ import annotations

import time
from hmac import compare_digest, digest
from typing import Final

import msgspec

from audit_middleware.errors import BadContext, UnknownKey
from audit_middleware.record import UNKNOWN, Principal
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.text import b64url, unb64url

VERSION: Final = "v1"
MAX_CONTEXT: Final = 4096
"""Characters; names of principals and purposes are bounded in records too."""

CLOCK_SKEW: Final = 60
"""Seconds that the clock of whoever sealed it may be ahead."""

REASONS: Final = ("malformed", "unknown_key", "forged", "expired", "misplaced")


class Context(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who brought something about; ``issued`` is seconds since the epoch, ``ip`` where the request came from."""

    purpose: str
    issued: int
    service: str
    request_id: str
    principal: Principal
    ip: str = UNKNOWN
    trace_id: str | None = None
    span_id: str | None = None


_decoder: Final = msgspec.json.Decoder(Context)


def seal_context(context: Context, keyring: Keyring) -> str:
    """Return the text of a context, sealed with the newest key."""
    kid = keyring.newest
    body = f"{VERSION}.{kid}.{b64url(msgspec.json.encode(context)).decode()}"
    return f"{body}.{b64url(_mac(keyring, kid, body)).decode()}"


def open_context(text: str, keyring: Keyring, *, purpose: str, max_age: float, now: float | None = None) -> Context:
    """Return what a context says of work with this ``purpose``.

    Raises `BadContext`: malformed, of an unknown key, forged, older than ``max_age`` seconds or from the future, or
    sealed for something else.
    """
    body, _, mac = text.rpartition(".")
    version, _, rest = body.partition(".")
    kid, _, encoded = rest.rpartition(".")
    if len(text) > MAX_CONTEXT or version != VERSION or not encoded or not text.isascii():
        raise BadContext("malformed", "this is no sealed context")
    try:
        expected = b64url(_mac(keyring, kid, body)).decode()
    except UnknownKey as error:
        raise BadContext("unknown_key", str(error)) from error
    if not compare_digest(expected, mac):
        raise BadContext("forged", f"the seal of this context is not that of key {kid!r}")
    try:
        context = _decoder.decode(unb64url(encoded.encode()))
    except (ValueError, msgspec.DecodeError) as error:
        raise BadContext("malformed", f"this context cannot be read: {error}") from error
    age = (time.time() if now is None else now) - context.issued
    if not -CLOCK_SKEW <= age <= max_age:
        raise BadContext("expired", f"this context is {age:.0f} s old; at most {max_age:.0f} s are believed")
    if context.purpose != purpose:
        raise BadContext("misplaced", f"this context is for {context.purpose!r} and not for {purpose!r}")
    return context


def _mac(keyring: Keyring, kid: str, body: str) -> bytes:
    return digest(keyring.context_key(kid), body.encode(), "sha256")
