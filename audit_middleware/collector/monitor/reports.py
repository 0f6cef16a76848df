"""What a watch makes of the patrol's reports. Pure."""

from __future__ import annotations

from collections.abc import Callable

from audit_middleware.collector.monitor.clock import Now, spell
from audit_middleware.collector.monitor.findings import Finding, Observation, Transition
from audit_middleware.collector.monitor.patrol import Damage
from audit_middleware.collector.monitor.patroller import Report, Sound
from audit_middleware.collector.monitor.watch import Watch


def take_report(watch: Watch, report: Report, now: Now, is_own: Callable[[Finding], bool]) -> list[Transition]:
    """Take what the patrol saw; a pass over the own store says nothing of those of other collectors."""
    if isinstance(report, Damage):
        evidence = {"log": report.log, "path": report.path, "first": report.first, "last": report.last}
        evidence |= {"message": report.message[:500]}
        return watch.see(Observation(report.kind, report.about, evidence), now)
    if isinstance(report, Sound):
        return watch.unsee(report.kind, report.about, now)
    began = spell(report.began)
    kinds = {"tampering", "rollback"}
    good = [each for each in watch.book if each.kind in kinds and each.last_seen < began and is_own(each)]
    return [moved for each in good for moved in watch.unsee(each.kind, each.about, now)]
