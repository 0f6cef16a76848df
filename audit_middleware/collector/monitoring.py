"""The monitor inside a collector: what it hears and reads, what it puts on record, what it shows, whom it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from audit_middleware.collector.alerts.alerts import Alerts
from audit_middleware.collector.auth import Caller
from audit_middleware.collector.committer import Committer
from audit_middleware.collector.folder import DataFolder
from audit_middleware.collector.group import Batch, Said
from audit_middleware.collector.index_store import Elsewhere, IndexStore
from audit_middleware.collector.logs import Log, Logs
from audit_middleware.collector.monitor.clock import Now, real_clock
from audit_middleware.collector.monitor.findings import Finding
from audit_middleware.collector.monitor.hall import HeardLog
from audit_middleware.collector.monitor.heard import Find, Standing
from audit_middleware.collector.monitor.memory import MonitorFile
from audit_middleware.collector.monitor.patroller import Commits, Patroller
from audit_middleware.collector.monitor.watcher import Watcher
from audit_middleware.collector.problems import Problem, busy
from audit_middleware.collector.settings import CollectorSettings
from audit_middleware.collector.storage import Store
from audit_middleware.record import COLLECTOR_SERVICE, Payload
from audit_middleware.tlog.checkpoint import Checkpoint
from audit_middleware.tlog.note import Verifier

STILL_SECONDS: Final = 30.0
"""A watcher ticks every second; one that did not for so long stands still."""

_NOBODY: Final = Caller(COLLECTOR_SERVICE, frozenset(), frozenset())


@dataclass(frozen=True, slots=True)
class LogView:
    """A log as watcher and patrol read it; what was signed is taken from the memory of the ledger."""

    log: Log

    @property
    def origin(self) -> str:
        """Its name."""
        return self.log.origin

    @property
    def store(self) -> Store:
        """Where its files lie."""
        return self.log.store

    @property
    def verifier(self) -> Verifier:
        """Its key."""
        return self.log.verifier

    @property
    def size(self) -> int:
        """Entries that are published."""
        return self.log.ledger.size

    def checkpoint(self) -> Checkpoint:
        """Return what was published last."""
        return self.log.ledger.published

    def signed(self) -> Checkpoint:
        """Return what was signed last."""
        return self.log.ledger.signed

    def kept_notes(self) -> tuple[bytes | None, bytes | None]:
        """Return checkpoint and guard as their files hold them."""
        return self.log.ledger.kept_notes()

    def entries(self, first: int, last: int) -> Iterator[bytes]:
        """Yield entries; raises `BadLedger` for a damaged part."""
        return self.log.ledger.entries(first, last)


class StreamFinder:
    """Looks streams up in the index; one thread at a time."""

    def __init__(self, index: IndexStore) -> None:
        self._lookup = index.lookup()

    def __call__(self, stream: str) -> Standing | None:
        """Return where a stream stands; None when it was never seen, or nobody can tell now."""
        found = self._lookup.find(stream)
        return Standing(*found) if found else None

    def close(self) -> None:
        """Close the connection; the next look-up opens one."""
        self._lookup.close()


class Monitoring:
    """Watcher, patrol and alerts of one open collector, and the `Hall` in which they listen."""

    def __init__(
        self,
        settings: CollectorSettings,
        folder: DataFolder,
        logs: Logs,
        index: IndexStore,
        committer: Committer,
        *,
        clock: Callable[[], Now] = real_clock,
    ) -> None:
        self._logs = logs
        self._index = index
        self._clock = clock
        self._finder = StreamFinder(index)
        self._submit = committer.submit
        self.is_taking: Callable[[], bool] = lambda: committer.state == "ready"
        self.is_listening: Callable[[], bool] = lambda: committer.is_keeping_up
        self.watcher = Watcher(settings.monitor, self, MonitorFile(folder.monitor, folder.seed), clock=clock)
        commits = Commits(folder.name, lambda: committer.blocked)
        self.patroller = Patroller(self._stored, settings.monitor.patrol_bytes, self.watcher.report, commits=commits)
        self.alerts = Alerts(
            settings.alerts,
            folder.alerts,
            collector=folder.name,
            seed=folder.seed,
            look=self.known,
            tells=self.watcher.tells,
            is_alive=self.is_alive,
        )
        self.watcher.sinks.append(self.alerts.hear)

    def start(self) -> None:
        """Start everything."""
        self.watcher.start()
        self.patroller.patrolled = self.watcher.patrolled
        self.patroller.start()
        self.alerts.start()

    def stop(self) -> None:
        """End everything, remembering all of it."""
        self.alerts.stop()
        self.patroller.stop()
        self.watcher.stop()
        self._finder.close()

    def known(self) -> tuple[Finding, ...] | None:
        """Return all findings; None until everything up to now is known."""
        return self.watcher.findings if self.watcher.is_ready else None

    def findings(self) -> tuple[Finding, ...]:
        """Return all findings; raises `Problem` 503 until everything up to now is known."""
        if not self.watcher.is_ready:
            raise busy("monitor-starting", "the monitor reads what happened before: try again", seconds=2)
        return self.watcher.findings

    def is_alive(self) -> bool:
        """Say whether deliveries are taken and committed, and the watcher comes round."""
        return self.is_listening() and self._clock().mono - self.watcher.ticked_at < STILL_SECONDS

    def heard_logs(self) -> Sequence[HeardLog]:
        """Return every log, oldest period first."""
        return [LogView(log) for log in self._logs]

    def find_stream(self) -> Find:
        """Return what looks up streams in the index."""
        return self._finder

    def elsewhere(self) -> Elsewhere | None:
        """Return what tells of other collectors, with a connection of its own."""
        return self._index.elsewhere()

    def say(self, payloads: Sequence[Payload]) -> Future[Any]:
        """Hand ``review`` records to the committer; raises `Problem` 503 when nothing is taken now."""
        batch = Batch([], _NOBODY, said=[Said("review", payload) for payload in payloads])
        self._submit(batch)
        return batch.done

    def _stored(self) -> list[LogView]:
        return [view for log in self._logs if (view := LogView(log)).size]


def required(monitoring: Monitoring | None) -> Monitoring:
    """Return the monitor that there is; raise `Problem` 404 without one."""
    if monitoring is None:
        raise Problem(404, "monitor-off", "this collector runs without its monitor: [monitor] enabled = false")
    return monitoring
