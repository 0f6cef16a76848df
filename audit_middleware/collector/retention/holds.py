"""Legal holds: what a case needs may not go. Pure: `Held` records in, what they cover out.

A hold counts as soon as one person has placed it; another one confirms it. It ends when two people want it to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Final

from audit_middleware.collector.retention.policy import end_of
from audit_middleware.collector_record import Held
from audit_middleware.errors import ConfigurationError
from audit_middleware.record import COLLECTOR_SERVICE, AuditRecord, Payload

MAX_NAME: Final = 128
MAX_REASON: Final = 1024
MAX_NAMES: Final = 100


@dataclass(slots=True)
class HoldBook:
    """Every hold by its case, as its records say, in their order."""

    holds: dict[str, Held] = field(default_factory=dict)
    """The record that placed each hold, with the state it has now and who brought it there."""

    placed_by: dict[str, str] = field(default_factory=dict)

    def take(self, held: Held) -> None:
        """Follow one record of the ledger."""
        if held.state == "placed":
            self.holds[held.case] = held
            self.placed_by[held.case] = held.by
        elif held.case in self.holds:
            self.holds[held.case] = held

    @property
    def standing(self) -> list[Held]:
        """The holds that count."""
        return [held for held in self.holds.values() if held.state != "released"]

    def place(self, held: Held) -> Held:
        """Return the record of a new hold; raise `ConfigurationError` for one that says nothing, or is there."""
        known = self.holds.get(held.case)
        if known is not None and known.state != "released":
            raise ConfigurationError(f"case {held.case!r} has a hold already: release it first, or name another case")
        _check(held)
        return held

    def confirm(self, case: str, by: str, reason: str) -> Held:
        """Return the record of a second person who wants the hold."""
        known = self._known(case)
        if known.state != "placed":
            raise ConfigurationError(f"case {case!r} is {known.state}, and not to be confirmed")
        self._require_another(case, by, self.placed_by[case], "placed")
        return _moved(known, "confirmed", by, reason)

    def release(self, case: str, by: str, reason: str) -> Held:
        """Return the record of a release: asked for by the first person, done by the second."""
        known = self._known(case)
        if known.state != "release_asked":
            return _moved(known, "release_asked", by, reason)
        self._require_another(case, by, known.by, "asked to release")
        return _moved(known, "released", by, reason)

    def _known(self, case: str) -> Held:
        known = self.holds.get(case)
        if known is None or known.state == "released":
            raise ConfigurationError(f"there is no hold for case {case!r}")
        return known

    @staticmethod
    def _require_another(case: str, by: str, first: str, did: str) -> None:
        if by == first:
            raise ConfigurationError(f"{by!r} {did} the hold of case {case!r}: that takes a second person's token")


def may_cover(held: Held, services: Iterable[str] | None, period: str) -> bool:
    """Say whether a log may hold lines of the case; ``services`` None means any. Rather too often than too seldom."""
    if held.services and services is not None and not set(held.services) & set(services):
        return False
    year, half = int(period[:4]), period.endswith("1")
    begin, end = date(year, 1 if half else 7, 1), end_of(period).date()
    if held.since is not None and date.fromisoformat(held.since) >= end:
        return False
    return held.until is None or date.fromisoformat(held.until) >= begin


def covers(held: Held, payload: Payload, ts: str) -> bool:
    """Say whether the case needs this line; ``ts`` is the line's."""
    service = getattr(payload, "service", None)
    if service == COLLECTOR_SERVICE or (held.services and service not in held.services):
        return False
    day = ts[:10]
    if (held.since is not None and day < held.since) or (held.until is not None and day > held.until):
        return False
    if not held.principals:
        return True
    if not isinstance(payload, AuditRecord):
        return False
    return payload.principal.id in held.principals or payload.principal.on_behalf_of in held.principals


def _moved(held: Held, state: str, by: str, reason: str) -> Held:
    moved = Held(
        held.service,
        held.case,
        state,  # type: ignore[arg-type] # one of the states, checked below as every record is
        reason,
        by,
        held.services,
        held.principals,
        held.since,
        held.until,
    )
    _check(moved)
    return moved


def _check(held: Held) -> None:
    names = [held.case, *held.services, *held.principals]
    if not all(name and len(name) <= MAX_NAME for name in names) or len(names) > MAX_NAMES:
        raise ConfigurationError(f"a hold names its case, services and principals with 1 to {MAX_NAME} characters each")
    if not held.reason.strip() or len(held.reason) > MAX_REASON:
        raise ConfigurationError(f"a hold needs a reason of at most {MAX_REASON} characters")
    for name, day in (("since", held.since), ("until", held.until)):
        try:
            is_day = day is None or date.fromisoformat(day).isoformat() == day
        except ValueError:
            is_day = False
        if not is_day:
            raise ConfigurationError(f"{name} {day!r} is no day such as 2027-01-31")
    if held.since is not None and held.until is not None and held.since > held.until:
        raise ConfigurationError(f"since {held.since} is after until {held.until}")
