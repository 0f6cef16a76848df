"""Calls and the requests that they were to other services, joined by span id. Pure; every moment is given.

Either side may come first, late or never. A span is judged `call_seconds` after it was heard last: a call that no
request names was not recorded by whoever was called; more requests than calls are one context used again. What had to
be forgotten for want of room accuses nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.findings import SHOWN, FindingBook, Observation, Transition
from audit_middleware.record import AuditRecord
from audit_middleware.sealing.seal import Frame

KIND: Final = "unmatched_call"
MAX_SPANS: Final = 20_000
MAX_PAIRS: Final = 1_000
KEPT_MISSING: Final = 1_000
"""Calls of one pair that can still be matched; those beyond are counted, and only a person can resolve them."""

MAX_OF_A_SPAN: Final = 10
FORGET_SECONDS: Final = 600.0
"""A span that is matched is kept for longer than a context is believed: 300 s (wire format, section 7)."""

UNREACHED: Final = {"http": frozenset({502, 503, 504}), "grpc": frozenset({1, 4, 12, 14})}
"""What is said for a service that was not reached, or has no such method: RFC 9110, sections 15.6.3 to 15.6.5; gRPC,
"Status codes and their use": CANCELLED, DEADLINE_EXCEEDED, UNIMPLEMENTED, UNAVAILABLE."""


class Side(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of a span, as evidence: the call, or the request that it was."""

    service: str
    request_id: str
    ts: str
    host: str | None = None
    method: str | None = None
    route: str | None = None
    status: int | None = None


class Span(msgspec.Struct):
    """What was heard of one span; ``called`` and ``recorded`` of it are counted already."""

    span: str
    since: float
    calls: list[Side] = []
    requests: list[Side] = []
    caller: str = ""
    """The service that a request names as its cause."""

    called: int = 0
    recorded: int = 0
    is_judged: bool = False
    is_replayed: bool = False


class Pair(msgspec.Struct):
    """A service and a host that it calls: how often, and how much of that was recorded, since a day began."""

    service: str
    host: str
    since: str
    called: int = 0
    recorded: int = 0
    missing: dict[str, Side] = {}
    beyond: int = 0
    last_recorded: Side | None = None
    is_told: bool = False

    @property
    def about(self) -> str:
        """Identity of its finding."""
        return f"{self.service} calls {self.host}"

    def observation(self) -> Observation:
        """Return what is missing, with both sides' evidence."""
        callee = self.last_recorded.service if self.last_recorded is not None else None
        evidence: dict[str, Any] = {
            "caller": self.service,
            "host": self.host,
            "callee": callee,
            "called": self.called,
            "recorded": self.recorded,
            "since": self.since,
            "missing": len(self.missing) + self.beyond,
            "calls": [{"span_id": span, **_plain(call)} for span, call in list(self.missing.items())[:SHOWN]],
            "last_recorded": _plain(self.last_recorded) if self.last_recorded is not None else None,
        }
        return Observation(KIND, self.about, evidence, callee or self.service)


class Joined(msgspec.Struct):
    """What has to be remembered of a `Joining`."""

    spans: list[Span] = []
    matched: list[Span] = []
    pairs: list[Pair] = []
    forgotten: str = ""


class Joining:
    """Every span that is of interest: those that wait for their other side, and those that have it. One owner."""

    def __init__(self, seconds: float, now: Now, memory: Joined | None = None) -> None:
        memory = memory or Joined()
        self._seconds = seconds
        self._spans = {span.span: span for span in memory.spans}
        self._matched = {span.span: span for span in memory.matched}
        self._pairs = {(pair.service, pair.host): pair for pair in memory.pairs}
        self._forgotten = memory.forgotten
        """Newest time of a request that was forgotten before its call came: calls up to then prove nothing."""

        self._due: deque[tuple[float, str]] = deque()
        self._changed = set(self._pairs)  # what changed at the end of the last process life may not have been told
        self._replayed: list[Span] = []
        self.restart(now)

    def remember(self) -> Joined:
        """Return what makes this again, in another process life."""
        spans, matched = list(self._spans.values()), list(self._matched.values())
        return Joined(spans, matched, list(self._pairs.values()), self._forgotten)

    def restart(self, now: Now) -> None:
        """Nobody listened until now: the other side of everything gets as long as at first."""
        for span in [*self._spans.values(), *self._matched.values()]:
            span.since = now.mono
        self._due = deque((now.mono, span.span) for span in self._spans.values() if not span.is_judged)

    def hear(self, frame: Frame, record: AuditRecord, now: Now) -> None:
        """Take one record of a call, or of a request that a call brought about; of others there is nothing to join."""
        cause, call, own = record.cause, record.call, record.trace
        if frame.type == "call" and call is not None and call.carried and own.span_id is not None:
            if call.ended != "complete" or call.status in UNREACHED.get(call.kind, ()) or frame.ts <= self._forgotten:
                return
            span = self._open(own.span_id, now)
            what = Side(record.service, own.request_id, frame.ts, call.host, call.method, call.route, call.status)
            span.calls = [*span.calls, what][:MAX_OF_A_SPAN]
        elif frame.type == "request" and cause is not None and cause.span_id is not None:
            span = self._open(cause.span_id, now)
            span.caller = cause.service
            span.requests = [*span.requests, Side(record.service, own.request_id, frame.ts)][:MAX_OF_A_SPAN]
        else:
            return
        if len(span.calls) == len(span.requests):
            self._match(span, now)
        elif span.called > span.recorded:
            self._count(span, now)

    def judge(self, book: FindingBook, now: Now) -> list[Transition]:
        """Say of every span whose time has come what is missing, and of every pair that is whole again that it is."""
        for pair in self._pairs.values():
            _start_anew(pair, book, now)
        while self._due and now.mono - self._due[0][0] >= self._seconds:
            since, name = self._due.popleft()
            span = self._spans.get(name)
            if span is not None and span.since == since:  # else it was heard again, and waits further back
                self._settle(span, now)
        while self._matched and now.mono - (first := next(iter(self._matched.values()))).since >= FORGET_SECONDS:
            del self._matched[first.span]
        return [each for moved in self._told(book, now) for each in moved]

    def _open(self, name: str, now: Now) -> Span:
        """Return a span, whose time begins anew; the one that was heard last is the last to be forgotten."""
        span = self._matched.pop(name, None) or self._spans.pop(name, None) or Span(name, now.mono)
        span.since, span.is_judged = now.mono, False
        self._spans[name] = span
        self._due.append((now.mono, name))
        if len(self._spans) > MAX_SPANS:
            self._forget(next(iter(self._spans.values())))
        return span

    def _match(self, span: Span, now: Now) -> None:
        """Count a span of which nothing is missing, and keep it a while: its context may be used again."""
        self._count(span, now)
        del self._spans[span.span]
        self._matched[span.span] = span
        if len(self._matched) > MAX_SPANS:
            del self._matched[next(iter(self._matched))]

    def _settle(self, span: Span, now: Now) -> None:
        if span.is_judged:
            return
        span.is_judged = True
        self._count(span, now)
        if len(span.requests) > max(1, len(span.calls)) and not span.is_replayed:
            span.is_replayed = True
            self._replayed.append(span)
        if 0 < len(span.calls) <= len(span.requests):
            self._match(span, now)

    def _forget(self, span: Span) -> None:
        del self._spans[span.span]
        if not span.calls:
            self._forgotten = max([self._forgotten, *(request.ts for request in span.requests)])

    def _count(self, span: Span, now: Now) -> None:
        """Bring the counts of a pair up to what is known of one span."""
        pair = self._pair(span.calls[0], now) if span.calls else None
        if pair is None:
            return
        self._changed.add((pair.service, pair.host))
        recorded = min(len(span.calls), len(span.requests))
        pair.called += len(span.calls) - span.called
        pair.recorded = min(pair.called, pair.recorded + recorded - span.recorded)
        pair.last_recorded = span.requests[-1] if recorded > span.recorded else pair.last_recorded
        is_new = span.called <= span.recorded
        span.called, span.recorded = len(span.calls), recorded
        if recorded == span.called:
            pair.missing.pop(span.span, None)
        elif is_new and len(pair.missing) < KEPT_MISSING:
            pair.missing[span.span] = span.calls[-1]
        elif is_new:
            pair.beyond += 1

    def _pair(self, call: Side, now: Now) -> Pair | None:
        key = (call.service, call.host or "")
        if key not in self._pairs:
            if len(self._pairs) >= MAX_PAIRS:
                return None
            self._pairs[key] = Pair(*key, now.text)
        return self._pairs[key]

    def _told(self, book: FindingBook, now: Now) -> Iterator[list[Transition]]:
        changed, self._changed = self._changed, set()
        for pair in map(self._pairs.__getitem__, sorted(changed)):
            if pair.missing or pair.beyond:
                pair.is_told = True
                yield book.observe(pair.observation(), now.text)
            elif pair.is_told:
                pair.is_told = False
                yield book.end(KIND, pair.about, now.text, pair.observation().evidence)
        replayed, self._replayed = self._replayed, []
        for span in replayed:
            yield book.observe(_replay(span, book), now.text)


def _start_anew(pair: Pair, book: FindingBook, now: Now) -> None:
    """Count a new day from nothing, if nothing is missing; what a person has resolved is not missing any more."""
    if pair.missing or pair.beyond:
        found = book.find(KIND, pair.about)
        is_over = pair.is_told and found is not None and found.state == "resolved"
    else:
        is_over = not pair.is_told and pair.since[:10] != now.text[:10]
    if is_over:
        pair.called = pair.recorded = pair.beyond = 0
        pair.missing, pair.since, pair.is_told = {}, now.text, False


def _replay(span: Span, book: FindingBook) -> Observation:
    """One finding for each service that believed a context which another request had used."""
    callee = span.requests[-1].service
    about = f"{callee} believed contexts of {span.caller} again"
    found = book.find(KIND, about)
    former: Mapping[str, Any] = {} if found is None or found.state == "resolved" else found.evidence
    spans = [*former.get("spans", ()), {"span_id": span.span, "requests": [_plain(each) for each in span.requests]}]
    evidence = {
        "caller": span.caller,
        "callee": callee,
        "replayed": former.get("replayed", 0) + 1,
        "spans": spans[-SHOWN:],
    }
    return Observation(KIND, about, evidence, callee)


def _plain(side: Side) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(side)
    return found
