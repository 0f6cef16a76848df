"""What waits for the watcher besides commits and reports: decisions, questions, and news of its own records."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from audit_middleware.collector.monitor.covered import Coverage
from audit_middleware.collector.monitor.findings import Finding, State
from audit_middleware.collector.problems import busy
from audit_middleware.collector_record import Reviewed


@dataclass(slots=True)
class Decision:
    """What somebody decides about a finding, on its way; ``said`` is its record, once it is durable."""

    id: str
    state: State
    by: str
    note: str | None
    done: Future[Finding] = field(default_factory=Future)
    said: Reviewed | None = None


@dataclass(slots=True)
class Question:
    """Somebody asks how the entry points stand."""

    done: Future[Coverage] = field(default_factory=Future)


class Said(NamedTuple):
    """A submission of records is over, one way or the other."""


def refuse(item: object) -> None:
    """Tell whoever waits for an item that there will be no answer."""
    if isinstance(item, Decision | Question) and not item.done.done():
        item.done.set_exception(busy("collector-closed", "the collector ends"))
