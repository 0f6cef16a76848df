"""What is told to one sink, and when. Pure; every moment is given.

The rules, which compare what there is with what the sink was told:

* an occurrence of a finding at or above the severity, of a kind that the sink takes, is told once, also when somebody
  acknowledged or resolved it before the sink could be told
* an open one is told again when ``repeat_seconds`` have passed, or when it has become graver; what was acknowledged is
  not told again
* the end of what was told is told
* between two messages there are ``interval_seconds``; what comes meanwhile is in the next one
* at most ``named`` findings stand there by name; the others are counted by kind, which is one message too
* of collectors that share an index one tells; the next one tells what is open again, whoever told something ends it
* only what was confirmed counts as told: after a failure the same, or what became of it, is told later

A sink that is new is told what is open, and nothing of what is past.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from audit_middleware.collector.alerts.message import Change, Crowd, Message, News
from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.findings import STATES, Finding, State
from audit_middleware.collector.monitor.kinds import SEVERITIES, Severity

STEP_SECONDS: Final = 60.0
"""A wall clock that is further behind the last message than this was set back: the interval begins anew."""

_CHANGE: Final[dict[State, Change]] = {"open": "opened", "acknowledged": "acknowledged", "resolved": "resolved"}


class Rules(NamedTuple):
    """What one sink takes; ``kinds`` empty means all of them."""

    severity: Severity = "warning"
    kinds: frozenset[str] = frozenset()
    repeat_seconds: float = 14_400.0
    interval_seconds: float = 30.0
    named: int = 20
    tells_acknowledged: bool = True
    tells_resolved: bool = True

    def take(self, finding: Finding) -> bool:
        """Say whether a finding is for this sink."""
        is_grave = _rank(finding.severity) <= _rank(self.severity)
        return is_grave and (not self.kinds or finding.kind in self.kinds)


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A finding as the sink was told of it last, without its evidence; ``at`` is seconds since the epoch."""

    finding: Finding
    at: float
    times: int = 1
    is_named: bool = True


class Draft(NamedTuple):
    """A message, and what counts as told once it was delivered."""

    message: Message
    told: dict[str, Told]


class Announcer:
    """What one sink was told, by id of the finding; None when nobody knows. One owner."""

    def __init__(
        self,
        rules: Rules,
        collector: str,
        told: dict[str, Told] | None = None,
        tells: Callable[[Finding], bool] = lambda _: True,
    ) -> None:
        self.told = told
        self._tells = tells
        self._rules = rules
        self._collector = collector
        self._sent_at: float | None = None
        self._idle: tuple[Sequence[Finding], float] | None = None

    def draft(self, findings: Sequence[Finding], now: Now) -> Draft | None:
        """Return what has to be told now; None for nothing, or not yet."""
        if self.told is None:
            self.told = {
                each.id: _told(each, now) for each in findings if each.state != "open" and self._rules.take(each)
            }
        if self._sent_at is not None and now.mono - self._sent_at < self._rules.interval_seconds:
            return None
        if self._idle is not None and self._idle[0] is findings and self._idle[1] > now.mono:
            return None
        due = sorted(self._due(findings, now), key=_gravest_first)
        if not due:
            self._idle = findings, now.mono + 1 + min(self._rules.repeat_seconds / 10, 60.0)
            return None
        return self._compose(due, now)

    def confirm(self, draft: Draft, now: Now) -> None:
        """The message was delivered: remember what it told."""
        assert self.told is not None
        self.told |= draft.told
        self._sent_at = now.mono
        self._idle = None

    def _due(self, findings: Sequence[Finding], now: Now) -> Iterator[tuple[Change, Finding]]:
        assert self.told is not None
        there = set()
        for finding in findings:
            there.add(finding.id)
            change = self._change(finding, self.told.get(finding.id), now)
            if change is not None:
                yield change, finding
        for id_ in self.told.keys() - there:  # the book keeps a bounded number of those that are over
            gone = self.told[id_].finding
            if gone.state == "resolved" or not self._rules.tells_resolved:
                del self.told[id_]
            else:
                yield "resolved", msgspec.structs.replace(gone, state="resolved")

    def _change(self, finding: Finding, told: Told | None, now: Now) -> Change | None:
        """Return what is news about a finding to somebody who was told so much."""
        if not self._tells(finding):
            return self._told_elsewhere(finding, told)
        if told is None:
            return _CHANGE[finding.state] if self._rules.take(finding) else None
        was = told.finding
        if _is_anew(finding, was):
            is_taken = was.state != "resolved" or self._rules.take(finding)
            return _CHANGE[finding.state] if is_taken else None
        if finding.occurrence == was.occurrence and STATES.index(finding.state) > STATES.index(was.state):
            return self._moved(finding, told)
        if finding.state == was.state == "open":
            is_graver = _rank(finding.severity) < _rank(was.severity)
            is_time = now.wall - told.at >= self._rules.repeat_seconds or told.at - now.wall > STEP_SECONDS
            return "repeated" if is_graver or is_time else None
        return None

    def _told_elsewhere(self, finding: Finding, told: Told | None) -> Change | None:
        """Another collector tells of it; what this one has told it ends itself, and of what is over it keeps quiet."""
        assert self.told is not None
        is_told = told is not None and told.finding.state != "resolved"
        if told is not None and is_told and finding.occurrence == told.finding.occurrence:
            return self._moved(finding, told) if finding.state == "resolved" else None
        if finding.state == "resolved" and not is_told and self._rules.take(finding):
            self.told[finding.id] = Told(finding=_bare(finding), at=told.at if told is not None else 0.0)
        return None

    def _moved(self, finding: Finding, told: Told) -> Change | None:
        """A state that this sink is not told of only keeps it quiet."""
        assert self.told is not None
        is_told = self._rules.tells_resolved if finding.state == "resolved" else self._rules.tells_acknowledged
        if is_told:
            return _CHANGE[finding.state]
        self.told[finding.id] = msgspec.structs.replace(told, finding=_bare(finding))
        return None

    def _compose(self, due: Sequence[tuple[Change, Finding]], now: Now) -> Draft:
        assert self.told is not None
        room = self._rules.named - sum(
            each.is_named and each.finding.state != "resolved" for each in self.told.values()
        )
        news: list[News] = []
        crowded: list[tuple[Change, Finding]] = []
        drafted: dict[str, Told] = {}
        for change, finding in due:
            told = self.told.get(finding.id)
            is_new = told is None or _is_anew(finding, told.finding)
            is_named = (
                told.is_named if told is not None and (not is_new or told.finding.state != "resolved") else room > 0
            )
            if is_named and (told is None or told.finding.state == "resolved"):
                room -= 1
            times = 1 if told is None or is_new else told.times + 1
            drafted[finding.id] = _told(finding, now, times=times, is_named=is_named)
            if is_named:
                id_ = _id(finding, change, times)
                news.append(News(id=id_, change=change, finding=finding, is_first=is_new))
            else:
                crowded.append((change, finding))
        crowds = tuple(_crowds(crowded, self.told | drafted))
        message = Message(collector=self._collector, now=now.wall, sent_at=now.text, news=tuple(news), crowds=crowds)
        return Draft(message, drafted)


def _is_anew(finding: Finding, was: Finding) -> bool:
    """Say whether this is another occurrence than the one that was told; one of the past is not."""
    if was.state == "resolved" and finding.state == "open":  # whatever its number: a monitor may have lost its memory
        return True
    return finding.occurrence > was.occurrence


def _crowds(changed: Sequence[tuple[Change, Finding]], told: dict[str, Told]) -> Iterator[Crowd]:
    tally = Counter((finding.kind, change) for change, finding in changed)
    there = [each.finding for each in told.values() if not each.is_named]
    for kind in sorted({finding.kind for _, finding in changed}):
        numbers = {change: tally[kind, change] for change in _COUNTED if tally[kind, change]}
        same = [each for each in there if each.kind == kind]
        gravest = min((_rank(finding.severity) for _, finding in changed if finding.kind == kind), default=0)
        yield Crowd(
            kind=kind,
            severity=SEVERITIES[gravest],
            open=sum(each.state == "open" for each in same),
            unresolved=sum(each.state != "resolved" for each in same),
            **numbers,
        )


_COUNTED: Final[tuple[Change, ...]] = ("opened", "repeated", "acknowledged", "resolved")


def _told(finding: Finding, now: Now, *, times: int = 1, is_named: bool = True) -> Told:
    return Told(finding=_bare(finding), at=now.wall, times=times, is_named=is_named)


def _bare(finding: Finding) -> Finding:
    return msgspec.structs.replace(finding, evidence={})


def _id(finding: Finding, change: Change, times: int) -> str:
    return sha256(f"{finding.id} {finding.occurrence} {change} {times}".encode()).hexdigest()[:32]


def _rank(severity: str) -> int:
    return next((number for number, each in enumerate(SEVERITIES) if each == severity), 0)


def _gravest_first(due: tuple[Change, Finding]) -> tuple[int, str, str]:
    return _rank(due[1].severity), due[1].first_seen, due[1].id
