"""A collector: opens the data folder, takes lines, answers for them. It needs no HTTP."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Final, Self

from audit_middleware.collector.access import Accesses, RateLimit
from audit_middleware.collector.answer import Answer
from audit_middleware.collector.auth import OPEN_DOOR, Caller, Tokens
from audit_middleware.collector.catchup import Progress, catch_up, check_index, report_every
from audit_middleware.collector.committer import Committer, State
from audit_middleware.collector.desk import Desk
from audit_middleware.collector.folder import DataFolder
from audit_middleware.collector.gauges import watch_all
from audit_middleware.collector.group import Batch
from audit_middleware.collector.indexes import open_index
from audit_middleware.collector.logs import Logs
from audit_middleware.collector.metrics import Metrics
from audit_middleware.collector.monitor.covered import Coverage
from audit_middleware.collector.monitor.findings import Finding
from audit_middleware.collector.monitor.findings import State as FindingState
from audit_middleware.collector.monitor.hall import Sink
from audit_middleware.collector.monitoring import Monitoring, required
from audit_middleware.collector.own import OwnStream
from audit_middleware.collector.problems import busy
from audit_middleware.collector.quarantine import Quarantine
from audit_middleware.collector.query import Reader
from audit_middleware.collector.retention.keeper import Retention
from audit_middleware.collector.settings import CollectorSettings
from audit_middleware.collector_record import AccessKind
from audit_middleware.errors import StorageError, StoreUnavailable

PROGRESS_SECONDS: Final = 5.0
_log: Final = logging.getLogger(__name__)


class Collector:
    """Owns logs, quarantine, index and the committing thread of one data folder.

    Opening raises `ConfigurationError`, `StorageError` (in use, damaged, an index of other logs), `RollbackDetected`,
    `BadSignature` or `BadLedger`. Methods may be called from any thread.
    """

    def __init__(self, settings: CollectorSettings, *, progress: Progress | None = None) -> None:
        self.settings = settings
        self.tokens = Tokens(settings.tokens)
        self.metrics = Metrics()
        self.reads = RateLimit(settings.limits.reads_per_second)
        self.intake = RateLimit(settings.limits.records_per_second)
        self._progress = progress or report_every(PROGRESS_SECONDS, time.monotonic, _log_progress)
        self._open: _Open | None = None

    def open(self, *, wait: float | None = None) -> Self:
        """Open everything and start; wait at most ``wait`` seconds (None: as long as it takes) until it is ready.

        A second call does nothing. Raises `StorageError` too if it fails at getting ready meanwhile.
        """
        if self._open is None:
            self._open = _Open(self.settings, self.metrics, self._progress)
        if not self._open.committer.wait_until_ready(wait) and self.state == "failed":
            reason = self.reason
            self.close()
            raise StorageError(reason)
        return self

    def close(self) -> None:
        """Commit what waits, end the collector's own stream, close everything."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What it is called: as the settings say, or else as its data folder was called after its host."""
        return self._opened.folder.name

    @property
    def state(self) -> State:
        """Whether it takes batches."""
        return self._open.committer.state if self._open else "closed"

    @property
    def reason(self) -> str:
        """Why it does not, for people."""
        return self._open.committer.reason if self._open else "the collector is closed"

    @property
    def has_index(self) -> bool:
        """Whether the index is where it was; without it searches fail, and deliveries go on."""
        return self._opened.index.is_there

    @property
    def store(self) -> tuple[str, bool]:
        """Where the tiles are, for people, and whether that is WORM."""
        stores = self._opened.folder.stores
        return stores.label, stores.is_worm

    @property
    def logs(self) -> Logs:
        """The logs."""
        return self._opened.logs

    @property
    def retention(self) -> Retention:
        """What goes, and what is held."""
        return self._opened.retention

    @property
    def reader(self) -> Reader:
        """The search."""
        return self._opened.reader

    @property
    def vkeys(self) -> list[str]:
        """The verifier key of every log."""
        return self.logs.vkeys

    @property
    def monitoring(self) -> Monitoring | None:
        """The monitor; None when the settings turn it off."""
        return self._opened.monitoring

    def subscribe(self, sink: Sink) -> None:
        """Tell ``sink`` of every transition of a finding from now on, as the contract of `Sink` says."""
        if self.monitoring is not None:
            self.monitoring.watcher.sinks.append(sink)

    def findings(self) -> tuple[Finding, ...]:
        """Return all findings; raises `Problem` 503 until the monitor knows them all, 404 without a monitor."""
        return self._required_monitoring.findings()

    def coverage(self) -> Future[Coverage]:
        """Return how every entry point stands; raises `Problem` 404, and so does the future with 503."""
        return self._required_monitoring.watcher.ask()

    def decide(self, id_: str, state: FindingState, by: str, note: str | None) -> Future[Finding]:
        """Acknowledge or resolve a finding; the result comes once that is on record. Raises `Problem` 404."""
        return self._required_monitoring.watcher.decide(id_, state, by, note)

    @property
    def _required_monitoring(self) -> Monitoring:
        if self._open is None:
            raise busy("collector-closed", self.reason, seconds=30)
        return required(self._open.monitoring)

    def note_access(self, by: str, kind: AccessKind, what: str, source: str) -> None:
        """Count that somebody read something, or was not let in; it is on record a few seconds later."""
        if self._open is not None:
            self._open.accesses.note(by, kind, what, source)

    def record_access(self, by: str, kind: AccessKind, what: str, source: str) -> Future[Answer]:
        """Put one access on record; the future has come when it is durable. Raises `Problem` 503."""
        return self._opened.accesses.record(by, kind, what, source).done

    def require_ready(self) -> None:
        """Raise `Problem` 503 unless batches are taken and the index is complete."""
        if self._open is None:
            raise busy("collector-closed", self.reason, seconds=30)
        self._open.committer.require_ready()

    def exposition(self) -> bytes:
        """Return the metrics as text."""
        for log in self.logs:
            self.metrics.ledger_size.labels(log.origin).set(log.ledger.size)
        if self._opened.monitoring is not None:
            self.metrics.show(self._opened.monitoring)
        return self.metrics.exposition()

    def submit(self, lines: list[bytes], caller: Caller, sizes: Mapping[str, int]) -> Future[Answer]:
        """Hand over the lines of one request; raises `Problem` 503 when nothing is taken now.

        The future's answer comes after fsync; its exception is a `Problem`.
        """
        batch = Batch(lines, caller, sizes)
        self._opened.committer.submit(batch)
        return batch.done

    def deliver(
        self, lines: Sequence[bytes], caller: Caller = OPEN_DOOR, sizes: Mapping[str, int] | None = None
    ) -> Answer:
        """Deliver lines and wait for the answer; raises `Problem`."""
        return self.submit(list(lines), caller, sizes or {}).result()

    @property
    def _opened(self) -> _Open:
        if self._open is None:
            raise RuntimeError("the collector is not open")
        return self._open


class _Open:
    """What an open collector holds, closed in reverse."""

    def __init__(self, settings: CollectorSettings, metrics: Metrics, progress: Progress) -> None:
        self.folder = DataFolder(settings)
        try:
            self.folder.stores.check()
            self.logs = Logs(self.folder)
            self.logs.publish_vkeys()
            self.quarantine = Quarantine(self.folder.quarantine, settings.limits.quarantine_bytes)
            self.index = open_index(settings.index, self.folder)
        except BaseException:
            self._close_files()
            raise
        try:
            self._check_index()
        except BaseException:
            self.index.close()
            self._close_files()
            raise
        self.reader = Reader(self.index, self.logs)
        self._settings = settings
        self._metrics = metrics
        self._progress = progress
        self._desk: Desk | None = None
        self._own = OwnStream(settings.keyring)
        self.committer = Committer(self, settings.limits)
        self.accesses = Accesses(self.committer.submit)
        self.retention = self._new_retention()
        self.monitoring = self._new_monitoring() if settings.monitor.enabled else None
        parts = (self.committer, self.index, self.quarantine, self.folder.stores)
        watch_all(metrics, *parts, lambda: self._desk, self.monitoring)
        self.committer.start()
        self.accesses.start()
        if self.monitoring is not None:
            self.monitoring.start()

    def _check_index(self) -> None:
        """Refuse an index of others at once; one that is away is checked when it answers, and waited for."""
        try:
            check_index(self.index, self.logs)
        except StoreUnavailable as error:
            _log.warning("the collector waits: %s", error)

    def start(self) -> None:
        """Catch up with the ledgers, then open the collector's own stream, or go on with it."""
        limits = self._settings.limits
        catch_up(self.index, self.logs, self.quarantine, limits.streams_in_memory, self._progress)
        self._desk = Desk(
            self._own,
            self.logs,
            self.index,
            self.quarantine,
            policy=self._settings.policy,
            limits=limits,
            metrics=self._metrics,
        )
        if self.monitoring is not None:
            self._desk.on_commit = self.monitoring.watcher.take
        self._desk.open(self.folder.name)
        self.retention.start()

    def recover(self) -> None:
        """Go on as after a restart, which finishes what a failed commit left, or finds that it never began."""
        self.index.recover()
        self.logs.recover()
        self.start()

    def commit(self, batches: Sequence[Batch]) -> None:
        """Commit a group."""
        self.desk.commit(batches)

    def beat(self) -> None:
        """Say that the collector lives."""
        self.desk.beat()

    def stop(self) -> None:
        """End the collector's own stream."""
        self.desk.close()

    @property
    def desk(self) -> Desk:
        """The desk, once `start` has come that far."""
        assert self._desk is not None
        return self._desk

    def close(self) -> None:
        self.retention.stop()
        self.accesses.stop()
        if self.monitoring is not None:
            self.monitoring.stop()
        self.committer.close()
        self.index.close()
        self._close_files()

    def _new_retention(self) -> Retention:
        settings = self._settings
        return Retention(
            settings.policy,
            settings.keyring,
            self.logs,
            self.index,
            self.quarantine,
            submit=self.committer.submit,
            sweeps=settings.retention_sweep,
        )

    def _new_monitoring(self) -> Monitoring:
        return Monitoring(self._settings, self.folder, self.logs, self.index, self.committer)

    def _close_files(self) -> None:
        try:
            if hasattr(self, "logs"):
                self.logs.close()
        finally:
            self.folder.close()


def _log_progress(done: int, total: int) -> None:
    _log.info("index: %d of %d entries", done, total)
