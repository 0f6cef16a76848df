"""What the collector counts, in a registry of its own (``/metrics``)."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from audit_middleware.collector.alerts.worker import Result
from audit_middleware.collector.answer import Answer
from audit_middleware.collector.monitor.covered import Coverage
from audit_middleware.collector.monitor.findings import STATES, Transition
from audit_middleware.collector.monitor.kinds import KINDS
from audit_middleware.collector.monitoring import Monitoring

MAX_SERVICES_SHOWN: Final = 100
"""Whose entry points have a gauge: a producer may invent services, where its token is for all of them."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The metrics of one collector; gauges are read when somebody asks."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._accepted = Counter("audit_records_accepted", "Records appended to a log.", registry=registry)
        self._duplicates = Counter("audit_records_duplicate", "Records that were there already.", registry=registry)
        self._quarantined = Counter(
            "audit_records_quarantined", "Lines set aside, by reason.", ["reason"], registry=registry
        )
        self._batches = Counter("audit_batches", "Batches answered with 200.", registry=registry)
        self.refused = Counter(
            "audit_requests_refused", "Requests answered with a problem.", ["kind"], registry=registry
        )
        self.commit_seconds = Histogram(
            "audit_commit_seconds", "Time of one group commit.", buckets=_SECONDS, registry=registry
        )
        self.ledger_size = Gauge("audit_ledger_size", "Entries of a log.", ["origin"], registry=registry)
        self.findings = Gauge("audit_findings", "Findings.", ["kind", "severity", "state"], registry=registry)
        self.coverage = Gauge("audit_coverage_entry_points", "Entry points.", ["service", "state"], registry=registry)
        self._transitions = Counter(
            "audit_finding_transitions", "States that findings entered.", ["kind", "change"], registry=registry
        )

        self._alert_messages = Counter(
            "audit_alert_messages", "Messages to alert sinks.", ["sink", "result"], registry=registry
        )
        self._alert_failures = Gauge(
            "audit_alert_failures", "Failures of a sink in a row.", ["sink", "kind"], registry=registry
        )
        self._alert_success = Gauge(
            "audit_alert_success_seconds",
            "When a sink took a message, epoch.",
            ["sink", "kind"],
            registry=registry,
        )

    def count_alert(self, sink: str, result: Result) -> None:
        """Count a message to a sink."""
        self._alert_messages.labels(sink, result).inc()

    def count_transition(self, transition: Transition) -> None:
        """Count that a finding entered a state."""
        self._transitions.labels(transition.finding.kind, transition.change).inc()

    def show(self, monitoring: Monitoring) -> None:
        """Set what the monitor shows; kinds without a finding are there, with 0."""
        tally = Tally((each.kind, each.severity, each.state) for each in monitoring.watcher.findings)
        usual = {(name, kind.severity, state) for name, kind in KINDS.items() for state in STATES}
        self.findings.clear()
        for labels in usual | set(tally):
            self.findings.labels(*labels).set(tally[labels])
        self._show_coverage(monitoring.watcher.coverage)
        for status in monitoring.alerts.statuses():
            self._alert_failures.labels(status.name, status.kind).set(status.failures)
            self._alert_success.labels(status.name, status.kind).set(status.last_success_at)

    def _show_coverage(self, coverage: Coverage) -> None:
        """Set how entry points stood within the last half minute, of no more services than a store of metrics takes."""
        self.coverage.clear()
        for service in coverage.services[:MAX_SERVICES_SHOWN]:
            for state, number in service.states.items():
                self.coverage.labels(service.service, state).set(number)

    def count(self, answer: Answer) -> None:
        """Count what a batch brought."""
        self._batches.inc()
        self._accepted.inc(answer.accepted)
        self._duplicates.inc(answer.duplicates)
        for reason, number in Tally(line.reason for line in answer.quarantined).items():
            self._quarantined.labels(reason).inc(number)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that ``read`` answers for."""
        Gauge(name, text, registry=self._registry).set_function(read)

    def exposition(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)
