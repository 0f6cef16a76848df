"""The thread that patrols the store, without haste: what is new every second, the rest at a bounded rate.

A damaged file, or a store that fails, is reported and never ends the patrol. While the store is away the pass waits
where it is: what could not be read was not looked at.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

import msgspec

from audit_middleware.collector.monitor.clock import spell
from audit_middleware.collector.monitor.memory import Patrolled
from audit_middleware.collector.monitor.patrol import (
    AT_ONCE,
    FEW_AT_ONCE,
    Damage,
    PatrolledLog,
    Unit,
    check_archived,
    check_edge,
    check_unit,
    newest,
    units,
)
from audit_middleware.collector.storage import read_cost
from audit_middleware.errors import AuditError, StorageError, StoreUnavailable
from audit_middleware.tlog.tiles import WIDTH

TURN_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 10.0
"""Between two passes; a small store would else be read without end."""

WORM_SECONDS: Final = 60.0
REMOTE_TURNS: Final = 3
"""Where a read is a request over a network, what is new is looked at in every third turn: still within five seconds."""

BUSY_ENTRIES: Final = 500
"""While a log grows by more in a turn, a store over a network is read less: the collector's processor is wanted."""

BUSY_TURNS: Final = 8
SHARE: Final = 0.5
"""Of each second at most; a slow disk is given its rest."""

ARCHIVED_BYTES: Final = 64 * 1024  # what reading one archived checkpoint and its proof costs, about
_log: Final = logging.getLogger(__name__)


@runtime_checkable
class Worm(Protocol):
    """A store that claims to be write-once; one that does not claim it need not have this."""

    def worm_failure(self) -> str | None:
        """Return why what is written could be changed or deleted now, None while it cannot.

        Asked about once a minute, by one thread; may take its time. A `StorageError` is a failure too.
        """


class Sound(NamedTuple):
    """A condition that was reported may be over: this is as it should be."""

    kind: str
    about: str


class PassEnded(NamedTuple):
    """Everything stored was looked at; what was not found damaged since ``began`` is not damaged."""

    began: float


Report = Damage | Sound | PassEnded


class Commits(NamedTuple):
    """The commits of the collector ``name``; ``blocked`` says why none is taken until somebody sees to it."""

    name: str
    blocked: Callable[[], str]

    @property
    def report(self) -> Damage | Sound:
        """Say how they stand now; what a store reads well it need not take."""
        why = self.blocked()
        damage = Damage("store", self.name, "commits", why)
        return damage if why else Sound(damage.kind, damage.about)


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far the present pass has come; times as records spell them."""

    entries: int
    total: int
    log: str | None = None
    began: str | None = None
    last_full_pass: str | None = None
    last_full_pass_seconds: int | None = None


class Patroller:
    """Looks at every log again and again, and reports. `turn` is one second's work; a thread of its own calls it.

    ``logs`` lists those that hold something. The pass has ``bytes_per_second`` to itself, of which a read over a
    network takes what it costs; what is new costs a few bundles of each log more.
    """

    def __init__(
        self,
        logs: Callable[[], Sequence[PatrolledLog]],
        bytes_per_second: int,
        report: Callable[[Report], None],
        *,
        commits: Commits | None = None,
        patrolled: Patrolled | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patrolled = patrolled or Patrolled()
        self.bytes = 0
        self._logs = logs
        self._rate = bytes_per_second
        self._report = report
        self._commits = commits
        self._said: Report | None = None
        self._wall = wall
        self._monotonic = monotonic
        self._steps: Iterator[int] = iter(())
        self._suspects: dict[str, set[Unit]] = {}
        self._is_stuck = False
        self._reached: set[str] = set()
        self._turns = 0
        self._size = 0
        self._is_sparing = False
        self._pass_at = 0.0
        self._worm_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-patrol", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def progress(self) -> Progress:
        """Return how far the present pass has come; may be called from any thread."""
        logs, at = list(self._logs()), self.patrolled
        sizes = {log.origin: log.checkpoint().size for log in logs}
        before = [size for origin, size in sizes.items() if origin < at.log] if at.log else []
        here = min(at.index * WIDTH, sizes.get(at.log, 0)) if at.level == 0 else 0
        took = int(at.last_ended - at.last_began) if at.last_ended and at.last_began else None
        return Progress(
            entries=sum(before) + here,
            total=sum(sizes.values()),
            log=at.log or None,
            began=spell(at.began) if at.began else None,
            last_full_pass=spell(at.last_ended) if at.last_ended else None,
            last_full_pass_seconds=took,
        )

    def turn(self) -> None:
        """Look at what is new, then go on with the pass for as long as rate and time allow."""
        began = self._monotonic()
        self._ask_commits()
        if began >= self._worm_at:
            self._worm_at = began + WORM_SECONDS
            self._ask_stores()
        logs = list(self._logs())
        self._is_sparing = self._grows_fast(logs) and any(read_cost(log.store) for log in logs)
        if all(self._reach(log) for log in logs) and not (self._is_sparing and self._turns % BUSY_TURNS):
            self._go_on(began)
        self._turns += 1

    def _grows_fast(self, logs: Sequence[PatrolledLog]) -> bool:
        before, self._size = self._size, sum(log.checkpoint().size for log in logs)
        return self._size - before > BUSY_ENTRIES

    def _ask_commits(self) -> None:
        now = self._commits.report if self._commits is not None else None
        if now is not None and (isinstance(now, Damage) or now != self._said):
            self._report(now)
        self._said = now

    def _reach(self, log: PatrolledLog) -> bool:
        """Look at what is new in a log; say whether its store is there."""
        every = REMOTE_TURNS if read_cost(log.store) else 1
        if self._turns % every and log.origin in self._reached:
            return True
        try:
            self._look_at_newest(log, self._turns // every)
        except StoreUnavailable as error:
            self._miss(log.origin, error)
            return False
        if log.origin not in self._reached and not self._is_stuck:
            self._reached.add(log.origin)
            self._report(Sound("store", f"{log.origin} store"))
        return True

    def _go_on(self, began: float) -> None:
        spent = 0
        while spent < self._rate and self._monotonic() - began < SHARE * TURN_SECONDS:
            try:
                step = next(self._steps, None)
            except StoreUnavailable as error:
                self._is_stuck, self._steps = True, iter(())
                self._miss(self.patrolled.log, error)
                break
            if step is None and not self._begin_pass():
                break
            if step is not None:
                self._is_stuck = False
            spent += step or 0

    def _miss(self, origin: str, error: StoreUnavailable) -> None:
        self._reached.discard(origin)
        self._report(Damage("store", origin, "store", str(error)))

    def _run(self) -> None:
        while not self._stopping.wait(TURN_SECONDS):
            try:
                self.turn()
            except Exception:  # noqa: BLE001 - named containment point: what fails here must not end the patrol
                _log.exception("the patrol of the store failed, and goes on")
                self._steps = iter(())

    def _look_at_newest(self, log: PatrolledLog, number: int) -> None:
        known: dict[str, bytes] = {}
        for damage in check_edge(log, known):
            self._tell(log, damage)
        for unit in newest(log.checkpoint().size, number, FEW_AT_ONCE if self._is_sparing else AT_ONCE):
            self._check(log, unit, known)

    def _begin_pass(self) -> bool:
        """Begin the next pass, or take up the one that a restart cut off; say whether there is one to begin."""
        if self._monotonic() < self._pass_at:
            return False
        if self.patrolled.began is None:
            self.patrolled.began = self._wall()
            self.patrolled.log, self.patrolled.level = "", -1
        self._steps = self._pass(self.patrolled.began)
        return True

    def _pass(self, began: float) -> Iterator[int]:
        """Look at everything, yielding what each step cost, in bytes."""
        at = self.patrolled
        start = Unit(at.level, at.index) if at.level >= 0 else None
        for log in sorted(self._logs(), key=lambda each: each.origin):
            if log.origin < at.log:
                continue
            resumed = start if log.origin == at.log else None
            at.log = log.origin
            for unit in units(log.checkpoint().size, resumed):
                at.level, at.index = unit.level, unit.number
                yield self._check(log, unit)
                if not self._is_there(log):
                    break
            yield from self._check_archive(log)
        self._report(PassEnded(began))
        at.last_began, at.last_ended, at.began = began, self._wall(), None
        at.log, at.level = "", -1
        self._pass_at = self._monotonic() + PAUSE_SECONDS

    def _check(self, log: PatrolledLog, unit: Unit, known: dict[str, bytes] | None = None) -> int:
        damage, spent = check_unit(log, unit, self._suspects.setdefault(log.origin, set()), known)
        self.bytes += spent.bytes
        if damage is not None:
            self._tell(log, damage)
        return sum(spent)

    def _tell(self, log: PatrolledLog, damage: Damage) -> None:
        """Report what was found, unless the log has expired while it was looked at: then its files may go."""
        if self._is_there(log):
            self._report(damage)

    def _is_there(self, log: PatrolledLog) -> bool:
        return any(each.origin == log.origin for each in self._logs())

    def _check_archive(self, log: PatrolledLog) -> Iterator[int]:
        try:
            for key in log.store.keys("checkpoints/"):
                damage = check_archived(log, key, self._suspects.get(log.origin, set()))
                if damage is not None:
                    self._tell(log, damage)
                self.bytes += ARCHIVED_BYTES
                yield ARCHIVED_BYTES + read_cost(log.store)
        except StoreUnavailable:
            raise
        except StorageError as error:
            self._tell(log, Damage("tampering", log.origin, "checkpoints", str(error)))

    def _ask_stores(self) -> None:
        for log in self._logs():
            if isinstance(log.store, Worm):
                try:
                    failure = _worm_failure(log.store)
                except StoreUnavailable as error:
                    self._miss(log.origin, error)
                    return
                seen = Damage("worm", log.origin, "store", failure or "")
                self._report(seen if failure else Sound("worm", seen.about))


def _worm_failure(store: Worm) -> str | None:
    try:
        return store.worm_failure()
    except StoreUnavailable:
        raise
    except AuditError as error:
        return str(error)
