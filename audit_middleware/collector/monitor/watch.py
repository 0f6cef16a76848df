"""What the monitor thinks of all it hears: its rules, applied to what was committed and to the time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from audit_middleware.collector.index_rows import Entry, microseconds, service_of
from audit_middleware.collector.index_store import Presence
from audit_middleware.collector.monitor import judged, rules, said, uncovered
from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.findings import MONITOR, Book, FindingBook, Observation, Transition
from audit_middleware.collector.monitor.heard import Find, Group, Hearing, Memory, Promise, Stream
from audit_middleware.collector.monitor.joining import Joined, Joining
from audit_middleware.collector.monitor.matrix import Matrix, Matrixed
from audit_middleware.collector.monitor.peers import Peers, is_of_peer
from audit_middleware.collector.monitor.ranges import Range
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector_record import ConflictFound, GapFound, Ingested, Quarantined, Reviewed
from audit_middleware.inventory_record import Inventory
from audit_middleware.record import COLLECTOR_SERVICE, COLLECTOR_TYPES, Dropped, Opened, Payload
from audit_middleware.sealing.seal import Frame

LIFE: Final = frozenset({"open", "beat", "drop", "close"})
BREAK_SECONDS: Final = 5.0
"""The time is asked for about once a second; after a longer pause this process did not run, and nobody listened."""


Missing = Callable[[str], list[Range] | None]
"""Returns what no collector has of a stream, None when nobody can tell now."""


class WatchState(msgspec.Struct):
    """What a `Watch` has to remember across process lives."""

    book: Book = msgspec.field(default_factory=Book)
    memory: Memory = msgspec.field(default_factory=Memory)
    joined: Joined = msgspec.field(default_factory=Joined)
    matrixed: Matrixed = msgspec.field(default_factory=Matrixed)


class Watch:
    """The monitor without threads, files and clocks. One owner.

    With ``missing`` it hears several collectors, whose ledgers it is told of in no common order.
    """

    def __init__(
        self,
        settings: MonitorSettings,
        find: Find,
        now: Now,
        state: WatchState | None = None,
        missing: Missing | None = None,
    ) -> None:
        state = state or WatchState()
        self.peers = Peers(settings)
        self.peers.restart(now)
        self._missing = missing
        self._doubtful: dict[str, str] = {}
        self.book = FindingBook(state.book)
        self.hearing = Hearing(settings, find, now, state.memory)
        self.joining = Joining(settings.call_seconds, now, state.joined)
        self.matrix = Matrix(now, state.matrixed)
        self._is_alone = missing is None
        self._settings = settings
        self._rules = settings.record_rules()
        self._last = now
        self._step = rules.Step(float("-inf"), 0.0)

    def remember(self) -> WatchState:
        """Return what makes this watch again."""
        joined, matrixed = self.joining.remember(), self.matrix.remember()
        return WatchState(self.book.remember(), self.hearing.remember(), joined, matrixed)

    def hear(self, group: Group, now: Now, *, is_elsewhere: bool = False) -> list[Transition]:
        """Take what a group commit of this collector, or of another one, holds.

        Collectors' own records are dated by themselves: heard again, they tell the same.
        """
        moved: list[Transition] = []
        for frame, service in group.newest:
            self.hearing.hear_newest(frame, service, now)
            moved += self._returned(frame, now)
        for frame, payload in group.lives:
            if frame.type in COLLECTOR_TYPES:
                if is_elsewhere and isinstance(payload, Reviewed):
                    self.book.follow(payload)
                moved += self._hear_own(frame, payload, group, now)
            elif service_of(payload) == COLLECTOR_SERVICE:
                moved += self._hear_collector(frame, payload)
            elif frame.type in LIFE:
                moved += self._hear_life(frame, payload, now)
            elif isinstance(payload, Inventory):
                moved += self._hear_inventory(frame, payload, now)
        for frame, record in group.joins:
            self.joining.hear(frame, record, now)
        for sighting in group.seen:
            self.matrix.see(sighting, now)
        self.matrix.uncounted += group.uncounted
        return moved

    def meet(self, there: Mapping[str, Presence], now: Now) -> None:
        """Take when the other collectors were there last; what they commit of calls is not heard here."""
        self._is_alone = self._missing is None or not there
        if self.peers.meet(there, now):
            self.hearing.broke = now.mono

    def judge(self, entries: Sequence[Entry], now: Now) -> list[Transition]:
        """Hold records of applications to the organisation's rules, if there are any."""
        if self._rules is None:
            return []
        return judged.on_entries(self.book, entries, self._rules, now.text)

    def tick(
        self, now: Now, *, is_listening: bool = True, is_hearing: bool = True, is_watching: bool = True
    ) -> list[Transition]:
        """Apply the rules that time is part of; call it about once a second, with everything heard before.

        Other collectors are heard of, with ``is_hearing``, also while nothing is committed here. Where another one
        watches for all, what it finds is heard from its ledger.
        """
        passed = now.mono - self._last.mono
        if not is_hearing or passed > BREAK_SECONDS:
            self.peers.restart(now)
        if not is_listening or passed > BREAK_SECONDS:
            self.hearing.restart(now)
            self.joining.restart(now)
        else:
            hour = int(now.wall) // rules.HOUR
            self.hearing.hours[hour] = self.hearing.hours.get(hour, 0.0) + passed
        step = now.wall - self._last.wall - passed
        if abs(step) >= self._settings.skew_seconds:
            self._step = rules.Step(now.mono, step)
        self._last = now
        moved = [each for stream, when in list(self._doubtful.items()) for each in self._gap_now(stream, when)]
        if is_watching:
            conditions = self._conditions(now)
            moved += [each for kind, seen in conditions for each in self._reconcile(kind, seen, now)]
            moved += self._judge_peers(now)
            for stream in list(rules.given_up(self.hearing, self._settings, now)):
                moved += self._give_up(stream, now)
            moved += self.joining.judge(self.book, now) if self._is_alone else []
        moved += self._check_promises(now, is_watching=is_watching)
        self.hearing.forget(now)
        rules.forget_hours(self.hearing, now)
        self.matrix.forget(now, self._is_alive)
        return moved

    def see(self, observation: Observation, now: Now) -> list[Transition]:
        """Take what somebody else has seen of a lasting condition, such as a damaged file."""
        return self.book.observe(observation, now.text)

    def unsee(self, kind: str, about: str, now: Now) -> list[Transition]:
        """It is over."""
        found = self.book.find(kind, about)
        evidence = found.evidence | {"over": now.text} if found and found.is_present else None
        return self.book.end(kind, about, now.text, evidence)

    def _conditions(self, now: Now) -> Iterator[tuple[str, list[Observation]]]:
        hearing, settings = self.hearing, self._settings
        yield "lag", rules.lags(hearing, settings, now)
        yield "skew", [*rules.skews(hearing, settings, now), *rules.steps(self._step, now)]
        yield "spool", rules.spools(hearing, settings, now)
        yield "volume", rules.volumes(hearing, settings, now)
        if hearing.listened(now) >= settings.settle_seconds:
            yield "missing_service", rules.missing_services(hearing, settings)
            yield "silence", rules.silences(hearing, now)

    def _reconcile(self, kind: str, seen: list[Observation], now: Now) -> list[Transition]:
        return self.book.reconcile(kind, seen, now.text, lambda about: kind != "silence" or not is_of_peer(about))

    def _judge_peers(self, now: Now) -> list[Transition]:
        if now.mono - self.peers.since < self._settings.settle_seconds:
            return []
        return self.book.reconcile("silence", self.peers.absences(now), now.text, is_of_peer)

    def _hear_life(self, frame: Frame, payload: Payload, now: Now) -> list[Transition]:
        stream = self.hearing.hear_life(frame, payload, now)
        moved = self._returned(frame, now)
        if isinstance(payload, Dropped) and not self._is_past("drop", frame.stream, frame.ts):
            moved += said.on_drop(self.book, payload, stream, now.text)
        if stream.is_closed:
            moved += self.book.end("unclosed", frame.stream, now.text)
        return moved

    def _hear_inventory(self, frame: Frame, part: Inventory, now: Now) -> list[Transition]:
        accepted = self.matrix.hear(frame, part, now)
        return uncovered.on_accepted(self.book, accepted, now.text) if accepted is not None else []

    def _hear_collector(self, frame: Frame, payload: Payload) -> list[Transition]:
        """A collector's own stream is unclosed if the one after it says so: nobody else can tell."""
        previous = payload.previous if isinstance(payload, Opened) else None
        if previous is None or previous.closed:
            return []
        evidence = {"successor": frame.stream, "reached": previous.seq or 0}
        seen = Observation("unclosed", previous.stream, evidence, COLLECTOR_SERVICE, previous.stream)
        return self.book.observe(seen, frame.ts)

    def _hear_own(self, frame: Frame, payload: Payload, group: Group, now: Now) -> list[Transition]:
        book, when = self.book, frame.ts
        if isinstance(payload, GapFound):
            if self._missing is not None:
                return self._gap_now(payload.stream, when)
            return said.on_gap(book, payload, self._service_of(payload.stream), when)
        if isinstance(payload, ConflictFound) and not self._is_past("conflict", payload.stream, when):
            return said.on_conflict(book, payload, self._service_of(payload.stream), when)
        if isinstance(payload, Quarantined):
            return said.on_quarantine(book, payload, self._service_of(payload.stream), when)
        if isinstance(payload, Reviewed):
            self._note_lost(payload, now)
            return book.recall(payload)
        if isinstance(payload, Ingested):
            self._count(payload, group, now)
        return []

    def _gap_now(self, stream: str, when: str) -> list[Transition]:
        """Look at what is missing, whatever was said: it may have been filled elsewhere before this was heard."""
        missing = self._missing(stream) if self._missing is not None else None
        if missing is None:
            self._doubtful[stream] = when
            return []
        self._doubtful.pop(stream, None)
        return said.on_gap_now(self.book, stream, missing, self._service_of(stream), when)

    def _is_past(self, kind: str, about: str, when: str) -> bool:
        return self._missing is not None and self.book.is_past(kind, about, when)

    def _count(self, ingested: Ingested, group: Group, now: Now) -> None:
        hour = microseconds(ingested.received) // (rules.HOUR * 1_000_000)
        lives: dict[str, int] = {}
        for frame, _ in group.lives:
            lives[frame.stream] = lives.get(frame.stream, 0) + 1
        for delivery in ingested.deliveries:
            self.hearing.reach(delivery.stream, delivery.last, now)
            self.hearing.count(delivery.stream, max(0, delivery.count - lives.get(delivery.stream, 0)), hour)

    def _returned(self, frame: Frame, now: Now) -> list[Transition]:
        """A stream that was taken for dead lives, if it said something since then; its late lines prove nothing."""
        found, stream = self.book.find("unclosed", frame.stream), self.hearing.streams.get(frame.stream)
        if found is not None and frame.ts <= found.last_seen:
            return []
        if stream is not None:
            stream.is_given_up = False
        return self.book.end("unclosed", frame.stream, now.text)

    def _note_lost(self, review: Reviewed, now: Now) -> None:
        """Who was lost in an earlier process life still is, until it is heard: nothing is found twice."""
        if review.state == "resolved" and review.by == MONITOR:
            return
        stream = self.hearing.streams.get(review.stream or "")
        if review.kind == "unclosed" and stream is not None:
            stream.is_given_up = True
        if review.kind == "silence" and review.of_service and review.about == f"service {review.of_service}":
            self.hearing.note_down(review.of_service, now)

    def _give_up(self, stream: Stream, now: Now) -> list[Transition]:
        stream.is_given_up = True
        evidence = {
            "last_heard": stream.heard_at,
            "reached": stream.reached,
            "instance": stream.instance,
            "successor": stream.successor,
        }
        seen = Observation("unclosed", stream.stream, evidence, stream.service, stream.stream)
        return self.book.observe(seen, now.text)

    def _check_promises(self, now: Now, *, is_watching: bool) -> list[Transition]:
        """What a later stream saw of its predecessor has to be here after a while, or it is missing."""
        moved: list[Transition] = []
        for promise in list(self.hearing.promises.values()):
            standing = self.hearing.standing(promise.head.stream) if self._is_due(promise, now) else None
            found = self.book.find("gap", _about(promise))
            is_kept = standing is not None and standing.next > (promise.head.seq or 0)
            if is_kept or (found is not None and found.state == "resolved"):
                del self.hearing.promises[promise.head.stream]
                moved += self.book.end("gap", _about(promise), now.text)
            elif is_watching and self._is_due(promise, now) and found is None:
                moved += self.book.observe(_broken(promise, standing.next if standing else 0), now.text)
        return moved

    def _is_due(self, promise: Promise, now: Now) -> bool:
        return now.mono - max(promise.since, self.hearing.since.mono) >= self._settings.unclosed_seconds

    def _is_alive(self, stream: str) -> bool:
        known = self.hearing.streams.get(stream)
        return known is not None and not known.is_closed and not known.is_given_up

    def _service_of(self, stream: str | None) -> str | None:
        known = self.hearing.streams.get(stream or "")
        return known.service if known else None


def _about(promise: Promise) -> str:
    return f"end of {promise.head.stream}"


def _broken(promise: Promise, reached: int) -> Observation:
    evidence = {"missing": [[reached, promise.head.seq or 0]], "named_by": promise.by}
    return Observation("gap", _about(promise), evidence, promise.service, promise.head.stream)
