"""Wires the stations of the way together: one pipeline per policy and process, started by its first record.

Importing or constructing starts nothing and opens nothing: web servers fork after that.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Final

from audit_middleware import config
from audit_middleware.capture.coverage import EntryPoint
from audit_middleware.capture.declared import EVERYWHERE, Declaration, Declared
from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.exemption import today
from audit_middleware.config import Settings
from audit_middleware.errors import JournalError
from audit_middleware.journal.files import REAL_FILES, Files
from audit_middleware.journal.recorder import Recorder
from audit_middleware.record import UNKNOWN, AuditRecord, Principal, Resource, Source, Trace
from audit_middleware.sealing.keys import Keyring
from audit_middleware.shipping.keeper import Keeper

LOGGER: Final = logging.getLogger("audit_middleware")
QUIET_S: Final = 60.0


class Pipeline:
    """Recorder and keeper of one process under one policy, and the policy itself."""

    def __init__(
        self, settings: Settings, service: str, *, keyring: Keyring | None = None, files: Files = REAL_FILES
    ) -> None:
        self.settings = settings
        self.service = settings.service or service
        self.problem_count = 0
        """Requests whose record could not be built as it should have been; a minimal one was written instead."""
        self._own_recorder = Recorder(settings, keyring or settings.keyring(), service=self.service, files=files)
        self._keeper = Keeper(settings, self._own_recorder)
        self._declared = Declared(self._own_recorder, self.contain)
        self._own_declarations: list[Declaration] = []
        self.recorder: Recorder
        self.is_waiting: bool
        """Whether a response waits for more than the journal."""
        self._exempted: set[tuple[str | None, str, str]] = set()
        self._announced = False
        self._quiet_until = 0.0
        self._lets_safe_pass = settings.attempts != "all" and settings.on_failure != "deny"
        self._own_recorder.on_begin = self._start
        _every.add(self)
        global _newest  # noqa: PLW0603 - what middleware or worker of this process made last
        _newest = weakref.ref(self)
        self.follow_diversion()

    def admit(self, exchange: Exchange) -> bool:
        """Append the ``attempt`` record where policy wants one; say whether the application may run."""
        if self._lets_safe_pass and not exchange.is_unsafe:
            return True
        try:
            if self.settings.attempts == "all" or (exchange.is_unsafe and self.settings.attempts == "unsafe"):
                exchange.attempt = self.recorder.append(b"attempt", exchange.attempted())
            elif self._denies(exchange):
                self.recorder.ensure_ready()
        except JournalError:
            exchange.is_attempt_lost = True
        except Exception as error:  # noqa: BLE001 - containment, see contain
            self.contain("an attempt record", error)
            exchange.is_attempt_lost = True
        return not (exchange.is_attempt_lost and self._denies(exchange))

    def vouches(self, exchange: Exchange) -> bool:
        """Say whether the record of ``exchange`` can be kept, as far as can be known now."""
        try:
            self.recorder.ensure_ready()
        except JournalError:
            return False
        return not exchange.is_attempt_lost

    def complete(self, exchange: Exchange) -> int | None:
        """Append the ``request`` record and return its seq; None when policy wants the answer withheld.

        A record given up under policy ``allow`` is -1: counted and explained by the journal.
        """
        recorder = self.recorder
        try:
            try:
                if exchange.exemption is not None and self._is_exempt(exchange):
                    exchange.ask_user = exchange.scope = None  # they refer to what refers to the exchange
                    return -1
                return recorder.append(exchange.record_type, exchange.close(time.perf_counter_ns()))
            except JournalError:
                raise
            except Exception as error:  # noqa: BLE001 - containment, see contain
                self.contain("a record in full", error)
                return recorder.append(exchange.record_type, self._minimal(exchange))
        except JournalError:
            return None if self._denies(exchange) else -1

    def conclude(self, exchange: Exchange) -> bool:
        """Append the ``request`` record, wait for what policy wants; say whether the answer may be completed."""
        seq = self.complete(exchange)
        if seq is None:
            return False
        watermark = self.recorder.watermark if self.is_waiting and seq >= 0 else None
        if watermark is None:
            return True
        self._keeper.wake()
        return watermark.wait(seq, self.settings.wait_timeout) or self._unconfirmed(seq, exchange)

    async def released(self, seq: int, exchange: Exchange) -> bool:
        """Wait until ``seq`` is synced or acknowledged, as the durability wants; say whether to complete the answer."""
        watermark = self.recorder.watermark
        if watermark is None or seq < 0:
            return True
        self._keeper.wake()
        return await watermark.wait_async(seq, self.settings.wait_timeout) or self._unconfirmed(seq, exchange)

    def event(self, record: AuditRecord) -> int:
        """Append an ``event`` record; raise `JournalError` when the journal cannot take it."""
        return self.recorder.append(b"event", record)

    def follow_diversion(self) -> None:
        """Write where `divert` says, or to the recorder of one's own."""
        self.recorder = _diversion(self) if _diversion is not None else self._own_recorder
        self.is_waiting = self.recorder.watermark is not None

    def _is_exempt(self, exchange: Exchange) -> bool:
        """Say whether this request shall not be recorded; that it is exempt is on record once for each stream."""
        exemption = exchange.exemption
        if exemption is None or exchange.attempt is not None or not exemption.holds(today()):
            return False  # an attempt without its outcome would look like a process that was killed
        route = exchange.route or UNKNOWN  # never the path: clients choose it, and what was said is remembered
        key = (self.recorder.stream, exchange.method, route)
        if key not in self._exempted:
            self.event(exchange.event("audit.exempt", resource=("route", route), reason=exemption.reason))
            self._exempted.add((self.recorder.stream, exchange.method, route))
        return True

    def start(self) -> None:
        """Start the keeper before the first record: in a process that ships what its short-lived children leave."""
        self._start()

    def declare(self, component: str, find: Callable[[], Iterable[EntryPoint]], packages: Iterable[str] = ()) -> None:
        """Declare what else can be called in this process, in ``coverage`` records: your own framework, or models.

        ``component`` tells it apart from what the service declares elsewhere. ``find`` is called when the stream has
        begun, on another thread, and again in a process that is forked; what it raises is logged. ``packages`` are
        distributions whose versions matter. What is declared twice under one name is said as one.
        """
        declaration = Declaration(component, find, tuple(packages))
        self._own_declarations.append(declaration)
        self.take(declaration)

    def take(self, declaration: Declaration) -> None:
        """Do the same with what lives as long as its owner: it is said once in each process that writes a stream."""
        self._declared.add(declaration)
        self.say_declared()

    def say_declared(self) -> None:
        """Say what was declared since the stream began, if it has."""
        if self._own_recorder.stream is not None:
            self._say_declared()

    def announce(self) -> None:
        """Begin the stream with what is declared, if anything is, before the first request: nothing waits for it."""
        if self.recorder is self._own_recorder and not self._declared.is_empty:
            self._start()

    def close(self) -> None:
        """Stop the keeper, seal the ``close`` record, try once more to deliver: two seconds at most. Never raises."""
        self._declared.finish()
        self._keeper.stop()

    def _unconfirmed(self, seq: int, exchange: Exchange) -> bool:
        """Nobody confirmed the record in time; say whether the answer may be completed all the same."""
        LOGGER.error("audit: record %d was not confirmed by %s in time", seq, self.settings.durability)
        return not self._denies(exchange)

    def _denies(self, exchange: Exchange) -> bool:
        policy = exchange.on_failure or self.settings.on_failure
        return policy == "deny" or (policy == "auto" and exchange.is_unsafe)

    def _minimal(self, exchange: Exchange) -> AuditRecord:
        """An exchange that cannot be closed still becomes a record, with its defects named."""
        return AuditRecord(
            service=self.service,
            principal=Principal(UNKNOWN, "unknown", "unknown"),
            source=Source(*exchange.source),
            action=UNKNOWN,
            outcome="unknown",
            resource=Resource(UNKNOWN, UNKNOWN),
            trace=Trace(exchange.request_id),
            attempt=exchange.attempt,
            defects=["record", "principal", "action", "outcome", "resource"],
        )

    def contain(self, what: str, error: BaseException) -> None:
        """The one place where an error of our own ends: counted and logged; policy decides as for a full disk."""
        self.problem_count += 1
        LOGGER.error("audit: could not build %s", what, exc_info=error)

    def no_view(self, error: Exception) -> None:
        """Log once a minute that a framework named no view: every request to nowhere ends here while a disk is full."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_S
            what = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            LOGGER.warning("audit: a record cannot be kept, and no view could be asked whether it runs: %s", what)

    def _start(self) -> None:
        """The first record of this process was written: announce, and start the keeper."""
        if not self._announced:
            self._announced = True
            for problem in config.problems(self.settings):
                LOGGER.warning("%s: %s (%s)", *problem)
            atexit.register(self.close)
        self._keeper.start()
        self._say_declared()

    def _say_declared(self) -> None:
        if self.recorder is self._own_recorder:  # what tests look at is what the application did
            self._declared.begin()


_newest: weakref.ref[Pipeline] | None = None
_every: Final[weakref.WeakSet[Pipeline]] = weakref.WeakSet()
_diversion: Callable[[Pipeline], Recorder] | None = None


def divert(diversion: Callable[[Pipeline], Recorder] | None) -> Callable[[Pipeline], Recorder] | None:
    """Let every pipeline, now and later, write to the recorder that ``diversion`` gives it; None ends that.

    For tests that look at what was recorded. Returns what was in force before.
    """
    global _diversion
    before, _diversion = _diversion, diversion
    for pipeline in list(_every):
        pipeline.follow_diversion()
    return before


def declare_everywhere(declaration: Declaration) -> None:
    """Declare what is not of one application, such as models, in each pipeline of this process, now and later.

    It takes the place of an earlier one of the same component, and is said again where that was said.
    """
    EVERYWHERE[:] = [*(each for each in EVERYWHERE if each.component != declaration.component), declaration]
    for pipeline in list(_every):
        pipeline.say_declared()


_shared: dict[tuple[Settings, str], Pipeline] = {}
_shared_lock = threading.Lock()


def shared_pipeline(settings: Settings, service: str, keyring: Keyring | None = None) -> Pipeline:
    """Return this process's pipeline for a policy: every middleware with the same settings writes one stream."""
    with _shared_lock:
        key = (settings, service)
        pipeline = _shared.get(key)
        if pipeline is None:
            pipeline = _shared[key] = Pipeline(settings, service, keyring=keyring)
        return pipeline


def pipeline_at_hand() -> Pipeline:
    """Return the pipeline of this process: what its middleware or worker made last, else one from the environment.

    Raises `ConfigurationError` for an environment that is wrong.
    """
    newest = _newest() if _newest is not None else None
    if newest is not None:
        return newest
    settings = config.load()
    config.check(settings)
    return shared_pipeline(settings, settings.service or os.path.basename(os.getcwd()) or UNKNOWN)


def _new_lock() -> None:
    """A lock that another thread held when the process forked would stay held in the child for ever."""
    global _shared_lock  # noqa: PLW0603 - one for the process, replaced after a fork
    _shared_lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)
