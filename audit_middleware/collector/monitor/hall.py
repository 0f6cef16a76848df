"""The monitor's place in a collector: what it is given, what it may ask for, and who listens to it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, Protocol

from audit_middleware.collector.index_rows import Entry, service_of
from audit_middleware.collector.index_store import Elsewhere
from audit_middleware.collector.monitor.findings import Transition
from audit_middleware.collector.monitor.heard import Find, Group, group_of
from audit_middleware.collector.monitor.watch import LIFE
from audit_middleware.errors import BadLedger, MalformedLine
from audit_middleware.record import COLLECTOR_SERVICE, COLLECTOR_TYPES, Payload
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import Frame, parse_frame

_TYPES: Final = frozenset(name.encode() for name in COLLECTOR_TYPES | LIFE | {"coverage"})
_REACHING: Final = frozenset({b"request", b"task", b"event"})
_TYPE: Final = re.compile(rb'"type":"([a-z]{2,16})"')  # the first one in a line is its own: wire format, section 1
_log: Final = logging.getLogger(__name__)


class Committed(NamedTuple):
    """A group commit: entries of a log from ``first`` on."""

    origin: str
    first: int
    entries: Sequence[Entry]


class HeardLog(Protocol):
    """A log as the watcher reads it."""

    @property
    def origin(self) -> str:
        """Its name."""

    @property
    def size(self) -> int:
        """Entries that are published."""

    def entries(self, first: int, last: int) -> Iterator[bytes]:
        """Yield entries; raises `BadLedger` for a damaged part."""


class Hall(Protocol):
    """What the watcher needs of the collector around it."""

    def heard_logs(self) -> Sequence[HeardLog]:
        """Return every log, oldest period first."""

    def find_stream(self) -> Find:
        """Return what looks up streams in the index."""

    def elsewhere(self) -> Elsewhere | None:
        """Return what tells of other collectors; None when the index is this one's alone."""

    def say(self, payloads: Sequence[Payload]) -> Future[Any]:
        """Put ``review`` records into the ledger; the future's result comes when they are durable.

        Raises `Problem` 503 when nothing is taken now.
        """

    def is_taking(self) -> bool:
        """Whether deliveries are taken."""

    def is_listening(self) -> bool:
        """Whether deliveries are taken, and what is delivered is committed within seconds."""


Sink = Callable[[Transition], None]
"""Called in the watcher's thread with each transition, in order; must not take long, and what it raises is logged.

This is where alerts subscribe. A transition is reported when it happens, and may be reported again after a crash. What
is read from the ledger because the monitor lost its memory is not: `Watcher.findings` has what is open.
"""


def read_group(log: HeardLog, first: int, last: int, *, counts: bool = False) -> Group:
    """Return what matters of some entries of one bundle; a damaged one is the patrol's to name, and is passed over.

    Records are read to be counted only where ``counts`` says so: that takes ten times as long.
    """
    try:
        lines = [line for line in log.entries(first, last) if _matters(line, counts=counts)]
    except BadLedger as error:
        _log.warning("the monitor cannot read entries %d to %d of %s: %s", first, last, log.origin, error)
        return Group([], [])
    group = group_of([Entry(0, frame, payload) for frame, payload in _parsed(lines)])
    return group._replace(newest=[], seen=group.seen if counts else ())


def _matters(line: bytes, *, counts: bool) -> bool:
    """Say whether the monitor has to parse a line; it is asked of every line of a ledger when its memory is lost."""
    type_ = _TYPE.search(line)
    if type_ is None:
        return False
    if counts and type_[1] in _REACHING:
        return True
    if type_[1] == b"request":
        return b'"cause":{' in line
    return type_[1] in _TYPES or (type_[1] == b"call" and b'"carried":true' in line)


def group_of_lives(lines: Sequence[bytes]) -> Group:
    """Return what matters of lines that the index has of another collector; its newest of a stream is the last life."""
    lives = list(_parsed([line for line in lines if (type_ := _TYPE.search(line)) and type_[1] in _TYPES]))
    newest = {frame.stream: (frame, service_of(payload)) for frame, payload in lives if frame.type in LIFE}
    return Group([each for each in newest.values() if each[1] != COLLECTOR_SERVICE], lives)


def _parsed(lines: Sequence[bytes]) -> Iterator[tuple[Frame, Payload]]:
    for line in lines:
        try:
            frame = parse_frame(line)
            yield frame, parse_rec(line, frame)
        except MalformedLine as error:
            _log.warning("the monitor cannot read a line: %s", error)


def write_log(transition: Transition) -> None:
    """Say a transition in the collector's own log; a `Sink`."""
    finding = transition.finding
    level = logging.WARNING if transition.change in {"opened", "reopened"} else logging.INFO
    who = finding.service or finding.stream or finding.about
    _log.log(level, "finding %s %s: %s %s (%s)", finding.id, transition.change, finding.severity, finding.kind, who)
