"""How every entry point stands, as whoever asks is told (wire format, section 5). Pure.

The words are those of the pytest gate (`audit_middleware.capture.coverage`), and ``undeclared``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from audit_middleware.collector.index_rows import microseconds
from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.matrix import Component, Matrix, Seen, Service, holds
from audit_middleware.inventory_record import ANY, DeclaredPoint

State = Literal["undeclared", "expired", "defects", "unseen", "exempt", "audited"]
STATES: Final[tuple[State, ...]] = ("undeclared", "expired", "defects", "unseen", "exempt", "audited")
"""The worst first."""

COVERED: Final = frozenset({"audited", "exempt"})
UNDECLARABLE: Final = frozenset({"function", "background"})
"""Kinds of work that no inventory can name before it runs."""

AUTOMATIC: Final = frozenset({"HEAD", "OPTIONS"})
"""Methods that a framework answers by itself for a route that has others (RFC 9110, sections 9.3.2 and 9.3.7)."""

DEFECT_SECONDS: Final = 86_400.0
"""An entry point that was recorded without defects for so long after the last one is audited."""


class Covered(msgspec.Struct, frozen=True, gc=False):
    """One entry point of a component; of what nobody declares there is none. Moments are those of its records."""

    component: str | None
    kind: str
    method: str
    route: str
    name: str | None
    state: State
    records: int
    first_seen: str | None
    last_seen: str | None
    defects: list[str]
    last_defect: str | None
    exempt: str | None
    until: str | None


class Declaring(msgspec.Struct, frozen=True):
    """One component: what it declared last, when, and in which stream that is."""

    component: str
    version: str
    policy: str
    rules: str | None
    versions: dict[str, str]
    digest: str
    declared: str
    stream: str
    entry_points: int
    beyond: int
    settings: dict[str, str]


class ServiceCoverage(msgspec.Struct, frozen=True):
    """One service; ``percent`` is of what is declared, None where nothing is."""

    service: str
    percent: float | None
    states: dict[str, int]
    components: list[Declaring]
    entry_points: list[Covered]
    beyond: int


class Coverage(msgspec.Struct, frozen=True):
    """All services by name; ``since`` is when this collector began to count, ``beyond`` what had no room."""

    since: str
    uncounted: int = 0
    beyond: int = 0
    services: tuple[ServiceCoverage, ...] = ()


def coverage_of(matrix: Matrix, now: Now) -> Coverage:
    """Return how everything stands today."""
    services = sorted(matrix.services(), key=lambda each: each.service)
    covered = tuple(_service(each, now.text[:10]) for each in services)
    return Coverage(matrix.since, matrix.uncounted, matrix.beyond, covered)


def percentage(states: Iterable[str]) -> float | None:
    """Return how much of what is declared is audited without defects, or exempt; in percent, None of nothing."""
    declared = [state for state in states if state != "undeclared"]
    return 100.0 * sum(state in COVERED for state in declared) / len(declared) if declared else None


def _service(service: Service, today: str) -> ServiceCoverage:
    seen: dict[tuple[str, str], list[Seen]] = {}
    for each in service.seen:
        seen.setdefault((each.kind, each.route), []).append(each)
    components = sorted(service.components.values(), key=lambda each: each.component)
    declared = [
        _declared(component.component, point, seen.get((point.kind, point.route), ()), today)
        for component in components
        for point in component.points
    ]
    rows = [*declared, *_others(service, components)]
    rows.sort(key=lambda row: (STATES.index(row.state), row.kind, row.route, row.method, row.component or ""))
    tally = Counter(row.state for row in rows)
    return ServiceCoverage(
        service.service,
        percentage(row.state for row in declared),
        {state: tally[state] for state in STATES},
        [_declaring(each) for each in components],
        rows,
        service.beyond,
    )


def _declared(component: str, point: DeclaredPoint, found: Sequence[Seen], today: str) -> Covered:
    seen = _together([each for each in found if point.method in {ANY, each.method}])
    if point.exempt is not None:
        state: State = "exempt" if holds(point, today) else "expired"
    else:
        state = _state(seen)
    return _row(component, point.name, state, seen or Seen(point.kind, point.method, point.route, 0, "", ""), point)


def _others(service: Service, components: Sequence[Component]) -> Iterator[Covered]:
    """Yield what nobody declares; what was not seen since the last change is one that is gone with it."""
    declared = {(point.kind, point.method, point.route) for each in components for point in each.points}
    routes = {(kind, route) for kind, _, route in declared}
    changed = max((each.since for each in components), default="")
    for seen in service.seen:
        if {(seen.kind, seen.method, seen.route), (seen.kind, ANY, seen.route)} & declared:
            continue
        if seen.method in AUTOMATIC and (seen.kind, seen.route) in routes:
            continue
        if seen.kind in UNDECLARABLE:
            yield _row(None, None, _state(seen), seen)
        elif seen.last > changed:
            yield _row(None, None, "undeclared", seen)


def _row(
    component: str | None, name: str | None, state: State, seen: Seen, point: DeclaredPoint | None = None
) -> Covered:
    return Covered(
        component,
        seen.kind,
        point.method if point is not None else seen.method,
        seen.route,
        name,
        state,
        seen.records,
        seen.first or None,
        seen.last or None,
        sorted(seen.defects),
        max(seen.defects.values(), default=None),
        point.exempt if point is not None else None,
        point.until if point is not None else None,
    )


def _together(found: Sequence[Seen]) -> Seen | None:
    """Return the records of all methods of a route as one."""
    if len(found) <= 1:
        return found[0] if found else None
    defects: dict[str, str] = {}
    for each in found:
        defects |= {name: max(moment, defects.get(name, "")) for name, moment in each.defects.items()}
    records, first = sum(each.records for each in found), min(each.first for each in found)
    return Seen(found[0].kind, ANY, found[0].route, records, first, max(each.last for each in found), defects)


def _state(seen: Seen | None) -> State:
    if seen is None or not seen.records:
        return "unseen"
    last = max(seen.defects.values(), default=None)
    if last is None:
        return "audited"
    return "defects" if microseconds(seen.last) - microseconds(last) < DEFECT_SECONDS * 1_000_000 else "audited"


def _declaring(each: Component) -> Declaring:
    said = each.said
    return Declaring(
        each.component,
        said.version,
        said.policy,
        said.rules,
        said.versions,
        said.digest,
        said.when,
        said.stream,
        len(each.points),
        each.beyond,
        said.values,
    )
