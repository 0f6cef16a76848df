"""What `/metrics` shows of an open collector when somebody asks; what is counted as it happens is in `metrics`."""

from __future__ import annotations

from collections.abc import Callable

from audit_middleware.collector.committer import Committer
from audit_middleware.collector.desk import Desk
from audit_middleware.collector.index_store import IndexStore
from audit_middleware.collector.metrics import Metrics
from audit_middleware.collector.monitoring import Monitoring
from audit_middleware.collector.quarantine import Quarantine
from audit_middleware.collector.storage.stores import Stores


def watch_all(
    metrics: Metrics,
    committer: Committer,
    index: IndexStore,
    quarantine: Quarantine,
    stores: Stores,
    find_desk: Callable[[], Desk | None],
    monitoring: Monitoring | None,
) -> None:
    """Add a gauge for everything that can be read; the desk is another one after a recovery, and none before."""

    def of_streams(read: Callable[[Desk], int]) -> Callable[[], int]:
        def value() -> int:
            desk = find_desk()
            return read(desk) if desk is not None else 0

        return value

    watch = metrics.watch
    watch("audit_queue_bytes", "Bytes of lines that wait for a commit.", lambda: committer.queue_bytes)
    watch("audit_index_lag", "Group commits that are not in the index yet.", lambda: index.lag)
    watch("audit_gaps_open", "Ranges of missing lines.", of_streams(lambda desk: desk.streams.open_gaps))
    watch("audit_streams", "Streams ever seen.", of_streams(lambda desk: desk.streams.count))
    watch("audit_store_worm", "1 if the store was probed and keeps what it is told to.", lambda: stores.is_worm)
    watch("audit_store_strange", "Files found deleted, overwritten or unlocked.", lambda: stores.strange)
    watch("audit_quarantine_bytes", "Bytes of the quarantine.", lambda: quarantine.bytes)
    if monitoring is not None:
        _watch_monitoring(metrics, monitoring)


def _watch_monitoring(metrics: Metrics, monitoring: Monitoring) -> None:
    watch, patroller = metrics.watch, monitoring.patroller
    monitoring.watcher.sinks.append(metrics.count_transition)
    monitoring.alerts.count = metrics.count_alert
    watch("audit_findings_overflowed", "Observations without room.", lambda: monitoring.watcher.overflowed)
    watch("audit_patrol_bytes", "Bytes read again since the start.", lambda: patroller.bytes)
    watch("audit_patrol_entries", "Entries that this pass has come by.", lambda: patroller.progress().entries)
    watch(
        "audit_patrol_pass_seconds", "Time of the last full pass, epoch.", lambda: patroller.patrolled.last_ended or 0
    )
