"""Every stream the collector follows: where it stands, whose it is, what is missing.

States live in the index and are loaded when a line of their stream comes; those a group commit moved are handed
to the index with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NamedTuple

import msgspec

from audit_middleware.sealing.seal import Frame
from audit_middleware.sealing.stream import Gap, Segment, Step, StreamFollower

NEW: Final = 0  # the number of a stream that has none yet


class StreamState(NamedTuple):
    """A stream as the index keeps it; ``gaps`` is JSON: first, last, after, before of each."""

    number: int
    stream: str
    service: str | None
    next: int
    head: str
    gaps: str
    open_gaps: int
    closed: int


class GapEvent(NamedTuple):
    """Lines ``first`` to ``last`` of a stream are missing, or no longer."""

    stream: str
    first: int
    last: int
    is_open: bool


@dataclass(slots=True)
class Stream:
    """One stream: its follower, the service that opened it, and whether it said goodbye."""

    number: int
    follower: StreamFollower
    service: str | None = None
    closed: bool = False

    def state(self) -> StreamState:
        """Return what the index keeps."""
        follower = self.follower
        gaps = [(gap.first, gap.last, gap.after.decode(), gap.before.decode()) for gap in follower.gaps]
        encoded = msgspec.json.encode(gaps).decode() if gaps else "[]"
        head = follower.head.decode()
        return StreamState(
            self.number, follower.stream, self.service, follower.next, head, encoded, len(gaps), self.closed
        )

    @classmethod
    def restore(cls, state: StreamState) -> Stream:
        """Return the stream that had this state."""
        gaps = [Gap(first, last, after.encode(), before.encode()) for first, last, after, before in _gaps(state.gaps)]
        follower = StreamFollower(state.stream, state.next, state.head.encode(), gaps)
        return cls(state.number, follower, state.service, bool(state.closed))


@dataclass(slots=True)
class Streams:
    """The streams in memory, at most ``capacity`` between two groups. One owner: the committer.

    ``load`` finds the state of a stream that is not in memory; ``numbers`` are unused ones,
    ``count`` streams were ever seen.
    """

    load: Callable[[str], StreamState | None]
    capacity: int
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    open_gaps: int = 0
    count: int = 0
    _streams: dict[str, Stream] = field(default_factory=dict)
    _moved: dict[str, Stream] = field(default_factory=dict)

    def find(self, stream: str) -> Stream | None:
        """Return the stream if it was ever seen."""
        known = self._streams.get(stream)
        if known is None:
            state = self.load(stream)
            if state is not None:
                known = self._streams[stream] = Stream.restore(state)
        return known

    def fresh(self, stream: str) -> Stream:
        """Return a stream nobody has seen; only `move` makes it known."""
        return Stream(NEW, StreamFollower(stream))

    def move(self, stream: Stream, frame: Frame, leaf: bytes) -> list[GapEvent]:
        """Follow one line, which is no `Step.SEEN` or `Step.BROKEN`; return what that says of gaps."""
        follower = stream.follower
        if stream.number == NEW:
            self._admit(stream)
        self._moved[follower.stream] = stream
        if frame.seq >= follower.next:  # a late line says nothing of the end
            stream.closed = frame.type == "close"
        before = follower.gaps
        if frame.seq < follower.next:
            before = before.copy()
        elif frame.prev == follower.head:
            follower.follow(frame, leaf)
            return []
        gaps = len(before)
        step = follower.follow(frame, leaf)
        self.open_gaps += len(follower.gaps) - gaps
        return [_event(follower, step, frame.seq, before)]

    def absorb(self, stream: str, service: str, segments: Iterable[Segment], *, is_closed: bool) -> None:
        """Follow what was there of a stream in a log whose entries are gone."""
        known = self.find(stream) or self.fresh(stream)
        if known.number == NEW:
            self._admit(known)
        self._moved[stream] = known
        gaps, reached = len(known.follower.gaps), known.follower.next
        for segment in segments:
            known.follower.follow_segment(segment)
        self.open_gaps += len(known.follower.gaps) - gaps
        known.service = known.service or service
        if known.follower.next > reached:
            known.closed = is_closed

    def refresh(self, states: Mapping[str, StreamState | None]) -> None:
        """Take the states that an index which others share has of some streams now; call it between two groups."""
        for name, state in states.items():
            known = self._streams.pop(name, None)
            self.open_gaps -= len(known.follower.gaps) if known else 0
            if state is not None:
                self._streams[name] = Stream.restore(state)
                self.open_gaps += state.open_gaps if known else 0

    def _admit(self, stream: Stream) -> None:
        stream.number = next(self.numbers)
        self.count += 1
        self._streams[stream.follower.stream] = stream

    def take_moved(self) -> list[StreamState]:
        """Return the states that changed since the last call, and forget the streams longest in memory."""
        states = [stream.state() for stream in self._moved.values()]
        self._moved.clear()
        return states

    def trim(self) -> None:
        """Keep at most ``capacity`` streams in memory; call it only once every moved state can be loaded."""
        surplus = len(self._streams) - self.capacity
        for stream in list(self._streams)[: max(0, surplus)]:
            del self._streams[stream]

    @property
    def is_crowded(self) -> bool:
        """Whether `trim` has something to do."""
        return len(self._streams) > self.capacity


def merged(events: list[GapEvent]) -> Iterator[GapEvent]:
    """Join events of one stream and state whose ranges touch."""
    pending: GapEvent | None = None
    for event in events:
        if pending and pending[::3] == event[::3] and event.first == pending.last + 1:
            pending = pending._replace(last=event.last)
            continue
        if pending:
            yield pending
        pending = event
    if pending:
        yield pending


def _event(follower: StreamFollower, step: Step, seq: int, before: list[Gap]) -> GapEvent:
    if step is Step.GAP:
        gap = follower.gaps[-1]
        return GapEvent(follower.stream, gap.first, gap.last, True)
    was = next(gap for gap in before if gap.first <= seq <= gap.last)
    left = any(gap.first == was.first for gap in follower.gaps if gap.last < seq)
    right = any(gap.last == was.last for gap in follower.gaps if gap.first > seq)
    return GapEvent(follower.stream, seq if left else was.first, seq if right else was.last, False)


def _gaps(encoded: str) -> list[tuple[int, int, str, str]]:
    return msgspec.json.decode(encoded, type=list[tuple[int, int, str, str]])
