"""Inventories are put together from their parts, and cut to what there is room for. Pure; every moment is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from audit_middleware.inventory_record import DeclaredPoint, Inventory
from audit_middleware.sealing.seal import Frame

MAX_OF_SERVICE: Final = 5_000
"""Entry points of one component, and rows of what one service was seen to record."""

MAX_PARTS: Final = 256
MAX_HALVES: Final = 64
"""Inventories of one service that wait for parts: as many as it has processes that start at once."""

MAX_WAITING: Final = 50_000
"""Entry points in all that wait; whoever adds the one too many loses what it waits for."""

FORGET_HALF_SECONDS: Final = 3600.0
MAX_ROUTE: Final = 2_048
MAX_WORD: Final = 64
MAX_TEXT: Final = 500
MAX_VERSIONS: Final = 20
MAX_SETTINGS: Final = 20


class Said(msgspec.Struct, frozen=True):
    """What a process declared beside its entry points, and when."""

    when: str
    stream: str
    digest: str
    policy: str
    rules: str | None
    version: str
    versions: dict[str, str]
    values: dict[str, str] = {}
    """What ``policy`` is the digest of; empty where the process did not say."""

    @property
    def rank(self) -> tuple[str, ...]:
        """What is newer is higher; of two of one moment the stream decides, so that their order does not."""
        return self.when, self.stream, self.digest, self.settings

    @property
    def settings(self) -> str:
        """What decides what is recorded: the digest of the settings, and of the rules."""
        return f"{self.policy} {self.rules or '-'}"


class Half(msgspec.Struct):
    """An inventory some parts of which are there, by number; ``heard`` is seconds since the epoch."""

    service: str
    component: str
    parts: int
    said: Said
    heard: float
    got: dict[int, list[DeclaredPoint]]
    beyond: int = 0

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What is the same for all parts of one inventory."""
        return self.service, self.component, self.said.stream, self.said.digest, self.parts

    @property
    def points(self) -> list[DeclaredPoint]:
        """All of it that is there, in the order in which it was declared."""
        return [point for number in sorted(self.got) for point in self.got[number]]


class Halves:
    """Every inventory that is not whole. One owner."""

    def __init__(self, halves: Iterable[Half] = ()) -> None:
        self._halves = {half.key: half for half in halves}

    def remember(self) -> list[Half]:
        """Return what makes this again."""
        return list(self._halves.values())

    def add(self, frame: Frame, part: Inventory, when: str, wall: float) -> Half | None:
        """Take one part that came at ``when``, or before; return the inventory once it is whole."""
        if not 1 <= part.part <= part.parts <= MAX_PARTS:
            return None
        new = Half(part.service, cut(part.component, MAX_TEXT), part.parts, _said(frame, part, when), wall, {})
        half = self._halves.setdefault(new.key, new)
        half.said = max(half.said, new.said, key=lambda said: said.rank)
        points, beyond = fitting(part.entry_points, MAX_OF_SERVICE)
        if part.part not in half.got:
            half.got[part.part] = points
            half.beyond = max(half.beyond, part.beyond or 0) + beyond
        if len(half.got) == half.parts:
            return self._halves.pop(half.key)
        self._make_room(half)
        return None

    def forget(self, wall: float) -> None:
        """Give up what waits for too long."""
        for half in [each for each in self._halves.values() if wall - each.heard > FORGET_HALF_SECONDS]:
            del self._halves[half.key]

    def _make_room(self, new: Half) -> None:
        own = [each for each in self._halves.values() if each.service == new.service]
        waiting = sum(len(points) for each in self._halves.values() for points in each.got.values())
        while own and (len(own) > MAX_HALVES or waiting > MAX_WAITING):
            oldest = own.pop(0)
            waiting -= sum(map(len, oldest.got.values()))
            del self._halves[oldest.key]


def fitting(points: Iterable[DeclaredPoint], room: int) -> tuple[list[DeclaredPoint], int]:
    """Return as many entry points as there is room for, those that are exempt before others, and how many are left."""
    given = list(points)
    fit = [_trimmed(point) for point in given if len(point.route) <= MAX_ROUTE and len(point.method) <= MAX_WORD]
    if len(fit) > room:
        fit.sort(key=lambda point: point.exempt is None)
        del fit[max(0, room) :]
    return fit, len(given) - len(fit)


def cut(text: str, size: int) -> str:
    """Return a text that is no longer than ``size``."""
    return text if len(text) <= size else f"{text[: size - 1]}…"


def _trimmed(point: DeclaredPoint) -> DeclaredPoint:
    if max(len(point.name or ""), len(point.exempt or ""), len(point.until or "")) <= MAX_WORD:
        return point
    return msgspec.structs.replace(
        point,
        name=None if point.name is None else cut(point.name, MAX_TEXT),
        exempt=None if point.exempt is None else cut(point.exempt, MAX_TEXT),
        until=None if point.until is None else cut(point.until, MAX_WORD),
    )


def _said(frame: Frame, part: Inventory, when: str) -> Said:
    return Said(
        min(frame.ts, when),
        frame.stream,
        cut(part.digest, MAX_TEXT),
        cut(part.policy, MAX_TEXT),
        None if part.rules is None else cut(part.rules, MAX_TEXT),
        cut(part.version, MAX_TEXT),
        _texts(part.versions, MAX_VERSIONS, MAX_WORD),
        _texts(part.settings or {}, MAX_SETTINGS, MAX_TEXT),
    )


def _texts(named: Mapping[str, str], room: int, size: int) -> dict[str, str]:
    return {cut(name, MAX_WORD): cut(each, size) for name, each in sorted(named.items())[:room]}
