"""The desk at which groups are committed: judge, keep, say, append, index, answer. One thread owns it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from opentelemetry import trace

from audit_middleware.collector.answer import LogAnswer, log_answer, make_answer
from audit_middleware.collector.auth import Caller
from audit_middleware.collector.group import Batch, Group
from audit_middleware.collector.index_rows import Entry
from audit_middleware.collector.index_store import Batch as IndexBatch
from audit_middleware.collector.index_store import IndexStore
from audit_middleware.collector.ingest import OWN_SERVICE, Judge, Judged
from audit_middleware.collector.limits import Limits
from audit_middleware.collector.logs import Log, Logs
from audit_middleware.collector.memory import Memory
from audit_middleware.collector.metrics import Metrics
from audit_middleware.collector.monitor.hall import Committed
from audit_middleware.collector.own import OwnStream
from audit_middleware.collector.problems import Problem, busy
from audit_middleware.collector.quarantine import ADMITTED, REJUDGED, REVISED, UNDECIDED, Held, Quarantine
from audit_middleware.collector.retention.policy import OWN_CLASS, Policy
from audit_middleware.collector.streams import Streams
from audit_middleware.collector_record import ConflictFound
from audit_middleware.errors import BadLedger
from audit_middleware.journal.segment import peek
from audit_middleware.record import Payload, StreamHead
from audit_middleware.sealing.seal import leaf_hash
from audit_middleware.sealing.text import b64url, timestamp

LASTING: Final = frozenset({"retention", "hold"})
LIFE: Final = frozenset({"open", "beat", "close"})
_RECHECKED: Final = 1000  # lines from quarantine in one group
_log: Final = logging.getLogger(__name__)
_tracer: Final = trace.get_tracer("audit_middleware.collector")


class Desk:
    """Commits groups of deliveries. Whatever it raises leaves the chain in doubt: the process stops accepting."""

    def __init__(
        self,
        own: OwnStream,
        logs: Logs,
        index: IndexStore,
        quarantine: Quarantine,
        *,
        policy: Policy,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self.clock: Callable[[], float] = time.time
        self.on_commit: Callable[[Committed], None] = lambda _committed: None
        """Called after each group commit; must not wait."""

        self.streams = Streams(index.load_stream, limits.streams_in_memory, *index.stream_totals())
        self._keyring = own.keyring
        self._logs = logs
        self._policy = policy
        self._index = index
        self._quarantine = quarantine
        self._metrics = metrics
        self._judge = Judge(own.keyring, self.streams, Memory(index, logs), quarantine)
        self._own = own
        self._numbers: dict[str, int] = {}

    def open(self, name: str) -> None:
        """Begin the collector's own stream, or go on with it; admit what new keys or a new index make good."""
        self._begin_own(name)
        self._say_doubles()
        self._say_unsaid()
        held = [held for held in self._quarantine.held_for("unknown_key") if held.kid in self._keyring.keys]
        is_judged = self._index.has_judged(self._keyring)
        for reason in () if is_judged else REJUDGED:
            held += self._quarantine.held_for(reason)
        held.sort(key=lambda held: (held.stream or "", held.seq or 0))
        for start in range(0, len(held), _RECHECKED):
            some = held[start : start + _RECHECKED]
            with self._index.held(item.stream for item in some if item.stream) as states:
                self.streams.refresh(states)
                self._recheck(some)
        if not is_judged:
            self._index.note_judged(self._keyring)

    def _begin_own(self, name: str) -> None:
        """A process that lives on after a commit that failed is no crash: it goes on with its stream."""
        known = self._index.load_stream(self._own.stream)
        if known is not None and not known.closed:
            self._own.go_on(known.next, known.head)
            self.beat()
            return
        self._own.begin()
        last = self._index.last_stream_of(OWN_SERVICE)
        head = StreamHead(last.stream, last.next - 1, last.head, bool(last.closed)) if last else None
        self._commit_own("open", self._own.opened(name, head))

    def _say_doubles(self) -> None:
        """Name lines for one place that two collectors have admitted while one of them could not tell the other."""
        doubles = self._index.doubles()
        if doubles:
            group = self._new_group()
            for stream, seq, kept, other in doubles:
                self._seal_own(group, "conflict", ConflictFound(OWN_SERVICE, stream, seq, kept=kept, other=other))
            self._append(group)
            self._index.note_doubles()

    def _say_unsaid(self) -> None:
        """Put on record what a crash left in quarantine without one; a second record of a line does no harm."""
        group = self._new_group()
        for held in self._quarantine.unsaid():
            group.say_kept(held)
        for said in group.said:
            self._seal_own(group, said.type, said.payload)
        self._append(group)
        self._quarantine.said()

    def beat(self) -> None:
        """Say that the collector lives."""
        self._commit_own("beat", self._counters())

    def close(self) -> None:
        """Say that the collector ends."""
        if self._own.is_open:
            self._commit_own("close", self._counters())

    def commit(self, batches: Sequence[Batch]) -> None:
        """Commit a group and resolve its batches."""
        with _tracer.start_as_current_span("audit.commit") as span, self._metrics.commit_seconds.time():
            with self._index.held(_streams_of(batches)) as states:
                self.streams.refresh(states)
                group = self._new_group()
                for batch in batches:
                    self._judge_batch(batch, group)
                notes = self._finish(group)
            span.set_attribute("audit.entries", sum(len(part.lines) for part in group.parts))
            span.set_attribute("audit.batches", len(batches))
        for batch in batches:
            self._resolve(batch, group, notes)

    def _new_group(self) -> Group:
        self._index.require_sound()
        now = self.clock()
        known: dict[str, Log] = {}  # a group is committed at one moment

        def log_of(service: str) -> Log:
            log = known.get(service)
            if log is None:
                log = known[service] = self._logs.current(now, self._class_of(service))
            return log

        return Group(log_of, timestamp(int(now * 1_000_000) * 1000).decode())

    def _class_of(self, service: str) -> str:
        return self._policy.own_class if service == OWN_SERVICE else self._policy.class_of(service)

    def _judge_batch(self, batch: Batch, group: Group) -> None:
        """Judge the lines in order; one that cannot be kept ends the batch, which is asked for again."""
        starts = group.ends()
        group.said += batch.said
        self._judge.begin_batch()
        try:
            for line in batch.lines:
                judged = self._judge.judge(line, batch.caller, group.log_of)
                batch.verdicts.append(judged)
                self._take(judged, batch.caller, group)
        except Problem as problem:
            batch.problem = problem
        except BadLedger as error:  # it was read to compare a line with what came before: nothing has moved
            _log.critical("a part of the ledger cannot be read: %s", error)
            batch.problem = busy("ledger-damaged", "what came before cannot be compared; see the log", seconds=60)
        batch.placed = {
            part.log.path: range(starts.get(part.log.path, part.first), part.end)
            for part in group.parts
            if starts.get(part.log.path, part.first) < part.end
        }

    def _take(self, judged: Judged, caller: Caller, group: Group) -> None:
        name = judged.name.decode()
        held = self._quarantine.reason(name)
        if held is None and name in group.held:
            held = group.held[name].reason
        if judged.entry is not None:
            group.admit(judged, judged.entry, caller.name)
        if judged.reason is None:
            if held is not None and name not in group.moves:
                group.moves[name] = ADMITTED
                group.say_quarantined(judged, held, caller.name, admitted=True)
        elif held is None:
            group.keep(judged, judged.reason, caller)
            group.say_quarantined(judged, judged.reason, caller.name)
        elif held in REVISED and judged.reason not in {held, *UNDECIDED} and name not in group.moves:
            group.moves[name] = judged.reason
            group.say_quarantined(judged, judged.reason, caller.name)

    def _recheck(self, held: list[Held]) -> None:
        group = self._new_group()
        self._judge.begin_batch()
        for item in held:
            caller = Caller(item.deliverer, frozenset(item.services), frozenset())
            try:
                judged = self._judge.judge(item.line, caller, group.log_of)
            except BadLedger as error:
                _log.critical("a line in quarantine cannot be judged again: %s", error)
                continue
            self._take(judged, caller, group)
        self._finish(group)

    def _finish(self, group: Group) -> dict[str, bytes]:
        """Make a group durable, in this order: quarantine, ledgers, index; return the notes that cover it, by log."""
        group.say_gaps(self._judge.events)
        group.say_deliveries()
        for said in group.said:
            self._seal_own(group, said.type, said.payload)
        self._quarantine.keep(list(group.held.values()))
        notes = self._append(group)
        for leaf, reason in group.moves.items():
            self._quarantine.move(leaf, reason)
        self._quarantine.said()
        return notes

    def _append(self, group: Group) -> dict[str, bytes]:
        """Append to every log that has a part in the group, the one with the collector's own records last."""
        notes: dict[str, bytes] = {}
        batches: list[IndexBatch] = []
        self._index.require_sound()
        for part in group.parts:
            log = part.log
            commit = log.ledger.append(part.lines, part.leaves)
            notes[log.path] = commit.checkpoint
            batch = IndexBatch(self._number(log.origin), log.origin, commit.first, part.entries, log.ledger.root)
            batches.append(batch._replace(lines=part.lines, leaves=part.leaves))
        if batches:
            states, asides = self.streams.take_moved(), self._judge.asides
            batches[0] = batches[0]._replace(streams=states, asides=asides)
            self._index.put(*batches)
            for batch in batches:
                self.on_commit(Committed(batch.origin, batch.first, batch.entries))
            self._judge.events, self._judge.asides = [], []
        if self.streams.is_crowded:
            self._index.flush()
            self.streams.trim()
        return notes

    def _number(self, origin: str) -> int:
        """Return the number of a log in the index; a new one comes behind those that wait to be written."""
        if origin not in self._numbers:
            self._index.flush()
            number = self._index.log_number(origin)
            while number in self._numbers.values():  # of a log that this commit begins, too
                number += 1
            self._numbers[origin] = number
        return self._numbers[origin]

    def _commit_own(self, type_: str, payload: Payload) -> None:
        group = self._new_group()
        self._seal_own(group, type_, payload)
        self._append(group)

    def _seal_own(self, group: Group, type_: str, payload: Payload) -> None:
        line, frame = self._own.seal(type_, payload)
        leaf = leaf_hash(line)
        stream = self.streams.find(frame.stream) or self.streams.fresh(frame.stream)
        stream.service = OWN_SERVICE
        self.streams.move(stream, frame, b64url(leaf))
        group.add(self._own_log(type_, group), line, leaf, Entry(stream.number, frame, payload))

    def _own_log(self, type_: str, group: Group) -> Log:
        """What the collector says of lines lies beside them; what it says of itself, and of holds, in its own class."""
        if type_ in LASTING:
            return self._logs.current(self.clock(), OWN_CLASS)
        paths = {part.log.class_: part.log for part in group.parts}
        if not paths or type_ in LIFE:
            return group.log_of(OWN_SERVICE)
        return paths[self._policy.longest(paths)]

    def _counters(self) -> Payload:
        log = self._logs.current(self.clock(), self._policy.own_class)
        return self._own.counters(log.ledger.size)

    def _resolve(self, batch: Batch, group: Group, notes: Mapping[str, bytes]) -> None:
        if batch.problem is not None:
            batch.done.set_exception(batch.problem)
            return
        answer = make_answer(batch.verdicts, self._log_answers(batch, group, notes))
        self._own.seen += len(batch.lines)
        self._own.recorded += answer.accepted
        if batch.lines:
            self._metrics.count(answer)
        batch.done.set_result(answer)

    @staticmethod
    def _log_answers(batch: Batch, group: Group, notes: Mapping[str, bytes]) -> list[LogAnswer]:
        """Name the logs of the lines, of duplicates too, whose receipts must be as good.

        Lines that are all in quarantine have none; their sender gets the checkpoint of the default class.
        """
        logs = {judged.log.path: judged.log for judged in batch.verdicts if judged.log is not None}
        if batch.lines and not logs:
            log = group.log_of("")
            logs = {log.path: log}
        return [
            log_answer(each, notes.get(path, each.ledger.checkpoint), batch.placed.get(path, range(0)), batch.sizes)
            for path, each in logs.items()
        ]


def _streams_of(batches: Sequence[Batch]) -> Iterator[str]:
    """Name the streams that lines of a group claim to be of."""
    for batch in batches:
        for line in batch.lines:
            place = peek(line)
            if place is not None:
                yield place[0]
