"""The other collectors that share the index: who is there, who ended, who is away. Pure; every moment is given.

What a collector says of itself is only compared with what it said before: no two clocks are.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Final

import msgspec

from audit_middleware.collector.index_store import Presence
from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.findings import Observation
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.record import COLLECTOR_SERVICE

AWAY_SECONDS: Final = 5.0
"""A collector says once a second that it is there; after so many without a word its streams look for another one."""


_ABOUT: Final = "collector "


def is_of_peer(about: str) -> bool:
    """Say whether a finding with this subject is about a collector as a whole."""
    return about.startswith(_ABOUT)


class Peer(msgspec.Struct):
    """One of them; ``seen`` is the moment of the monotonic clock at which it said something new."""

    presence: Presence
    seen: float
    seen_at: str
    is_away: bool = False
    has_moved: bool = False
    """Whether it said anything since this monitor listens."""


class Peers:
    """All of them, by name. One owner."""

    def __init__(self, settings: MonitorSettings) -> None:
        self.since = -inf
        """Since when this monitor hears of them without a break."""

        self._settings = settings
        self._peers: dict[str, Peer] = {}

    def meet(self, there: Mapping[str, Presence], now: Now) -> list[str]:
        """Take who was there, and return whose coming or going was noticed just now."""
        noticed = []
        for name, presence in there.items():
            peer = self._peers.setdefault(name, Peer(presence, now.mono, now.text))
            if presence != peer.presence:
                peer.presence, peer.seen, peer.seen_at, peer.has_moved = presence, now.mono, now.text, True
            is_away = presence.is_closed or now.mono - peer.seen > AWAY_SECONDS
            if is_away != peer.is_away:
                peer.is_away = is_away
                noticed.append(name)
        return noticed

    @property
    def are_away(self) -> bool:
        """Whether there were others, and none of them is there now."""
        return bool(self._peers) and all(peer.is_away for peer in self._peers.values())

    def restart(self, now: Now) -> None:
        """Nobody listened until now: whoever was not there meanwhile is not to blame."""
        self.since = now.mono
        for peer in self._peers.values():
            peer.seen, peer.has_moved = now.mono, False

    def absences(self, now: Now) -> list[Observation]:
        """Return the collectors that have not said goodbye, and are away for as long as a service may be silent.

        One that was away before this monitor listened is so again as soon as anybody may be called silent.
        """
        return [
            Observation(
                "silence",
                f"{_ABOUT}{name}",
                {"scope": "collector", "collector": name, "last_heard": peer.seen_at},
                COLLECTOR_SERVICE,
            )
            for name, peer in self._peers.items()
            if not peer.presence.is_closed and now.mono - peer.seen >= self._limit(peer)
        ]

    def _limit(self, peer: Peer) -> float:
        limit = self._settings.silence_of(COLLECTOR_SERVICE)
        return limit if peer.has_moved else min(limit, self._settings.settle_seconds)
