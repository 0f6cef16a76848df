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
# RFC 7239, section 4: for= with a token or a quoted string, among other parameters
_FOR: Final = re.compile(r"""(?:^|;)\s*for=("(?:[^"\\]|\\.)*"|[^;,"\s]+)\s*(?=;|$)""", re.IGNORECASE)


class AddressResolver:
    """Resolves client addresses under one trust policy; remembers the last headers it saw.

    ``trusted`` are CIDRs; a wrong one raises ``ValueError`` here, at start-up.
    """

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._trusted: tuple[Network, ...] = tuple(ip_network(network) for network in trusted)
        self._cache: dict[tuple[str | None, bytes | None, bytes | None], tuple[str, Verdict, str]] = {}

    def source(
        self, peer: str | None, port: int | None, *, forwarded_for: bytes | None, forwarded: bytes | None
    ) -> tuple[str, Verdict, str]:
        """Return (ip, verdict, peer) of a request.

        ``forwarded_for`` and ``forwarded`` are the raw header values, several joined by commas. With both present
        only ``Forwarded`` counts, as the standardised one. A peer with port 0 was put there by a server that
        rewrote the address from a header before we saw it: its verdict is ``unknown``.
        """
        if not self._trusted:
            if not peer:
                return _NOBODY
            return peer, "unknown" if port == 0 and (forwarded_for or forwarded) else "peer", peer
        key = (peer, forwarded_for, forwarded)
        known = self._cache.get(key)
        if known is None:
            known = self._resolve(peer, forwarded_for, forwarded)
            if len(forwarded_for or b"") + len(forwarded or b"") <= _MAX_CACHED_HEADER:
                self._remember(key, known)
        return known

    def _resolve(
        self, peer: str | None, forwarded_for: bytes | None, forwarded: bytes | None
    ) -> tuple[str, Verdict, str]:
        peer_address = parse_address(peer) if peer else None
        shown = peer or UNKNOWN
        if peer_address is None:
            return shown, "unknown", shown
        if not self._is_trusted(peer_address) or not (forwarded_for or forwarded):
            return str(peer_address), "peer", shown
        hops = _forwarded_hops(forwarded) if forwarded else _split(forwarded_for or b"")
        return *self._walk(hops, peer_address), shown

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
        address = ip_address(text)
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
    return [part.strip() or None for part in header.decode("latin-1").split(",")]


def _forwarded_hops(header: bytes) -> list[str | None]:
    """The ``for`` of each element, None for one without or with an obfuscated identifier (RFC 7239, section 6.3)."""
    hops: list[str | None] = []
    for element in _elements(header.decode("latin-1")):
        match = _FOR.search(element)
        hops.append(re.sub(r"\\(.)", r"\1", match[1].strip('"')) if match else None)
    return hops


def _elements(header: str) -> list[str]:
    """Split at commas outside quoted strings."""
    return [element.strip() for element in re.findall(r'((?:[^,"]|"(?:[^"\\]|\\.)*"|")+)', header)]
