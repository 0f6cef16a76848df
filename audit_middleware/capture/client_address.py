"""Where a request came from: the peer, or the client behind proxies that are trusted by configuration.

``X-Forwarded-For`` and RFC 7239 ``Forwarded`` are walked right to left: each hop is believed only if the one that
reported it is trusted, and the first one that is not trusted is the client. Nothing is trusted by default, and
nothing a client sends can raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from audit_middleware.record import UNKNOWN, Source, Verdict

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_HOPS: Final = 32
_NOBODY: Final[tuple[str, Verdict, str]] = (UNKNOWN, "unknown", UNKNOWN)
_CACHE_ENTRIES: Final = 1024
_MAX_CACHED_HEADER: Final = 512
_MAX_HEADER: Final = 4096  # bytes; more is no proxy's chain
_MAX_PEER: Final = 256
_MARKS: Final = re.compile(r'\\.|[",]')
# RFC 7239, section 4: for= with a token or a quoted string, among other parameters
_FOR: Final = re.compile(r"""(?:^|;)\s*for=("(?:[^"\\]|\\.)*"|[^;,"\s]+)\s*(?=;|$)""", re.IGNORECASE)


class AddressResolver:
    """Resolves client addresses under one trust policy; remembers the last headers it saw.

    ``trusted`` are CIDRs; a wrong one raises ``ValueError`` here, at start-up. ``header`` is the one header that the
    proxies write, or ``auto``.
    """

    def __init__(self, trusted: Iterable[str] = (), header: str = "auto") -> None:
        self._header = header.lower()
        self._trusted: tuple[Network, ...] = tuple(ip_network(network) for network in trusted)
        self._cache: dict[tuple[str | None, bytes | None, bytes | None], tuple[str, Verdict, str]] = {}

    def source(
        self, peer: str | None, port: int | None, *, forwarded_for: bytes | None, forwarded: bytes | None
    ) -> tuple[str, Verdict, str]:
        """Return (ip, verdict, peer) of a request.

        ``forwarded_for`` and ``forwarded`` are the raw header values, several joined by commas. With ``auto`` and both
        present they have to agree: proxies pass on the one they do not write, and that one is the client's. A peer
        that one of the headers names, or that has port 0, may have been put there by a server that rewrote the
        address before we saw it, as uvicorn does by default: its verdict is ``unknown``.
        """
        if not peer:
            return _NOBODY
        if port == 0 and (forwarded_for or forwarded):
            return peer[:_MAX_PEER], "unknown", peer[:_MAX_PEER]
        if not self._trusted and not forwarded_for and not forwarded:
            return peer, "peer", peer
        key = (peer, forwarded_for, forwarded)
        known = self._cache.get(key)
        if known is None:
            known = self._resolve(peer, forwarded_for, forwarded)
            if len(forwarded_for or b"") + len(forwarded or b"") <= _MAX_CACHED_HEADER:
                self._remember(key, known)
        return known

    def _resolve(self, peer: str, forwarded_for: bytes | None, forwarded: bytes | None) -> tuple[str, Verdict, str]:
        peer_address = parse_address(peer)
        if peer_address is None:
            return peer, "unknown", peer
        if not self._is_trusted(peer_address):
            hops = [*_split(forwarded_for or b""), *_forwarded_hops(forwarded or b"")]
            is_named = peer_address in {parse_address(hop) for hop in hops if hop}
            return str(peer_address), "unknown" if is_named else "peer", peer
        if self._header == "x-forwarded-for":
            forwarded = None
        elif self._header == "forwarded":
            forwarded_for = None
        if not forwarded_for and not forwarded:
            return str(peer_address), "peer", peer
        found = {
            self._walk(read(header), peer_address)
            for header, read in ((forwarded, _forwarded_hops), (forwarded_for, _split))
            if header
        }
        return (*found.pop(), peer) if len(found) == 1 else (str(peer_address), "unknown", peer)

    def _walk(self, hops: Sequence[str | None], peer: Address) -> tuple[str, Verdict]:
        """Right to left; a hop that cannot be read ends what can be known: the last one believed stands."""
        believed = peer
        if not hops:
            return str(peer), "unknown"
        for hop in reversed(hops[-MAX_HOPS:]):
            address = parse_address(hop) if hop else None
            if address is None:
                return str(believed), "unknown"
            believed = address
            if not self._is_trusted(address):
                break
        return str(believed), "forwarded" if believed is not peer else "peer"

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _remember(self, key: tuple[str | None, bytes | None, bytes | None], value: tuple[str, Verdict, str]) -> None:
        if len(self._cache) >= _CACHE_ENTRIES:
            self._cache.clear()
        self._cache[key] = value


def parse_address(text: str) -> Address | None:
    """Read an address with or without port and brackets; None when it is none. IPv4 in IPv6 becomes IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])  # a zone means something on its own host only (RFC 4007, 6)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address


def source_record(found: tuple[str, Verdict, str], port: int | None, user_agent: str | None) -> Source:
    """Return the ``source`` member of a record."""
    ip, verdict, peer = found
    return Source(ip, verdict, peer, port or None, user_agent)


def _split(header: bytes) -> list[str | None]:
    """The last `MAX_HOPS` elements: those that proxies of ours can have written."""
    return [part.strip() or None for part in header[-_MAX_HEADER:].decode("latin-1").split(",")[-MAX_HOPS:]]


def _forwarded_hops(header: bytes) -> list[str | None]:
    """The ``for`` of each element, None for one without or with an obfuscated identifier (RFC 7239, section 6.3)."""
    if len(header) > _MAX_HEADER:
        return [None]
    hops: list[str | None] = []
    for element in _elements(header.decode("latin-1"))[-MAX_HOPS:]:
        match = _FOR.search(element)
        hops.append(re.sub(r"\\(.)", r"\1", match[1].strip('"')) if match else None)
    return hops


def _elements(header: str) -> list[str]:
    """Split at commas outside quoted strings, in one pass; behind a quote that is never closed at every comma."""
    elements, start, opened = [], 0, -1
    for mark in _MARKS.finditer(header):
        if mark[0] == '"':
            opened = mark.start() if opened < 0 else -1
        elif mark[0] == "," and opened < 0:
            elements.append(header[start : mark.start()].strip())
            start = mark.end()
    rest = header[start:].split(",") if opened >= 0 else [header[start:]]
    return [*elements, *(element.strip() for element in rest)]
