"""One group commit in the making: lines of several deliveries, and what the collector has to say of them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from audit_middleware.collector.answer import Answer
from audit_middleware.collector.auth import Caller
from audit_middleware.collector.index_rows import Entry
from audit_middleware.collector.ingest import OWN_SERVICE, Judged, LogOf
from audit_middleware.collector.logs import Log
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.quarantine import Held, spell
from audit_middleware.collector.streams import GapEvent, merged
from audit_middleware.collector_record import ConflictFound, Delivery, GapFound, Ingested, Quarantined
from audit_middleware.record import Payload

DELIVERIES_PER_RECORD: Final = 150  # streams one `ingest` record names; more would not fit into a line


class Said(NamedTuple):
    """A record of the collector's own, not sealed yet."""

    type: str
    payload: Payload


@dataclass(slots=True, eq=False)
class Batch:
    """The lines of one request on their way, who sent them, and what becomes of them."""

    lines: list[bytes]
    caller: Caller
    sizes: Mapping[str, int] = field(default_factory=dict)
    done: Future[Answer] = field(default_factory=Future)
    verdicts: list[Judged] = field(default_factory=list)
    problem: Problem | None = None
    said: Sequence[Said] = ()
    """Records of the collector's own, handed over by another thread."""
    placed: dict[str, range] = field(default_factory=dict)
    """Where its new lines are, by the path of their log."""

    @property
    def bytes(self) -> int:
        """Size of the lines."""
        return sum(map(len, self.lines)) + len(self.lines)


@dataclass(slots=True, eq=False)
class Part:
    """What one append to ``log`` will hold, in order."""

    log: Log
    first: int
    lines: list[bytes] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The index that the next line gets."""
        return self.first + len(self.lines)


@dataclass(slots=True)
class Group:
    """Everything that one commit will append to logs, and the lines to keep in quarantine before it."""

    log_of: LogOf
    received: str
    held: dict[str, Held] = field(default_factory=dict)
    moves: dict[str, str] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)
    _parts: dict[str, Part] = field(default_factory=dict)
    _ranges: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    @property
    def parts(self) -> list[Part]:
        """What is to be appended."""
        return list(self._parts.values())

    def ends(self) -> dict[str, int]:
        """Return where each log ends with this group, as far as it has a part in it."""
        return {path: part.end for path, part in self._parts.items()}

    def admit(self, judged: Judged, entry: Entry, deliverer: str) -> None:
        """Add an admitted line."""
        assert judged.log is not None
        self.add(judged.log, judged.line, judged.leaf, entry)
        ranges = self._ranges.setdefault(deliverer, {})
        seq = entry.frame.seq
        known = ranges.setdefault(entry.frame.stream, [seq, seq, 0])
        known[0], known[1], known[2] = min(known[0], seq), max(known[1], seq), known[2] + 1

    def add(self, log: Log, line: bytes, leaf: bytes, entry: Entry) -> None:
        """Add a line without saying who delivered it."""
        part = self._parts.get(log.path)
        if part is None:
            part = self._parts[log.path] = Part(log, log.ledger.size)
        part.lines.append(line)
        part.leaves.append(leaf)
        part.entries.append(entry)

    def keep(self, judged: Judged, reason: str, caller: Caller) -> None:
        """Set a line aside that is not in quarantine yet."""
        name = judged.name.decode()
        stream, seq = judged.place or (None, None)
        self.held[name] = Held(
            leaf=name,
            reason=reason,
            base64=spell(judged.line),
            received=self.received,
            deliverer=caller.name,
            services=sorted(caller.services),
            kid=judged.frame.kid if judged.frame else None,
            stream=stream,
            seq=seq,
            kept=judged.kept.decode() if reason == "conflict" and judged.kept else None,
        )

    def say_kept(self, held: Held) -> None:
        """Name a line that lies in quarantine since before a crash."""
        leaf, stream, seq = held.leaf, held.stream, held.seq
        found = Quarantined(OWN_SERVICE, leaf, held.reason, held.deliverer, stream=stream, seq=seq)
        self.said.append(Said("quarantine", found))
        if held.kept is not None and stream is not None and seq is not None:
            self.said.append(Said("conflict", ConflictFound(OWN_SERVICE, stream, seq, kept=held.kept, other=leaf)))

    def say_quarantined(self, judged: Judged, reason: str, deliverer: str, *, admitted: bool = False) -> None:
        """Name a line that was set aside, or that is admitted now; a conflict is a finding of its own."""
        stream, seq = judged.place or (None, None)
        state: Literal["kept", "admitted"] = "admitted" if admitted else "kept"
        name = judged.name.decode()
        found = Quarantined(OWN_SERVICE, name, reason, deliverer, state=state, stream=stream, seq=seq)
        self.said.append(Said("quarantine", found))
        if reason == "conflict" and judged.kept and stream is not None and seq is not None:
            kept = judged.kept.decode()
            self.said.append(Said("conflict", ConflictFound(OWN_SERVICE, stream, seq, kept=kept, other=name)))

    def say_gaps(self, events: list[GapEvent]) -> None:
        """Name the gaps that opened or were filled."""
        for event in merged(events):
            state: Literal["open", "filled"] = "open" if event.is_open else "filled"
            self.said.append(Said("gap", GapFound(OWN_SERVICE, event.stream, event.first, event.last, state)))

    def say_deliveries(self) -> None:
        """Name who delivered what."""
        for deliverer, ranges in self._ranges.items():
            parts = [Delivery(stream, *known) for stream, known in ranges.items()]
            for some in _chunks(parts):
                self.said.append(Said("ingest", Ingested(OWN_SERVICE, deliverer, self.received, some)))


def _chunks(parts: list[Delivery]) -> Iterator[list[Delivery]]:
    for start in range(0, len(parts), DELIVERIES_PER_RECORD):
        yield parts[start : start + DELIVERIES_PER_RECORD]
