"""Findings from what is on record: each is an event, and its evidence grows with every further one. Pure.

``gap``, ``conflict`` and ``quarantine`` are records of the collector's own already; a finding made of one needs no
second record to be found again after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from audit_middleware.collector.monitor.findings import SHOWN, FindingBook, Observation, Transition
from audit_middleware.collector.monitor.heard import Stream
from audit_middleware.collector.monitor.ranges import Range, added, removed, size_of
from audit_middleware.collector_record import ConflictFound, GapFound, Quarantined
from audit_middleware.record import Dropped

KEPT_RANGES: Final = 1000
"""Ranges of one stream that a finding remembers; those beyond become one, which only a person can resolve."""

KIND_OF_REASON: Final = {"mac": "seal", "sequence": "seal", "unknown_key": "unknown_key", "conflict": "conflict"}
"""Reasons of the quarantine that are a kind of their own."""


def on_gap(book: FindingBook, said: GapFound, service: str | None, when: str) -> list[Transition]:
    """Lines of a stream are missing, or arrived late: one finding for each stream."""
    found = book.find("gap", said.stream)
    is_over = found is None or found.state == "resolved"
    ranges = [] if found is None or is_over else [(first, last) for first, last in found.evidence["missing"]]
    change = added if said.state == "open" else removed
    ranges = _bounded(change(ranges, said.first, said.last))
    evidence = {"missing": [list(each) for each in ranges], "lines": size_of(ranges)}
    if not ranges:
        filled = {"missing": [], "lines": 0, "filled": [said.first, said.last]}
        return book.end("gap", said.stream, when, filled, is_on_record=True)
    if said.state == "filled" and is_over:
        return []
    seen = Observation("gap", said.stream, evidence, service, said.stream)
    return book.observe(seen, when, is_on_record=True)


def on_gap_now(
    book: FindingBook, stream: str, missing: list[Range], service: str | None, when: str
) -> list[Transition]:
    """Take what is missing of a stream now in all ledgers together, which is all there is to say of it."""
    ranges = _bounded(sorted(missing))
    evidence = {"missing": [list(each) for each in ranges], "lines": size_of(ranges)}
    if not ranges:
        return book.end("gap", stream, when, evidence, is_on_record=True)
    if book.is_past("gap", stream, when):
        return []
    return book.observe(Observation("gap", stream, evidence, service, stream), when, is_on_record=True)


def on_conflict(book: FindingBook, said: ConflictFound, service: str | None, when: str) -> list[Transition]:
    """Two lines carry one number: one finding for each stream."""
    former = _evidence(book, "conflict", said.stream)
    evidence = {
        "places": [*former.get("places", ()), said.seq][-SHOWN:],
        "lines": former.get("lines", 0) + 1,
        "kept": said.kept,
        "other": said.other,
    }
    return book.observe(Observation("conflict", said.stream, evidence, service, said.stream), when, is_on_record=True)


def on_quarantine(book: FindingBook, said: Quarantined, service: str | None, when: str) -> list[Transition]:
    """A line was set aside, or is admitted now: one finding for each reason and deliverer.

    The stream that such a line names proves nothing, and whoever delivers could name a new one every time.
    """
    kind = KIND_OF_REASON.get(said.reason, "quarantine")
    if kind == "conflict":  # a record of its own says more
        return []
    about = f"{said.reason} {said.deliverer}"
    former = _evidence(book, kind, about)
    lines = former.get("lines", 0) + (1 if said.state == "kept" else -1)
    evidence = {
        "reason": said.reason,
        "deliverer": said.deliverer,
        "lines": max(0, lines),
        "leaf": said.leaf,
        "stream": said.stream,
        "seq": said.seq,
    }
    if said.state == "admitted" and lines > 0:
        evidence |= {"admitted": former.get("admitted", 0) + 1}
    if lines <= 0:
        return book.end(kind, about, when, evidence, is_on_record=True)
    found = book.find(kind, about)
    is_of_one = found is None or not former or found.service == service
    return book.observe(Observation(kind, about, evidence, service if is_of_one else None), when, is_on_record=True)


def on_drop(book: FindingBook, said: Dropped, stream: Stream, when: str) -> list[Transition]:
    """Records were given up at the source: one finding for each stream."""
    former = _evidence(book, "drop", stream.stream)
    evidence = {
        "records": former.get("records", 0) + said.count,
        "first": said.first,
        "last": said.last,
        "reason": said.reason,
        "instance": stream.instance,
    }
    return book.observe(Observation("drop", stream.stream, evidence, said.service, stream.stream), when)


def _bounded(ranges: list[Range]) -> list[Range]:
    if len(ranges) <= KEPT_RANGES:
        return ranges
    return [*ranges[: KEPT_RANGES - 1], (ranges[KEPT_RANGES - 1][0], ranges[-1][1])]


def _evidence(book: FindingBook, kind: str, about: str) -> Mapping[str, Any]:
    """Return what is known so far of an occurrence that is not over."""
    found = book.find(kind, about)
    return {} if found is None or found.state == "resolved" else found.evidence
