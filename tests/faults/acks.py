"""What a client knows of a record: which stream, which number, which seal."""

from __future__ import annotations

from typing import NamedTuple

from audit_middleware.journal.segment import peek

MAC = slice(-45, -2)  # of a sealed line, by the wire format


class Ack(NamedTuple):
    """A record that was promised by a complete response."""

    stream: str
    seq: int
    mac: str


def ack_of(line: bytes) -> Ack:
    """What names a sealed line: its place and its seal."""
    named = peek(line)
    if named is None:
        raise ValueError(f"no sealed line: {line[:120]!r}")
    return Ack(*named, line[MAC].decode())


def ack_line(line: bytes) -> bytes:
    """The acknowledgement of a sealed line as it travels behind a response."""
    return b"ACK %b %d %b" % (ack_of(line).stream.encode(), ack_of(line).seq, line[MAC])


def read_ack(body: bytes) -> Ack | None:
    """Read the acknowledgement at the end of a response body; None when there is none."""
    word, *rest = body.rpartition(b"\n")[2].split(b" ")
    if word != b"ACK" or len(rest) != 3:
        return None
    return Ack(rest[0].decode(), int(rest[1]), rest[2].decode())
