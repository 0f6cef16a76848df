"""The matrix service x entry point: what each service declares, and what was recorded of it. Pure.

The rules:

* an inventory counts when all of its parts are there, in whatever order; a part is of the process that said it
* the newest inventory of a component wins, by its own time, which is no later than that of its reception: what is
  delivered late, and what comes twice, changes nothing
* records count for the service, whichever component of it they are of
* everything is bounded, and entry points and records that find no room are counted: what is exempt has room before
  others, and records of what is declared before those of what is not; an inventory that stays a half is forgotten
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from audit_middleware.collector.monitor.clock import Now, spell
from audit_middleware.collector.monitor.halves import MAX_OF_SERVICE, MAX_ROUTE, MAX_WORD, Half, Halves, Said, fitting
from audit_middleware.collector.monitor.heard import MAX_SERVICES
from audit_middleware.collector.monitor.sightings import Sighting
from audit_middleware.inventory_record import ANY, DeclaredPoint, Inventory, Reached
from audit_middleware.sealing.seal import Frame

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
MAX_DECLARED: Final = 50_000
MAX_SEEN: Final = 50_000
"""In all services together."""

MAX_COMPONENTS: Final = 64
MAX_METHODS: Final = 32
"""Of one route; a client may invent methods, and those beyond count as `ANY`."""

MAX_DEFECTS: Final = 16
MAX_SAID: Final = 16
"""Processes of a component that are remembered, and settings: the newest."""

FORGET_SECONDS: Final = 30 * 86_400.0
"""After that long without a record what is not declared is forgotten, and so is what nobody declares any more."""

FORGET_EVERY_SECONDS: Final = 3600.0


class Component(msgspec.Struct):
    """What one component of a service declares now.

    ``changed`` is when something else was declared last, and ``moments`` when this was since; ``streams`` and
    ``settings`` (policy and rules) are when each was declared last.
    """

    component: str
    said: Said
    points: list[DeclaredPoint]
    beyond: int = 0
    changed: str | None = None
    moments: list[str] = []
    streams: dict[str, str] = {}
    settings: dict[str, str] = {}

    @property
    def since(self) -> str:
        """Since when this is what is declared; empty where nothing else ever was."""
        return "" if self.changed is None else min(self.moments, default=self.said.when)


class Seen(msgspec.Struct, array_like=True):
    """Records of one entry point of a service; ``defects`` is when each was there last."""

    kind: str
    method: str
    route: str
    records: int
    first: str
    last: str
    defects: dict[str, str] = {}


class Service(msgspec.Struct):
    """One service: its components by name, what was seen, and how many records and entry points had no room."""

    service: str
    components: dict[str, Component] = {}
    seen: list[Seen] = []
    beyond: int = 0


class Matrixed(msgspec.Struct):
    """What has to be remembered of a `Matrix`; ``uncounted`` are lines of a ledger that were too many to be read."""

    since: str = ""
    services: list[Service] = []
    halves: list[Half] = []
    beyond: int = 0
    uncounted: int = 0


class Accepted(NamedTuple):
    """An inventory counts from now on; ``newly_exempt`` is what was known before, and is exempt since."""

    service: str
    before: Component | None
    after: Component
    newly_exempt: list[DeclaredPoint]


class _Row:
    """One service at work: what was seen by key, methods by route, and what may make room for what is declared."""

    def __init__(self, service: Service) -> None:
        self.service = service.service
        self.components = service.components
        self.seen = {Reached(each.kind, each.method, each.route): each for each in service.seen}
        self.methods = Counter((each.kind, each.route) for each in service.seen)
        self.beyond = service.beyond
        self.declared: frozenset[tuple[str, str]] = frozenset()
        self.spare: list[Reached] | None = None
        self.note_declared()

    def remember(self) -> Service:
        return Service(self.service, self.components, list(self.seen.values()), self.beyond)

    def points(self) -> Iterator[DeclaredPoint]:
        return (point for component in self.components.values() for point in component.points)

    def note_declared(self) -> None:
        self.declared = frozenset((point.kind, point.route) for point in self.points())
        self.spare = None

    def has_recorded(self, point: DeclaredPoint) -> bool:
        """Say whether there are records of an entry point."""
        if point.method != ANY:
            return (point.kind, point.method, point.route) in self.seen
        return self.methods[point.kind, point.route] > 0

    def is_spared(self, key: Reached) -> bool:
        """Make room for records of what is declared: what is not, and was not seen for longest, goes."""
        if (key.kind, key.route) not in self.declared:
            return False
        if self.spare is None:
            spare = [each for each in self.seen if (each.kind, each.route) not in self.declared]
            self.spare = sorted(spare, key=lambda each: self.seen[each].last, reverse=True)
        if not self.spare:
            return False
        self.beyond += self.forget(self.spare.pop())
        return True

    def forget(self, key: Reached) -> int:
        """Forget an entry point; return how many records there were."""
        self.methods[key.kind, key.route] -= 1
        return self.seen.pop(key).records


class Matrix:
    """Every service that declared something, or was seen. One owner."""

    def __init__(self, now: Now, memory: Matrixed | None = None) -> None:
        memory = memory or Matrixed()
        self.since = memory.since or now.text
        """Since when records are counted."""

        self.beyond = memory.beyond
        self.uncounted = memory.uncounted
        self._rows = {service.service: _Row(service) for service in memory.services}
        self._halves = Halves(memory.halves)
        self._forgot_at = now.mono
        self._seen = sum(len(row.seen) for row in self._rows.values())

    def remember(self) -> Matrixed:
        """Return what makes this again, in another process life."""
        return Matrixed(self.since, list(self.services()), self._halves.remember(), self.beyond, self.uncounted)

    def services(self) -> Iterator[Service]:
        """Yield every service."""
        return (row.remember() for row in self._rows.values())

    def hear(self, frame: Frame, part: Inventory, now: Now) -> Accepted | None:
        """Take one part of an inventory; return what changes by it, None while it changes nothing."""
        whole = self._halves.add(frame, part, now.text, now.wall)
        row = self._row(part.service) if whole is not None else None
        return self._accept(row, whole) if row is not None and whole is not None else None

    def see(self, sighting: Sighting, now: Now) -> None:
        """Count records of an entry point."""
        key, row = sighting.reached, self._row(sighting.service)
        if row is None:
            self.beyond += sighting.records
            return
        known = row.seen.get(key) or self._new(row, key, sighting, now)
        if known is None:
            row.beyond += sighting.records
            return
        known.records += sighting.records
        known.first, known.last = min(known.first, sighting.first), max(known.last, min(sighting.last, now.text))
        if sighting.defects:
            known.defects = newest(known.defects, sighting.defects, MAX_DEFECTS, now.text)

    def forget(self, now: Now, is_alive: Callable[[str], bool]) -> None:
        """Let go of what was over long ago; of the components of a service one stays, whatever became of it."""
        if now.mono - self._forgot_at < FORGET_EVERY_SECONDS:
            return
        self._forgot_at = now.mono
        self._halves.forget(now.wall)
        before = spell(now.wall - FORGET_SECONDS)
        for row in self._rows.values():
            latest = max((each.said.when for each in row.components.values()), default="")
            for name, each in list(row.components.items()):
                if each.said.when < min(before, latest) and not any(map(is_alive, each.streams)):
                    del row.components[name]
                    row.note_declared()
            old = [key for key, each in row.seen.items() if each.last < before]
            for key in old:
                if (key.kind, key.route) not in row.declared:
                    row.forget(key)
                    self._seen -= 1

    def _row(self, service: str) -> _Row | None:
        row = self._rows.get(service)
        if row is None and len(self._rows) < MAX_SERVICES:
            row = self._rows[service] = _Row(Service(service))
        return row

    def _new(self, row: _Row, key: Reached, sighting: Sighting, now: Now) -> Seen | None:
        if row.methods[key.kind, key.route] >= MAX_METHODS:
            key = key._replace(method=ANY)
            if (known := row.seen.get(key)) is not None:
                return known
        if len(key.route) > MAX_ROUTE or len(key.method) > MAX_WORD:
            return None
        is_full = len(row.seen) >= MAX_OF_SERVICE or self._seen >= MAX_SEEN
        if is_full and not row.is_spared(key):
            return None
        self._seen += not is_full
        row.methods[key.kind, key.route] += 1
        row.spare = None if not is_full else row.spare
        moment = min(sighting.first, now.text)
        seen = row.seen[key] = Seen(*key, 0, moment, moment)
        return seen

    def _accept(self, row: _Row, whole: Half) -> Accepted | None:
        before, said = row.components.get(whole.component), whole.said
        if before is None and len(row.components) >= MAX_COMPONENTS:
            row.beyond += len(whole.points)
            return None
        if before is not None and (said.rank <= before.said.rank or said.digest == before.said.digest):
            return _say_again(row, before, said)
        room = MAX_DECLARED - sum(len(list(each.points())) for each in self._rows.values())
        points, beyond = fitting(whole.points, min(MAX_OF_SERVICE, room + (len(before.points) if before else 0)))
        after = _declaring(Component(whole.component, said, points, whole.beyond + beyond), before, said)
        newly_exempt = _newly_exempt(row, before, after, said.when[:10])
        row.components[whole.component] = after
        row.note_declared()
        return Accepted(row.service, before, after, newly_exempt)


def _say_again(row: _Row, before: Component, said: Said) -> Accepted | None:
    """Take an inventory that is known, or older than the one that is: only its settings may be news."""
    after = row.components[before.component] = _declaring(msgspec.structs.replace(before), before, said)
    if said.rank <= before.said.rank:
        return None
    after.said = said
    return Accepted(row.service, before, after, [])


def _declaring(component: Component, before: Component | None, said: Said) -> Component:
    """Return a component that knows who declared it, and with which settings."""
    moments = [said.when, *component.moments] if said.digest == component.said.digest else component.moments
    if before is not None and component.said.digest != before.said.digest:
        component.changed = before.said.when
    elif said.digest != component.said.digest:
        component.changed = max(component.changed or "", said.when)
    component.moments = sorted(each for each in moments if each > (component.changed or ""))[:MAX_SAID]
    streams, settings = (before.streams, before.settings) if before is not None else ({}, {})
    component.streams = newest(streams, {said.stream: said.when}, MAX_SAID)
    component.settings = newest(settings, {said.settings: said.when}, MAX_SAID)
    return component


def _newly_exempt(row: _Row, before: Component | None, after: Component, today: str) -> list[DeclaredPoint]:
    """Return what is exempt now and was not; of a component that was not known, what the service is known to record."""
    exempt = [point for point in after.points if holds(point, today)]
    if before is not None:
        already = {entry_point(point) for point in before.points if point.exempt is not None}
        return [point for point in exempt if entry_point(point) not in already]
    already = {entry_point(point) for point in row.points() if point.exempt is not None}
    known = {entry_point(point) for point in row.points()} - already
    return [
        point
        for point in exempt
        if (key := entry_point(point)) not in already and (key in known or row.has_recorded(point))
    ]


def entry_point(point: DeclaredPoint) -> Reached:
    """Return what identifies an entry point within its service."""
    return Reached(point.kind, point.method, point.route)


def holds(point: DeclaredPoint, today: str) -> bool:
    """Say whether an entry point is exempt today (YYYY-MM-DD); what is no date is long past."""
    if point.exempt is None:
        return False
    return point.until is None or (_DAY.fullmatch(point.until) is not None and today <= point.until)


def newest(known: dict[str, str], more: Mapping[str, str], room: int, latest: str = "9") -> dict[str, str]:
    """Return both together, the later moment of each and none beyond ``latest``, and of too many the newest."""
    both = dict(known)
    for name, moment in more.items():
        both[name] = max(both.get(name, ""), min(moment, latest))
    if len(both) <= room:
        return both
    return dict(sorted(both.items(), key=lambda each: (each[1], each[0]))[-room:])
