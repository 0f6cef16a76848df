"""What a sink is given to send: findings by name, and crowds of them by number. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec

from audit_middleware.collector.monitor.findings import Finding
from audit_middleware.collector.monitor.kinds import KINDS, SEVERITIES, Severity

Change = Literal["opened", "repeated", "acknowledged", "resolved"]
WORDS: Final[dict[Change, str]] = {
    "opened": "new",
    "repeated": "still open",
    "acknowledged": "acknowledged",
    "resolved": "resolved",
}
TEXT: Final = 300
"""Letters of one value that a message shows: what an application calls itself may be long."""


class News(msgspec.Struct, frozen=True, kw_only=True):
    """One finding, and what became of it. ``id`` is the same when a message has to be sent again.

    ``is_first`` says that this sink was never told of this occurrence, whatever state it is in by now.
    """

    id: str
    change: Change
    finding: Finding
    is_first: bool = False


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """Findings of one kind that are too many to be named: how many changed, how many are open and not resolved."""

    kind: str
    severity: Severity
    opened: int = 0
    repeated: int = 0
    acknowledged: int = 0
    resolved: int = 0
    open: int = 0
    unresolved: int = 0


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one sink; ``now`` is seconds since the epoch, ``sent_at`` the same as records spell it."""

    collector: str
    now: float
    sent_at: str
    news: tuple[News, ...] = ()
    crowds: tuple[Crowd, ...] = ()
    is_test: bool = False

    @property
    def id(self) -> str:
        """The same for the same news, so that a receiver knows what it has had already."""
        said = [each.id for each in self.news] + [repr(each) for each in self.crowds]
        return sha256("\n".join([self.collector, str(self.is_test), *said]).encode()).hexdigest()[:32]

    @property
    def severity(self) -> Severity:
        """The gravest severity in it."""
        found = {each.finding.severity for each in self.news} | {each.severity for each in self.crowds}
        return next((each for each in SEVERITIES if each in found), "info")

    @property
    def is_over(self) -> bool:
        """Whether it only says that something ended."""
        return all(each.change == "resolved" for each in self.news) and not any(
            each.opened or each.repeated or each.acknowledged for each in self.crowds
        )


def headline(message: Message) -> str:
    """Return one line that says what a message is about."""
    if message.is_test:
        return f"[audit test] {plain(message.collector)}: a test of this alert, nothing was found"
    if len(message.news) == 1 and not message.crowds:
        return f"[audit {_mark(message)}] {plain(message.collector)}: {say(message.news[0])}"
    count = len(message.news) + sum(
        each.opened + each.repeated + each.acknowledged + each.resolved for each in message.crowds
    )
    kinds = {each.finding.kind for each in message.news} | {each.kind for each in message.crowds}
    return f"[audit {_mark(message)}] {plain(message.collector)}: {count} findings ({', '.join(sorted(kinds))})"


def say(news: News) -> str:
    """Return one line about one finding."""
    finding = news.finding
    return f"{WORDS[news.change]}: {finding.severity} {finding.kind} of {who(finding)}"


def say_crowd(crowd: Crowd) -> str:
    """Return one line about findings that are not named."""
    changes = {"new": crowd.opened, "still open": crowd.repeated, "acknowledged": crowd.acknowledged}
    changes |= {"resolved": crowd.resolved}
    said = ", ".join(f"{number} {word}" for word, number in changes.items() if number)
    return f"{crowd.severity} {crowd.kind}, not named one by one: {said}; {crowd.open} of them are open"


def lines(message: Message) -> Iterator[str]:
    """Yield a message as lines of text for people."""
    if message.is_test:
        yield "This is a test. If you can read it, alerts of this collector reach you."
    for news in message.news:
        finding = news.finding
        yield say(news)
        yield f"    finding {finding.id}, occurrence {finding.occurrence}, {finding.state}, since {finding.first_seen}"
        yield f"    {meaning(finding.kind)}"
        if finding.note or finding.acknowledged_by or finding.resolved_by:
            yield f"    {finding.state} by {plain(_decider(finding))}: {plain(finding.note or '-')}"
        if news.change in {"opened", "repeated"}:
            yield f"    evidence: {evidence(finding)}"
            yield f"    what to do: {remedy(finding.kind)}"
    for crowd in message.crowds:
        yield say_crowd(crowd)
    if not message.is_test:
        yield "All of them: audit-ready findings"


def who(finding: Finding) -> str:
    """Return whom a finding is about, as text that is safe to show."""
    return plain(finding.service or finding.stream or finding.about)


def meaning(kind: str) -> str:
    """Return what a kind means; a kind of another version has no meaning here."""
    return KINDS[kind].meaning if kind in KINDS else kind


def remedy(kind: str) -> str:
    """Return what to do about a kind."""
    return KINDS[kind].remedy if kind in KINDS else "see docs/findings.md"


def evidence(finding: Finding) -> str:
    """Return the evidence in one bounded line."""
    return plain(" ".join(f"{name}={value}" for name, value in finding.evidence.items())) or "-"


def plain(text: object) -> str:
    """Return bounded text without control characters: what an application calls itself is not ours to trust."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(text)[:TEXT])


def told(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON, with what it means and what to do."""
    found: dict[str, Any] = msgspec.to_builtins(finding)
    return found | {"meaning": meaning(finding.kind), "remedy": remedy(finding.kind), "evidence": bounded(finding)}


def bounded(finding: Finding) -> dict[str, Any]:
    """Return the evidence with lists and texts cut: a receiver need not take all of it."""
    return {
        name: value[:20] if isinstance(value, list) else plain(value) if isinstance(value, str) else value
        for name, value in finding.evidence.items()
    }


def _decider(finding: Finding) -> str:
    return (finding.resolved_by if finding.state == "resolved" else finding.acknowledged_by) or "-"


def _mark(message: Message) -> str:
    return "resolved" if message.is_over else message.severity
