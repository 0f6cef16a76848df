"""Findings from inventories: what was recorded and is exempt now, and settings that were changed. Pure.

Of each service so many entry points have a finding of their own, and the others one for each component. A finding
ends when its entry point is not exempt any more in the component that it is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from audit_middleware.collector.index_rows import microseconds
from audit_middleware.collector.monitor.findings import Finding, FindingBook, Observation, Transition
from audit_middleware.collector.monitor.matrix import Accepted, entry_point
from audit_middleware.inventory_record import DeclaredPoint

KIND: Final = "uncovered"
MAX_OWN: Final = 50
"""Entry points of a service that have a finding of their own."""

ROLLING_SECONDS: Final = 3600.0
"""Old and new processes of one deployment may be started in turn for so long: that is one change of settings."""


def on_accepted(book: FindingBook, accepted: Accepted, when: str) -> list[Transition]:
    """Take what an inventory changes."""
    return [*_end(book, accepted, when), *_uncover(book, accepted, when), *_on_settings(book, accepted, when)]


def _end(book: FindingBook, accepted: Accepted, when: str) -> Iterator[Transition]:
    exempt = {tuple(entry_point(point)) for point in accepted.after.points if point.exempt is not None}
    for found in [each for each in _present(book, accepted) if each.evidence["component"] == accepted.after.component]:
        evidence = found.evidence | {"over": when, "version_after": accepted.after.said.version}
        others = found.evidence.get("entry_points")
        if others is None:
            if (found.evidence["entry_kind"], found.evidence["method"], found.evidence["route"]) not in exempt:
                yield from book.end(KIND, found.about, when, evidence)
            continue
        left = [each for each in others if tuple(each) in exempt]
        if not left:
            yield from book.end(KIND, found.about, when, evidence)
        elif len(left) < len(others):
            yield from book.observe(_of_others(accepted, left), when)


def _uncover(book: FindingBook, accepted: Accepted, when: str) -> Iterator[Transition]:
    room = MAX_OWN - sum("entry_points" not in each.evidence for each in _present(book, accepted))
    others = []
    for point in accepted.newly_exempt:
        about = _about(accepted.service, point)
        found = book.find(KIND, about)
        if room > 0 or (found is not None and found.is_present):
            room -= found is None or not found.is_present
            yield from book.observe(Observation(KIND, about, _evidence(accepted, point), accepted.service), when)
        else:
            others.append(list(entry_point(point)))
    if others:
        former = book.find(KIND, _about_others(accepted))
        if former is not None and former.is_present:
            others = [
                *former.evidence["entry_points"],
                *(each for each in others if each not in former.evidence["entry_points"]),
            ]
        yield from book.observe(_of_others(accepted, others), when)


def _on_settings(book: FindingBook, accepted: Accepted, when: str) -> list[Transition]:
    """Say that settings were changed; that a process of before is started again meanwhile is no news."""
    before, after = accepted.before, accepted.after
    if before is None or before.said.settings == after.said.settings:
        return []
    about = f"{accepted.service} {after.component}"
    found, former = book.find("policy", about), before.settings.get(after.said.settings)
    is_rolling = former is not None and _seconds(former, after.said.when) < ROLLING_SECONDS
    if is_rolling and (found is None or found.state == "resolved"):
        return []
    evidence = {
        "component": after.component,
        "changed": _changed(before.said.values, after.said.values),
        "policy_before": before.said.policy,
        "policy_after": after.said.policy,
        "rules_before": before.said.rules,
        "rules_after": after.said.rules,
        "version_before": before.said.version,
        "version_after": after.said.version,
        "versions_before": before.said.versions,
        "versions_after": after.said.versions,
        "stream_before": before.said.stream,
        "stream_after": after.said.stream,
    }
    return book.observe(Observation("policy", about, evidence, accepted.service, after.said.stream), when)


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, list[str | None]] | None:
    """Return both values of each setting that differs; None where one side did not say its settings."""
    if not before or not after:
        return None
    names = sorted(before.keys() | after.keys())
    return {name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)}


def _present(book: FindingBook, accepted: Accepted) -> list[Finding]:
    return [each for each in book if each.kind == KIND and each.service == accepted.service and each.is_present]


def _evidence(accepted: Accepted, point: DeclaredPoint) -> dict[str, Any]:
    before, after = accepted.before, accepted.after
    return {
        "component": after.component,
        "entry_kind": point.kind,
        "method": point.method,
        "route": point.route,
        "exempt": point.exempt,
        "until": point.until,
        "version_before": before.said.version if before is not None else None,
        "version_after": after.said.version,
        "stream": after.said.stream,
    }


def _of_others(accepted: Accepted, points: Sequence[Sequence[str]]) -> Observation:
    after = accepted.after
    evidence = {
        "component": after.component,
        "exempt": len(points),
        "entry_points": [list(each) for each in points],
        "version_after": after.said.version,
        "stream": after.said.stream,
    }
    return Observation(KIND, _about_others(accepted), evidence, accepted.service)


def _about(service: str, point: DeclaredPoint) -> str:
    return f"{service} {point.kind} {point.method} {point.route}"


def _about_others(accepted: Accepted) -> str:
    return f"{accepted.service} {accepted.after.component}: others"


def _seconds(earlier: str, later: str) -> float:
    return (microseconds(later) - microseconds(earlier)) / 1_000_000
