"""The thread of the monitor: hears what was committed, asks for the time, puts what it finds on record.

The committer hands over and goes on. When it hands over more than is taken, the rest is left out and read from the
ledger: what the watcher knows is always a prefix of each log.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, Final

from audit_middleware.collector.monitor.catching_up import CatchingUp
from audit_middleware.collector.monitor.clock import Now, real_clock, spell
from audit_middleware.collector.monitor.covered import Coverage, coverage_of
from audit_middleware.collector.monitor.findings import Finding, State, Transition
from audit_middleware.collector.monitor.fleet import Fleet
from audit_middleware.collector.monitor.hall import Committed, Hall, Sink, write_log
from audit_middleware.collector.monitor.heard import Heard, group_of
from audit_middleware.collector.monitor.inbox import Decision, Question, Said, refuse
from audit_middleware.collector.monitor.memory import MonitorFile, Patrolled, Remembered
from audit_middleware.collector.monitor.patroller import Report
from audit_middleware.collector.monitor.reports import take_report
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.monitor.watch import Watch
from audit_middleware.collector.problems import Problem, busy
from audit_middleware.collector_record import Reviewed

TICK_SECONDS: Final = 1.0
SAVE_SECONDS: Final = 30.0
COVER_SECONDS: Final = 1.0
MAX_WAITING: Final = 64
"""Group commits that wait to be heard; each keeps its parsed lines in memory."""

SAID_AT_ONCE: Final = 100
"""Records in one submission; a commit has other things to do too."""

_log: Final = logging.getLogger(__name__)


class Watcher:
    """Runs a `Watch` in a thread of its own. What it publishes is immutable, so that any thread may read it."""

    def __init__(
        self,
        settings: MonitorSettings,
        hall: Hall,
        file: MonitorFile,
        *,
        clock: Callable[[], Now] = real_clock,
    ) -> None:
        self.findings: tuple[Finding, ...] = ()
        self.is_ready = False
        """Whether everything up to now is known; before that findings of old may be missing."""

        self.services: tuple[Heard, ...] = ()
        self.coverage = Coverage("")
        """How the entry points stood when it was saved or asked for last."""

        self.since = ""
        """Since when this collector listens without a break."""

        self.ticked_at = float("-inf")
        """When it came round last, of the monotonic clock."""

        self.sinks: list[Sink] = [write_log]
        self.patrolled = Patrolled()
        self._settings = settings
        self._hall = hall
        self._file = file
        self._clock = clock
        self._inbox: queue.SimpleQueue[Committed | Report | Decision | Question | Said | None] = queue.SimpleQueue()
        self._is_quiet = self._is_unheard = self._saying = False
        self._saved_at = 0.0
        self._covered_at = float("-inf")
        self._watch: Watch | None = None
        self._fleet = Fleet(hall.elsewhere())
        self._stopping = threading.Event()
        self._catching_up = CatchingUp(hall, self._stopping)
        self._thread = threading.Thread(target=self._run, name="audit-watcher", daemon=True)

    def start(self) -> None:
        """Start the thread; it begins with what happened since it was here last."""
        found = self._file.load()
        remembered = found or Remembered()
        self._is_quiet = found is None
        self._catching_up.sizes = remembered.sizes
        self.patrolled = remembered.patrolled
        now = self._clock()
        self._watch = Watch(self._settings, self._hall.find_stream(), now, remembered.state, self._fleet.missing)
        self._saved_at = now.mono
        self._thread.start()

    def stop(self) -> None:
        """Remember everything and end the thread."""
        self._stopping.set()
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def take(self, committed: Committed) -> None:
        """Hear of a group commit; never waits."""
        if self._inbox.qsize() < MAX_WAITING:
            self._inbox.put(committed)

    def report(self, report: Report) -> None:
        """Hear from the patrol."""
        self._inbox.put(report)

    def decide(self, id_: str, state: State, by: str, note: str | None) -> Future[Finding]:
        """Acknowledge or resolve a finding; the result comes once that is on record.

        The future's exception is `Undecided`, or a `Problem`: the record cannot be written.
        """
        decision = Decision(id_, state, by, note)
        if self._stopping.is_set() or not self.is_ready:
            decision.done.set_exception(busy("monitor-starting", "the monitor is starting or ending: try again"))
        else:
            self._inbox.put(decision)
        return decision.done

    def ask(self) -> Future[Coverage]:
        """Return how every entry point stands, as of a second ago or now.

        The future's exception is a `Problem`: the monitor is starting or ending.
        """
        question = Question()
        if self._stopping.is_set() or not self.is_ready:
            question.done.set_exception(busy("monitor-starting", "the monitor is starting or ending: try again"))
        else:
            self._inbox.put(question)
        return question.done

    @property
    def overflowed(self) -> int:
        """Observations for which there was no room."""
        return self._watch.book.overflowed if self._watch is not None else 0

    def tells(self, finding: Finding) -> bool:
        """Say whether it is this collector that tells of a finding, among those that share an index."""
        return self._fleet.tells(finding)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._live()
            except Exception:  # noqa: BLE001 - named containment point: a fault of ours must not end the watch
                _log.exception("the monitor failed at something, and goes on")
                self._stopping.wait(TICK_SECONDS)
        self._save()
        self._fleet.end(self._clock())
        while not self._inbox.empty():
            refuse(self._inbox.get())

    def _live(self) -> None:
        """Catch up with the ledgers, then hear and tick until the end."""
        self._catch_up()
        self._become_ready(is_hearing=self._listen_elsewhere(self._clock(), is_listening=False))
        tick_at = self._clock().mono
        while not self._stopping.is_set():
            now = self._clock()
            if now.mono >= tick_at:
                tick_at = now.mono + TICK_SECONDS
                self._tick(now)
            self._hear_next(max(0.0, tick_at - now.mono))

    def _become_ready(self, *, is_hearing: bool) -> None:
        if is_hearing and not self.is_ready:
            self._is_quiet = False
            self._publish()
            self.is_ready = True

    def _listen_elsewhere(self, now: Now, *, is_listening: bool) -> bool:
        """Hear what other collectors committed; say whether everything was heard, now and the last time.

        Who spoke while nothing was heard did so longer ago than it seems: the listening begins behind that.
        """
        watch, fleet = self._watching, self._fleet
        was_watching, was_hearing = fleet.is_watching, fleet.is_hearing
        heard_for, is_last = watch.hearing.listened(now), self._hall.is_taking() and watch.peers.are_away
        sizes, stopping = self._catching_up.sizes, self._stopping
        for told in fleet.listen(sizes, now, heard_for, is_listening=is_listening, is_last=is_last, stopping=stopping):
            self._emit(watch.hear(told.group, self._clock(), is_elsewhere=True))
            for altered in told.altered:
                self._emit(watch.see(altered, now))
        watch.meet(fleet.there, now)
        watch.book.is_changed |= fleet.is_watching != was_watching  # who asks what is told has to look again
        return was_hearing and fleet.is_hearing

    def _hear_next(self, timeout: float) -> None:
        try:
            item = self._inbox.get(timeout=timeout)
        except queue.Empty:
            return
        now = self._clock()
        if isinstance(item, Committed):
            self._emit(self._hear(item, now))
        elif isinstance(item, Decision):
            self._decide(item)
        elif isinstance(item, Question):
            self._cover(now)
            item.done.set_result(self.coverage)
        elif isinstance(item, Said):
            self._saying = False
        elif item is not None:
            self._emit(take_report(self._watching, item, now, self._fleet.is_own))
        self._publish()

    def _tick(self, now: Now) -> None:
        watch = self._watching
        self.ticked_at = now.mono
        for _ in range(self._inbox.qsize()):  # else somebody would be called silent whose lines wait here
            self._hear_next(0.0)
        if self._catching_up.is_behind():
            self._catch_up()
        is_listening = self._hall.is_listening()
        is_hearing = self._listen_elsewhere(now, is_listening=is_listening)
        self._become_ready(is_hearing=is_hearing)
        listens, watches = is_listening and is_hearing, self._fleet.is_watching
        self._emit(watch.tick(now, is_listening=listens, is_hearing=is_hearing, is_watching=watches))
        self.since, self.services = spell(watch.hearing.since.wall), watch.hearing.overview(now)
        self._say()
        self._publish()
        if now.mono - self._saved_at >= SAVE_SECONDS:
            self._saved_at = now.mono
            self._save()
            self._cover(now)

    def _hear(self, committed: Committed, now: Now) -> list[Transition]:
        known = self._catching_up.sizes.get(committed.origin, 0)
        if committed.first > known:
            self._catch_up()
            known = self._catching_up.sizes.get(committed.origin, 0)
        entries = committed.entries[max(0, known - committed.first) :]
        if not entries:
            return []
        self._catching_up.sizes[committed.origin] = committed.first + len(committed.entries)
        return [*self._watching.hear(group_of(entries), now), *self._watching.judge(entries, now)]

    def _catch_up(self) -> None:
        """Read from the ledgers what was not handed over; with a memory that is lost, counts begin anew."""
        for group in self._catching_up.unheard(counts=not self._is_quiet):
            self._emit(self._watching.hear(group, self._clock()))

    def _decide(self, decision: Decision) -> None:
        """Put a decision on record, and take it when it is there."""
        if decision.said is not None:
            book = self._watching.book
            self._emit(book.recall(decision.said))
            self._publish()
            decision.done.set_result(
                book.find(decision.said.kind, decision.said.about) or Finding.recall(decision.said)
            )
            return
        try:
            finding = self._watching.book.decision(decision.id, decision.state, decision.by, decision.note)
            said = self._hall.say([finding.reviewed()])
        except Exception as error:  # noqa: BLE001 - the caller's thread raises it
            decision.done.set_exception(error)
            return
        said.add_done_callback(lambda done: self._decided(decision, finding.reviewed(), done))

    def _decided(self, decision: Decision, review: Reviewed, done: Future[Any]) -> None:
        """Called by the committer's thread."""
        error = done.exception()
        if error is not None:
            decision.done.set_exception(error)
            return
        decision.said = review
        self._inbox.put(decision)

    def _say(self) -> None:
        """Put on record what is not; what fails stays unsaid and is tried again."""
        unsaid = list(islice(filter(self.tells, self._watching.book.unsaid.values()), SAID_AT_ONCE))
        if not unsaid or self._saying:
            return
        try:
            done = self._hall.say([finding.reviewed() for finding in unsaid])
        except Problem as problem:
            level = logging.DEBUG if self._is_unheard else logging.WARNING
            _log.log(level, "findings cannot be put on record now, it is tried again: %s", problem.detail)
            self._is_unheard = True
            return
        self._is_unheard, self._saying = False, True
        done.add_done_callback(lambda _: self._inbox.put(Said()))

    def _emit(self, moved: Sequence[Transition]) -> None:
        for transition in () if self._is_quiet else moved:
            for sink in self.sinks if self.tells(transition.finding) else ():
                try:
                    sink(transition)
                except Exception:  # noqa: BLE001 - named containment point: an alert that fails must not end the watch
                    _log.exception("a sink failed at finding %s", transition.finding.id)

    def _cover(self, now: Now) -> None:
        """Publish how the entry points stand; whoever asks many times within a second gets the same."""
        if now.mono - self._covered_at >= COVER_SECONDS:
            self._covered_at = now.mono
            self.coverage = coverage_of(self._watching.matrix, now)

    def _publish(self) -> None:
        book = self._watching.book
        if book.is_changed:
            book.is_changed = False
            self.findings = tuple(book)

    def _save(self) -> None:
        self._file.save(
            Remembered(sizes=self._catching_up.sizes, state=self._watching.remember(), patrolled=self.patrolled)
        )

    @property
    def _watching(self) -> Watch:
        assert self._watch is not None
        return self._watch
