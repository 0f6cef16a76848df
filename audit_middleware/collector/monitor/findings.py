"""The book of findings: what is open, what somebody has seen to, what is over. Pure; every moment is given.

The rules:

* what is seen for the first time opens a finding; seen again, it only moves its ``last_seen`` and its evidence
* what is seen again after it was resolved opens the next occurrence of the same finding; but a condition that somebody
  resolved while it lasts stays resolved until it has ended once
* a condition that ends resolves its finding, unless its kind is left to a person (`KINDS`)
* a state is never taken back: open, acknowledged, resolved, and from there only to the next occurrence

Every state of a finding goes on record, once; `FindingBook.unsaid` holds those that are not yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple

import msgspec

from audit_middleware.collector.monitor.kinds import KINDS, Severity
from audit_middleware.collector_record import Reviewed
from audit_middleware.record import COLLECTOR_SERVICE

State = Literal["open", "acknowledged", "resolved"]
Change = Literal["opened", "reopened", "acknowledged", "resolved"]

STATES: Final[tuple[State, ...]] = ("open", "acknowledged", "resolved")
MONITOR: Final = "monitor"
"""Who resolves what ended by itself."""

SHOWN: Final = 20
"""Of a list in an evidence on record; the counts beside it are of all."""

KEPT_RESOLVED: Final = 1000
MAX_FINDINGS: Final = 10_000
"""Open and acknowledged ones; further ones are only counted, and a metric says so."""

RESERVED: Final = 1000
"""Room beyond that for what the collector sees by itself: no number of forged streams may hide a damaged ledger."""


class Observation(NamedTuple):
    """What a rule sees; kind and ``about`` are its identity, service and stream whom it concerns."""

    kind: str
    about: str
    evidence: Mapping[str, Any]
    service: str | None = None
    stream: str | None = None
    severity: Severity | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding; ``is_present`` says whether the condition that it is about still holds."""

    id: str
    kind: str
    about: str
    severity: str
    state: State
    service: str | None
    stream: str | None
    first_seen: str
    last_seen: str
    evidence: dict[str, Any]
    occurrence: int = 1
    acknowledged_by: str | None = None
    resolved_by: str | None = None
    note: str | None = None
    is_present: bool = False

    @property
    def rank(self) -> tuple[int, int]:
        """How far its life has come."""
        return self.occurrence, STATES.index(self.state)

    def reviewed(self) -> Reviewed:
        """Return the record of this state."""
        return Reviewed(
            service=COLLECTOR_SERVICE,
            finding=self.id,
            kind=self.kind,
            about=self.about,
            severity=self.severity,
            state=self.state,
            occurrence=self.occurrence,
            first_seen=self.first_seen,
            last_seen=self.last_seen,
            by=(self.acknowledged_by if self.state == "acknowledged" else self.resolved_by) or MONITOR,
            evidence={name: each[:SHOWN] if isinstance(each, list) else each for name, each in self.evidence.items()},
            note=self.note,
            of_service=self.service,
            stream=self.stream,
        )

    @classmethod
    def recall(cls, said: Reviewed) -> Finding:
        """Return the finding that a record speaks of."""
        is_person = said.by != MONITOR
        return cls(
            id=said.finding,
            kind=said.kind,
            about=said.about,
            severity=said.severity,
            state=said.state,
            service=said.of_service,
            stream=said.stream,
            first_seen=said.first_seen,
            last_seen=said.last_seen,
            evidence=said.evidence,
            occurrence=said.occurrence,
            acknowledged_by=said.by if said.state == "acknowledged" else None,
            resolved_by=said.by if said.state == "resolved" else None,
            note=said.note,
            is_present=KINDS[said.kind].lasts and (said.state != "resolved" or is_person),
        )


class Transition(NamedTuple):
    """A finding has entered a state."""

    change: Change
    finding: Finding


class Undecided(Exception):
    """A person's decision cannot be taken: there is no such finding, or it is beyond that state."""

    def __init__(self, kind: Literal["finding-unknown", "finding-state"], detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class Book(msgspec.Struct):
    """What has to be remembered of a `FindingBook`."""

    findings: list[Finding] = []
    unsaid: list[Finding] = []


class FindingBook:
    """All findings by id, and the states that are to be put on record. One owner."""

    def __init__(self, book: Book | None = None) -> None:
        book = book or Book()
        self._findings = {finding.id: finding for finding in book.findings}
        self.unsaid = {(finding.id, *finding.rank): finding for finding in book.unsaid}
        self.overflowed = 0
        self.is_changed = True

    def remember(self) -> Book:
        """Return what makes this book again."""
        return Book(list(self._findings.values()), list(self.unsaid.values()))

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._findings.values())

    def is_past(self, kind: str, about: str, when: str) -> bool:
        """Say whether an event is part of an occurrence that is over; ledgers of others are not heard in one order."""
        found = self.find(kind, about)
        return found is not None and found.state == "resolved" and when <= found.last_seen

    def find(self, kind: str, about: str) -> Finding | None:
        """Return the finding of what was observed, if there is one."""
        return self._findings.get(finding_id(kind, about))

    def observe(self, seen: Observation, now: str, *, is_on_record: bool = False) -> list[Transition]:
        """Open, refresh or reopen; ``is_on_record`` when a record of another type says it already."""
        kind, found = KINDS[seen.kind], self.find(seen.kind, seen.about)
        if found is None or (found.state == "resolved" and not (kind.lasts and found.is_present)):
            return self._open(seen, now, found, is_on_record=is_on_record)
        last_seen = max(found.last_seen, now)
        fresh = msgspec.structs.replace(
            found, last_seen=last_seen, evidence=dict(seen.evidence), service=seen.service, is_present=kind.lasts
        )
        if found.state != "resolved" and seen.severity is not None:
            fresh = msgspec.structs.replace(fresh, severity=seen.severity)
        self._put(fresh)
        return []

    def end(
        self, kind: str, about: str, now: str, evidence: Mapping[str, Any] | None = None, *, is_on_record: bool = False
    ) -> list[Transition]:
        """What was observed is over: resolve the finding, if its kind may end by itself."""
        found = self.find(kind, about)
        if found is None or (found.state == "resolved" and not found.is_present):
            return []
        ended = msgspec.structs.replace(found, evidence=dict(evidence or found.evidence), is_present=False)
        if found.state == "resolved" or KINDS[kind].ends == "person":
            self._put(ended)
            return []
        return self._enter(
            msgspec.structs.replace(ended, state="resolved", last_seen=max(now, found.last_seen), resolved_by=MONITOR),
            "resolved",
            is_on_record=is_on_record,
        )

    def reconcile(
        self, kind: str, seen: Sequence[Observation], now: str, among: Callable[[str], bool] = lambda _about: True
    ) -> list[Transition]:
        """``seen`` is all there is of a condition at this moment: open what is new, end what is not there.

        With ``among`` that is so of those subjects for which it says so.
        """
        moved = [transition for observation in seen for transition in self.observe(observation, now)]
        there = {observation.about for observation in seen}
        over = [each for each in self._findings.values() if each.kind == kind and each.about not in there]
        over = [each for each in over if among(each.about)]
        return moved + [transition for each in over for transition in self.end(kind, each.about, now)]

    def decision(self, id_: str, state: State, by: str, note: str | None) -> Finding:
        """Return the finding as somebody decides it, which changes nothing yet: it has to be on record first.

        Raises `Undecided`.
        """
        found = self._findings.get(id_)
        if found is None:
            raise Undecided("finding-unknown", f"there is no finding {id_[:64]!r}")
        if STATES.index(state) <= STATES.index(found.state):
            raise Undecided("finding-state", f"finding {id_} is {found.state}")
        who = {"acknowledged_by": by} if state == "acknowledged" else {"resolved_by": by}
        return msgspec.structs.replace(found, state=state, note=note, **who)

    def recall(self, said: Reviewed) -> list[Transition]:
        """Take a ``review`` record: what was to be said is said; what the book does not know yet, it learns."""
        if said.kind not in KINDS:
            return []
        told = Finding.recall(said)
        self.unsaid.pop((told.id, *told.rank), None)
        known = self._findings.get(told.id)
        if known is not None and known.rank >= told.rank:
            return []
        if known is not None and known.occurrence == told.occurrence:  # evidence may have grown meanwhile
            told = msgspec.structs.replace(
                known,
                state=told.state,
                acknowledged_by=told.acknowledged_by or known.acknowledged_by,
                resolved_by=told.resolved_by,
                note=told.note or known.note,
                is_present=told.is_present and known.is_present,
            )
        change: Change = "opened" if told.state == "open" else told.state
        return self._enter(told, change, is_on_record=True)

    def follow(self, said: Reviewed) -> None:
        """Another collector has put this state on record: what came before it need not be any more."""
        told = Finding.recall(said).rank
        for key in [key for key in self.unsaid if key[0] == said.finding and key[1:] <= told]:
            del self.unsaid[key]

    def _open(self, seen: Observation, now: str, former: Finding | None, *, is_on_record: bool) -> list[Transition]:
        room = MAX_FINDINGS + KEPT_RESOLVED + (RESERVED if KINDS[seen.kind].is_own else 0)
        if former is None and len(self._findings) >= room:
            self.overflowed += 1
            return []
        finding = Finding(
            id=finding_id(seen.kind, seen.about),
            kind=seen.kind,
            about=seen.about,
            severity=seen.severity or KINDS[seen.kind].severity,
            state="open",
            service=seen.service,
            stream=seen.stream,
            first_seen=now,
            last_seen=now,
            evidence=dict(seen.evidence),
            occurrence=former.occurrence + 1 if former else 1,
            is_present=KINDS[seen.kind].lasts,
        )
        return self._enter(finding, "reopened" if former else "opened", is_on_record=is_on_record)

    def _enter(self, finding: Finding, change: Change, *, is_on_record: bool) -> list[Transition]:
        self._put(finding)
        if not is_on_record:
            self.unsaid[finding.id, *finding.rank] = finding
        if finding.state == "resolved":
            self._forget_oldest()
        return [Transition(change, finding)]

    def _put(self, finding: Finding) -> None:
        self._findings[finding.id] = finding
        self.is_changed = True

    def _forget_oldest(self) -> None:
        """Keep the newest of those that are over; one whose condition lasts is needed to keep quiet."""
        over = [each for each in self._findings.values() if each.state == "resolved" and not each.is_present]
        if len(over) > KEPT_RESOLVED:
            del self._findings[min(over, key=lambda each: each.last_seen).id]


def finding_id(kind: str, about: str) -> str:
    """Return the id of the finding of a kind about something: always the same."""
    return sha256(f"{kind}\0{about}".encode()).hexdigest()[:16]
