"""A request body becomes lines: bounded decompression, then NDJSON (wire format, section 5). Pure."""

from __future__ import annotations

import zlib
from typing import Final

from audit_middleware.collector.limits import Limits
from audit_middleware.collector.problems import Problem

ENCODINGS: Final = ("identity", "gzip")
_GZIP: Final = 16 + zlib.MAX_WBITS
_MAX_MEMBERS: Final = 16  # each costs a copy of what follows it


def check_encoding(encoding: str) -> str:
    """Return the content coding in lower case; raise `Problem` 415 for one that is not in `ENCODINGS`."""
    name = encoding.strip().lower() or "identity"
    if name not in ENCODINGS:
        accepted = {"Accept-Encoding": ", ".join(ENCODINGS)}
        raise Problem(
            415, "unsupported-encoding", f"Content-Encoding is one of {', '.join(ENCODINGS)}", headers=accepted
        )
    return name


def decode_body(raw: bytes, encoding: str, limits: Limits) -> list[bytes]:
    """Return the lines of a body, without their LF.

    Raises `Problem`: 400 for a body that is empty or not in its coding, 413 for one beyond ``limits``.
    """
    body = _gunzip(raw, limits.body_bytes) if encoding == "gzip" else raw
    if len(body) > limits.body_bytes:
        raise too_large(limits)
    lines = body.split(b"\n", limits.body_lines + 1)
    if not lines[-1]:
        lines.pop()
    if len(lines) > limits.body_lines:
        raise too_large(limits)
    if not lines:
        raise Problem(400, "empty-batch", "the body is NDJSON of sealed lines; this one has none")
    return lines


def too_large(limits: Limits) -> Problem:
    """Return the 413 that asks to split the batch."""
    detail = f"a batch has at most {limits.body_bytes} bytes and {limits.body_lines} lines: split it"
    return Problem(413, "batch-too-large", detail)


def _gunzip(raw: bytes, limit: int) -> bytes:
    """Decompress all members of a gzip body, but never more than ``limit`` + 1 bytes."""
    body = b""
    for _ in range(_MAX_MEMBERS):
        member = zlib.decompressobj(_GZIP)
        try:
            body += member.decompress(raw, limit + 1 - len(body))
        except zlib.error as error:
            raise Problem(400, "bad-encoding", "the body is not gzip, as Content-Encoding says") from error
        if len(body) > limit:
            return body
        if not member.eof:
            raise Problem(400, "bad-encoding", "the gzip body ends too early")
        raw = member.unused_data
        if not raw:
            return body
    raise Problem(400, "bad-encoding", f"a gzip body has at most {_MAX_MEMBERS} members")
