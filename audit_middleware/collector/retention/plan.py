"""What would go now, and why the rest stays. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from typing import Literal, NamedTuple

import msgspec

from audit_middleware.collector.retention.holds import may_cover
from audit_middleware.collector.retention.policy import DEFAULT_CLASS, OWN_CLASS, Policy, end_of
from audit_middleware.collector_record import Held

Verdict = Literal["delete", "keep", "held"]


class Candidate(NamedTuple):
    """A log as it is: its place, origin, and the tree it has."""

    class_: str
    period: str
    origin: str
    size: int
    root: str


class Item(msgspec.Struct, frozen=True, rename={"class_": "class"}):
    """One log of a plan; ``expires`` is None for never, ``why`` is for people."""

    class_: str
    period: str
    origin: str
    size: int
    root: str
    keep: str
    expires: str | None
    verdict: Verdict
    why: str


class Plan(msgspec.Struct, frozen=True):
    """Every log with its verdict; ``id`` names exactly what would be deleted."""

    id: str
    items: list[Item]

    @property
    def to_delete(self) -> list[Item]:
        """What would go."""
        return [item for item in self.items if item.verdict == "delete"]


def make_plan(policy: Policy, logs: Iterable[Candidate], holds: Iterable[Held], now: datetime) -> Plan:
    """Judge every log; a log may go when its half-year is over, its time to keep is, and no hold may need it."""
    standing = list(holds)
    items = [_judge(policy, log, standing, now) for log in logs]
    gone = [(item.origin, item.size, item.root) for item in items if item.verdict == "delete"]
    return Plan(sha256(msgspec.json.encode(gone)).hexdigest()[:32], items)


def _judge(policy: Policy, log: Candidate, holds: list[Held], now: datetime) -> Item:
    keep, expires = policy.keep(log.class_), policy.expires(log.class_, log.period)
    cases = [held.case for held in holds if may_cover(held, services_in(policy, log.class_), log.period)]
    verdict: Verdict = "keep"
    if log.class_ == OWN_CLASS:
        why = "says what was held and what was deleted"
    elif expires is None:
        why = "is kept for ever"
    elif now < end_of(log.period):
        why = "still takes records"
    elif now < expires:
        why = f"expires on {expires.date()}"
    elif cases:
        verdict, why = "held", f"expired on {expires.date()}, held for {', '.join(sorted(cases))}"
    else:
        verdict, why = "delete", f"expired on {expires.date()}"
    shown = expires.date().isoformat() if expires is not None else None
    return Item(log.class_, log.period, log.origin, log.size, log.root, str(keep), shown, verdict, why)


def services_in(policy: Policy, class_: str) -> list[str] | None:
    """Return whose records a class can hold. A service may have belonged to another class once: inside, all is read."""
    return None if class_ == DEFAULT_CLASS else policy.services_of(class_)
