"""What could be audited and what was: entry points of an application against the records that were made. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, Final, Literal, NamedTuple

from audit_middleware.capture.exemption import Exemption
from audit_middleware.inventory_record import ANY, EntryKind, reached
from audit_middleware.record import AuditRecord

__all__ = ["ANY", "COVERED", "Covered", "EntryPoint", "State", "Tally", "percentage"]

State = Literal["audited", "defects", "exempt", "expired", "unseen"]
COVERED: Final = frozenset({"audited", "exempt"})


class EntryPoint(NamedTuple):
    """One way into an application; ``route`` is spelled as on record, and is the name of a task, command or model.

    ``method`` is `ANY` for one that takes all of them, or has none.
    """

    kind: EntryKind
    method: str
    route: str
    name: str
    exemption: Exemption | None = None


class Covered(NamedTuple):
    """An entry point, how it stands, the records of it, and which of their fields were unknown or replaced."""

    entry_point: EntryPoint
    state: State
    records: int
    defects: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        point, exemption = self.entry_point, self.entry_point.exemption
        return {
            "kind": point.kind,
            "method": point.method,
            "route": point.route,
            "name": point.name,
            "state": self.state,
            "records": self.records,
            "defects": list(self.defects),
            "exempt": exemption.reason if exemption else None,
            "until": exemption.until.isoformat() if exemption and exemption.until else None,
        }


class Tally:
    """Counts the records of each (kind, method, route), and collects their defects."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], tuple[int, set[str]]] = {}

    def note(self, record: AuditRecord) -> None:
        """Count one record of an entry point that was reached; no ``attempt``, which has no end yet."""
        entry = reached(_type_of(record), record)
        if entry is not None:
            self.add(*entry, 1, record.defects or ())

    def add(self, kind: str, method: str, route: str, records: int, defects: Iterable[str]) -> None:
        """Count several records at once, such as another process has counted."""
        known = self._seen.get((kind, method, route))
        count, found = known if known is not None else (0, set())
        self._seen[kind, method, route] = count + records, found | set(defects)

    def rows(self) -> list[list[Any]]:
        """Return what was counted as plain values, one row for each: the arguments of `add`."""
        return [[*key, count, sorted(defects)] for key, (count, defects) in self._seen.items()]

    def cover(self, points: Sequence[EntryPoint], today: date) -> list[Covered]:
        """Say of each entry point how it stands."""
        return [self._covered(point, today) for point in points]

    def _covered(self, point: EntryPoint, today: date) -> Covered:
        found = [
            value
            for (kind, method, route), value in self._seen.items()
            if kind == point.kind and route == point.route and point.method in {ANY, method}
        ]
        count = sum(number for number, _ in found)
        defects = tuple(sorted(set().union(*(names for _, names in found))))
        return Covered(point, _state(point.exemption, count, defects, today), count, defects)


def _type_of(record: AuditRecord) -> str:
    if record.task is not None:
        return "task"
    if record.call is not None:
        return "call"
    return "request" if record.http is not None else "event"


def percentage(covered: Sequence[Covered]) -> float:
    """Return how many entry points are audited without defects or exempt, in percent; of none at all none is."""
    return 100.0 * sum(each.state in COVERED for each in covered) / len(covered) if covered else 0.0


def _state(exemption: Exemption | None, count: int, defects: Sequence[str], today: date) -> State:
    if exemption is not None:
        return "exempt" if exemption.holds(today) else "expired"
    if not count:
        return "unseen"
    return "defects" if defects else "audited"
