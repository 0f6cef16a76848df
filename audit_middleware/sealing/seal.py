"""Seal a line, and check the seal of one (wire format, section 1).

The bytes that were sealed are the bytes that travel, that are stored and that are verified: nothing here,
or anywhere, serialises a line a second time.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from hashlib import sha256
from hmac import compare_digest, digest
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from audit_middleware.errors import BadSeal, MalformedLine
from audit_middleware.record import MAX_LINE
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.text import TO_URL, b64url, b64url_hash, unb64url

STREAM_BYTES: Final = 16
FIRST_PREV: Final = b"A" * 43
BLOCK_BITS: Final = 6  # a MAC key serves 64 records
TAIL_BYTES: Final = 53  # ,"mac":" + 43 + "}
MAX_REC: Final = MAX_LINE - 288  # what the longest header and the tail leave for ``rec``
MAX_STEPS: Final = 1 << 16  # ratchet steps one line may cost: 4 million records ahead, 0.1 s

_RATCHET: Final = b"audit-middleware/ratchet/v1\x01"
_LINE: Final = b"audit-middleware/line/v1\0"
_LEAF: Final = b"\0"
_TAIL: Final = re.compile(rb',"mac":"([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])"}')
_HEAD: Final = re.compile(
    rb'{"v":1,"kid":"([A-Za-z0-9._-]{1,32})","stream":"([A-Za-z0-9_-]{21}[AQgw])"'
    rb',"seq":(0|[1-9][0-9]{0,15}),"prev":"([A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])"'
    rb',"type":"([a-z]{2,16})","ts":"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)","rec":(?={)'
)
_CONTROLS: Final = bytes(range(0x20))


class Ratchet:
    """The keys of one stream at one block; moves forward only, so a stolen process cannot go back.

    One HMAC-SHA512 of ``K[b]`` gives ``K[b+1]`` and the MAC key ``M[b]`` (wire format, section 1).
    """

    __slots__ = ("_key", "block", "mac")

    def __init__(self, key: bytes, block: int = 0) -> None:
        output = digest(key, _RATCHET, "sha512")
        self._key = output[:32]
        self.block = block
        self.mac = HMAC(output[32:], SHA256())
        """Keyed with ``M[block]`` and past the domain prefix: copy it, never update it."""
        self.mac.update(_LINE)

    def at(self, block: int) -> Ratchet:
        """Return the ratchet at a later ``block``; raise ``ValueError`` for one that has passed."""
        if block == self.block:
            return self
        if block < self.block:
            raise ValueError(f"block {block} has passed: the ratchet is at {self.block}")
        key = self._key
        for _ in range(block - self.block - 1):
            key = digest(key, _RATCHET, "sha512")[:32]
        return Ratchet(key, block)


class Sealer:
    """Seals the lines of one stream in order; the caller holds the lock that makes it one order.

    `seal` does not move the chain: only `commit`, once the line is written, or `skip`, once it was given up. It begins
    the stream, or goes on with one that is known to have come to ``seq``, behind the line whose leaf is ``prev``.
    """

    __slots__ = ("_prefix", "_ratchet", "prev", "seq", "stream")

    def __init__(self, keyring: Keyring, stream: bytes, *, seq: int = 0, prev: bytes = FIRST_PREV) -> None:
        kid = keyring.newest
        self.stream = b64url(stream).decode()
        self.seq = seq
        self.prev = prev
        self._ratchet = Ratchet(keyring.stream_key(kid, stream))
        self._prefix = b'{"v":1,"kid":"%b","stream":"%b","seq":' % (kid.encode(), self.stream.encode())

    def seal(self, type_: bytes, ts: bytes, rec: bytes) -> bytes:
        """Return the sealed line of the next ``seq``, without LF; ``rec`` is encoded JSON of at most MAX_REC bytes."""
        body = b'%b%d,"prev":"%b","type":"%b","ts":"%b","rec":%b' % (self._prefix, self.seq, self.prev, type_, ts, rec)
        ratchet = self._ratchet
        if ratchet.block != self.seq >> BLOCK_BITS:
            self._ratchet = ratchet = ratchet.at(self.seq >> BLOCK_BITS)
        mac = ratchet.mac.copy()
        mac.update(body)
        text = b2a_base64(mac.finalize(), newline=False)[:43].translate(TO_URL)  # b64url_hash, without the call
        return b'%b,"mac":"%b"}' % (body, text)

    def commit(self, line: bytes) -> None:
        """Move the chain behind ``line``, which is written."""
        self.prev = b2a_base64(sha256(_LEAF + line).digest(), newline=False)[:43].translate(TO_URL)
        self.seq += 1

    def skip(self) -> None:
        """Give up the next ``seq``: it stays a hole, and ``prev`` goes on linking the written lines."""
        self.seq += 1


class Frame(NamedTuple):
    """What the grammar of a line says; nothing in it is trusted before the seal was checked."""

    kid: str
    stream: str
    seq: int
    prev: bytes
    type: str
    ts: str
    rec: bytes
    mac: bytes


def leaf_hash(line: bytes) -> bytes:
    """Return the RFC 6962 leaf hash of a line (without LF), its name in chain and ledger."""
    return sha256(_LEAF + line).digest()


def parse_frame(line: bytes) -> Frame:
    """Check length, UTF-8, control bytes, header grammar and tail of ``line``; raise `MalformedLine`.

    ``rec`` is not parsed: that comes after the seal (wire format, section 1, order of verification).
    """
    if len(line) > MAX_LINE:
        raise MalformedLine(f"a line of {len(line)} bytes; the limit is {MAX_LINE}", line=line, rule="length")
    _check_text(line)
    head = _HEAD.match(line)
    if head is None:
        raise MalformedLine("not the header of a sealed line", line=line, rule="header")
    tail = _TAIL.fullmatch(line, len(line) - TAIL_BYTES)
    if tail is None or head.end() > len(line) - TAIL_BYTES:
        raise MalformedLine("the line does not end with its mac", line=line, rule="tail")
    kid, stream, seq, prev, type_, ts = head.groups()
    rec = line[head.end() : -TAIL_BYTES]
    return Frame(kid.decode(), stream.decode(), int(seq), prev, type_.decode(), ts.decode(), rec, tail[1])


def _check_text(line: bytes) -> None:
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise MalformedLine(f"not UTF-8 at byte {error.start}", line=line, rule="utf-8") from error
    if len(line.translate(None, _CONTROLS)) != len(line):  # five times as fast as a search
        at = next(at for at, byte in enumerate(line) if byte in _CONTROLS)
        raise MalformedLine(f"control byte at {at}", line=line, rule="control")


class SealVerifier:
    """Checks seals for any number of streams; remembers the ratchet of each, so that order makes it fast.

    Not thread-safe: one owner. Memory is bounded by ``max_streams``. Of each stream two ratchets are remembered, the
    newest and that of the last late line, so that filling a gap does not begin at block 0 for every line.
    """

    def __init__(self, keyring: Keyring, *, max_streams: int = 4096) -> None:
        self._keyring = keyring
        self._max_streams = max_streams
        self._ratchets: dict[tuple[str, str], Ratchet] = {}
        self._late: dict[tuple[str, str], Ratchet] = {}

    def verify_seal(self, line: bytes, frame: Frame, *, reached: int = 0) -> None:
        """Compare the MAC in constant time; ``reached`` is a ``seq`` that the stream is known to have come to.

        Raises `UnknownKey` (unverifiable), `BadSeal` (altered, or sealed with another key), or `MalformedLine`
        with rule ``jump`` for a ``seq`` further than `MAX_STEPS` ratchet steps ahead of everything known.
        """
        ratchet = self._ratchet(line, frame, reached >> BLOCK_BITS)
        mac = ratchet.mac.copy()
        mac.update(line[:-TAIL_BYTES])
        if not compare_digest(b64url_hash(mac.finalize()), frame.mac):
            raise BadSeal(f"seq {frame.seq} of {frame.stream}: the mac does not match its bytes", line=line)
        self._remember((frame.kid, frame.stream), ratchet)

    def _ratchet(self, line: bytes, frame: Frame, reached: int) -> Ratchet:
        block, name = frame.seq >> BLOCK_BITS, (frame.kid, frame.stream)
        known = self._ratchets.get(name)
        if known is None or block < known.block:
            known = self._late.get(name)
        if known is None or block < known.block:
            known = Ratchet(self._keyring.stream_key(frame.kid, unb64url(frame.stream.encode())))
        if block - max(known.block, reached) > MAX_STEPS:
            raise MalformedLine(f"seq {frame.seq} is too far ahead to be checked", line=line, rule="jump")
        return known.at(block)

    def _remember(self, name: tuple[str, str], ratchet: Ratchet) -> None:
        newest = self._ratchets.get(name)
        known = self._ratchets if newest is None or ratchet.block >= newest.block else self._late
        if name not in known and len(known) >= self._max_streams:
            del known[next(iter(known))]
        known[name] = ratchet
