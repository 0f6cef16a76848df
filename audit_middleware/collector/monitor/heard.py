"""Who was heard, and when: the streams that are open, and the services they belong to. Pure; every moment is given.

Silence is measured with the monotonic clock and only while this collector listens: what was not heard because nobody
listened was not silent. A stream that is over is forgotten after a while; `Find` tells of those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from audit_middleware.collector.index_rows import Entry, microseconds, service_of
from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.monitor.sightings import Sighting, sightings_of
from audit_middleware.record import (
    APPLICATION_TYPES,
    COLLECTOR_SERVICE,
    AuditRecord,
    Counters,
    Opened,
    Payload,
    StreamHead,
)
from audit_middleware.sealing.seal import Frame

MAX_STREAMS: Final = 20_000
MAX_SERVICES: Final = 1_000
MAX_PROMISES: Final = 1_000
FORGET_SECONDS: Final = 3600.0
"""After that long a stream that is over is left to the index."""

_DELAYS: Final = 4
_stream_of: Final = attrgetter("stream")


class Standing(NamedTuple):
    """Where the index has a stream: the number its next line gets, and whether it said goodbye."""

    next: int
    is_closed: bool


Find = Callable[[str], Standing | None]
"""Looks a stream up among all that were ever delivered; may be a moment behind."""


class Group(NamedTuple):
    """What matters of one group commit: the newest line of each stream, every line that is about a life, and calls.

    ``joins`` are the calls, and the requests that others brought about; ``seen`` is which entry points all the records
    are of, but for ``uncounted`` lines that were too many to be read.
    """

    newest: Sequence[tuple[Frame, str | None]]
    lives: Sequence[tuple[Frame, Payload]]
    joins: Sequence[tuple[Frame, AuditRecord]] = ()
    seen: Sequence[Sighting] = ()
    uncounted: int = 0


class Stream(msgspec.Struct):
    """One stream that was heard. ``heard`` and the delays are moments of the monotonic clock of this process life."""

    stream: str
    service: str | None
    heard: float
    heard_at: str
    instance: str = "unknown"
    reached: int = -1
    successor: str | None = None
    is_closed: bool = False
    is_given_up: bool = False
    """It is *unclosed*: nobody waits for it any more."""

    spool_bytes: int = 0
    delays: list[tuple[float, float]] = []
    """(when, seconds between the newest line's own time and that), the latest few."""


class Service(msgspec.Struct):
    """One service that was heard; ``hours`` counts its application records by the hour of their reception."""

    service: str
    heard: float
    heard_at: str
    is_down: bool = False
    hours: dict[int, int] = {}


class Heard(msgspec.Struct, frozen=True):
    """A service for people: how many of its streams are heard, how many are silent, records of this hour."""

    service: str
    last_heard: str
    streams: int
    silent: int
    records_this_hour: int


class Promise(msgspec.Struct):
    """A stream named its predecessor: that one has to be here, up to what was seen of it."""

    by: str
    service: str | None
    head: StreamHead
    since: float


class Memory(msgspec.Struct):
    """What has to be remembered of a `Hearing`."""

    streams: list[Stream] = []
    services: list[Service] = []
    promises: list[Promise] = []
    hours: dict[int, float] = {}


class Hearing:
    """Everything that was heard. One owner."""

    def __init__(self, settings: MonitorSettings, find: Find, now: Now, memory: Memory | None = None) -> None:
        memory = memory or Memory()
        self._settings = settings
        self._find = find
        self.since = now
        """Since when this collector listens without a break."""

        self.broke = -inf
        """When another collector was last found away, or back: what it was sent needs time to reach another one."""

        self.streams = {stream.stream: stream for stream in memory.streams}
        self.services = {service.service: service for service in memory.services}
        self.promises = {promise.head.stream: promise for promise in memory.promises}
        self.hours = memory.hours
        """Seconds of each hour in which this collector listened."""

        self._rewind(now)

    def remember(self) -> Memory:
        """Return what makes this again, in another process life."""
        return Memory(
            list(self.streams.values()), list(self.services.values()), list(self.promises.values()), self.hours
        )

    def restart(self, now: Now) -> None:
        """Nobody listened until now: whoever was not heard meanwhile is not to blame."""
        self.since = now
        self._rewind(now)

    def listened(self, now: Now) -> float:
        """Return for how long this collector listens."""
        return now.mono - self.since.mono

    def hear_newest(self, frame: Frame, service: str | None, now: Now) -> None:
        """A stream was heard; this is the newest of its lines that came."""
        stream = self._stream(frame, service, now)
        if frame.seq <= stream.reached:
            return
        stream.reached = frame.seq
        stream.delays = [*stream.delays[1 - _DELAYS :], (now.mono, now.wall - microseconds(frame.ts) / 1_000_000)]

    def hear_life(self, frame: Frame, payload: Payload, now: Now) -> Stream:
        """Take one ``open``, ``beat``, ``drop`` or ``close``."""
        stream = self._stream(frame, service_of(payload), now)
        stream.service = service_of(payload) or stream.service
        if isinstance(payload, Opened):
            stream.instance = payload.instance
            self._promise(payload, stream, now)
        elif isinstance(payload, Counters) and frame.seq >= stream.reached:
            stream.spool_bytes = payload.spool_bytes
        if frame.type == "close" and frame.seq >= stream.reached:
            stream.is_closed = True
        stream.reached = max(stream.reached, frame.seq)
        return stream

    def count(self, stream: str, number: int, hour: int) -> None:
        """Count application records of a stream that were received in an hour."""
        known = self.streams.get(stream)
        service = self.services.get(known.service or "") if known else None
        if service is not None:
            service.hours[hour] = service.hours.get(hour, 0) + number

    def note_down(self, service: str, now: Now) -> None:
        """A service was found silent in an earlier process life, and was not heard since."""
        if service in self.services or len(self.services) < MAX_SERVICES:
            self.services.setdefault(service, Service(service, now.mono, now.text)).is_down = True

    def reach(self, stream: str, seq: int, now: Now) -> None:
        """A stream was delivered up to ``seq``."""
        known = self.streams.get(stream)
        if known is not None:
            known.reached = max(known.reached, seq)
            known.heard, known.heard_at = now.mono, now.text
            self._hear_service(known.service, now)

    def standing(self, stream: str) -> Standing | None:
        """Return how far a stream came and whether it is closed, None when it was never heard."""
        known = self.streams.get(stream)
        found = self._find(stream)
        if known is None:
            return found
        return Standing(max(known.reached + 1, found.next if found else 0), known.is_closed)

    def is_silent(self, stream: Stream, now: Now) -> bool:
        """Whether a stream is overdue; whoever was not heard since a collector is back, or away, gets time to try."""
        moment = max(self.since.mono, self.broke)
        if stream.heard <= moment and now.mono - moment < self._settings.settle_seconds:
            return False
        return now.mono - max(stream.heard, self.since.mono) >= self._settings.silence_of(stream.service)

    def overview(self, now: Now) -> tuple[Heard, ...]:
        """Return every service that was heard, by name."""
        awaited: dict[str | None, list[Stream]] = {}
        for stream in self.streams.values():
            if not stream.is_closed and not stream.is_given_up:
                awaited.setdefault(stream.service, []).append(stream)
        return tuple(
            self._heard(service, awaited.get(name, []), now) for name, service in sorted(self.services.items())
        )

    def _heard(self, service: Service, streams: Sequence[Stream], now: Now) -> Heard:
        silent = sum(self.is_silent(stream, now) for stream in streams)
        records = service.hours.get(int(now.wall) // 3600, 0)
        return Heard(service.service, service.heard_at, len(streams) - silent, silent, records)

    def forget(self, now: Now) -> None:
        """Let go of streams that are over, and of the longest unheard when there are too many."""
        over = [each for each in self.streams.values() if each.is_closed or each.is_given_up]
        for stream in over:
            if now.mono - stream.heard > FORGET_SECONDS:
                del self.streams[stream.stream]
        if len(self.streams) > MAX_STREAMS:
            for stream in sorted(self.streams.values(), key=lambda each: each.heard)[:-MAX_STREAMS]:
                del self.streams[stream.stream]

    def _stream(self, frame: Frame, service: str | None, now: Now) -> Stream:
        stream = self.streams.get(frame.stream)
        if stream is None:
            stream = self.streams[frame.stream] = Stream(frame.stream, service, now.mono, now.text)
            found = self._find(frame.stream) if frame.seq else None
            if found is not None:  # it was forgotten, or is older than what this collector remembers
                stream.is_closed = found.is_closed
        stream.heard, stream.heard_at = now.mono, now.text
        self._hear_service(stream.service or service, now)
        return stream

    def _hear_service(self, name: str | None, now: Now) -> None:
        if name is None or (name not in self.services and len(self.services) >= MAX_SERVICES):
            return
        service = self.services.setdefault(name, Service(name, now.mono, now.text))
        service.heard, service.heard_at, service.is_down = now.mono, now.text, False

    def _promise(self, opened: Opened, stream: Stream, now: Now) -> None:
        """Note whom a stream follows; a predecessor that is not closed may well live: another process of the spool."""
        head = opened.previous
        if head is None:
            return
        known = self.streams.get(head.stream)
        if known is not None and known.stream != stream.stream:
            known.successor = stream.stream
        standing = self.standing(head.stream)
        if len(self.promises) < MAX_PROMISES and (standing is None or standing.next <= (head.seq or 0)):
            self.promises[head.stream] = Promise(stream.stream, stream.service, head, now.mono)

    def _rewind(self, now: Now) -> None:
        """Moments of an earlier process life, or before a break, mean nothing to this clock."""
        for stream in self.streams.values():
            stream.heard, stream.delays = min(stream.heard, now.mono), []
        for promise in self.promises.values():
            promise.since = now.mono


def group_of(entries: Sequence[Entry]) -> Group:
    """Return what matters of a group commit: passes at the speed of C over lines that are mostly requests."""
    newest = dict(zip(map(_stream_of, entries), entries, strict=True))
    lives = [(frame, payload) for _, frame, payload in entries if frame.type not in APPLICATION_TYPES]
    joins = [
        (frame, payload)
        for _, frame, payload in entries
        if isinstance(payload, AuditRecord) and (payload.cause is not None or payload.call is not None)
    ]
    heard = [(entry.frame, service_of(entry.payload)) for entry in newest.values()]
    newest_lines = [(frame, service) for frame, service in heard if service != COLLECTOR_SERVICE]
    return Group(newest_lines, lives, joins, sightings_of(entries))
