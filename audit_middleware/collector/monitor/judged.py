"""Findings from the organisation's own rules: one for each service and action whose records break them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from audit_middleware.collector.index_rows import Entry
from audit_middleware.collector.monitor.findings import FindingBook, Observation, Transition
from audit_middleware.record import AuditRecord
from audit_middleware.record_rules import PREFIX, RecordRules
from audit_middleware.sealing.seal import Frame


def on_entries(book: FindingBook, entries: Sequence[Entry], rules: RecordRules, when: str) -> list[Transition]:
    """Hold the records of a group commit to the rules; an attempt does not know yet what it comes to."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    newest: dict[tuple[str, str], Frame] = {}
    for frame, record, broken in _broken(entries, rules):
        key = record.service, record.action
        counts.setdefault(key, Counter()).update(each.removeprefix(PREFIX) for each in broken)
        newest[key] = frame
    return [moved for key, lacks in counts.items() for moved in _observe(book, *key, lacks, newest[key], when)]


def _broken(entries: Sequence[Entry], rules: RecordRules) -> Iterator[tuple[Frame, AuditRecord, list[str]]]:
    for _, frame, payload in entries:
        if isinstance(payload, AuditRecord) and frame.type != "attempt" and (broken := rules.broken_by(payload)):
            yield frame, payload, broken


def _observe(
    book: FindingBook, service: str, action: str, lacks: Counter[str], newest: Frame, when: str
) -> list[Transition]:
    about = f"{service} {action}"
    found = book.find("rules", about)
    former = found.evidence["lacks"] if found is not None and found.state != "resolved" else {}
    evidence = {"action": action, "lacks": dict(lacks + Counter(former)), "stream": newest.stream, "seq": newest.seq}
    return book.observe(Observation("rules", about, evidence, service), when)
