"""What one adapter of a worker was told, whatever its library: its settings, its pipeline, and how work begins.

The worker's counterpart of `Observer`. Nothing here raises into a task, or into whoever sends one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from audit_middleware.capture.carrying import Replays, sealed_context, task_purpose
from audit_middleware.capture.current import exchange_at_hand
from audit_middleware.capture.declared import Declaration
from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.observer import Observer
from audit_middleware.capture.rules import rules_of
from audit_middleware.capture.work import Work, conclude
from audit_middleware.pipeline import Pipeline
from audit_middleware.record import TaskEnded, TaskKind

CARRIER: Final = "audit_context"
"""Where a sealed context lies beside a task: the name of a header, an option, or an entry of its meta data."""
DEFER_S: Final = 10
"""Seconds after which a task is tried again that policy did not let run, because its record could not be kept."""


class Runs:
    """An adapter's settings and pipeline; ``title`` names the service when no setting does.

    Raises `ConfigurationError` for settings that are wrong or contradict each other.
    """

    def __init__(self, pipeline: Pipeline | None, settings: Mapping[str, Any], title: Callable[[], str | None]) -> None:
        self._observer = Observer(pipeline, None, settings)
        self._title = title
        self._replays = Replays()

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline, made when it is first asked for: in the process that runs the work."""
        return self._observer.pipeline_of(self._title)

    def declare(self, declaration: Declaration) -> None:
        """Declare what can run here, for as long as this adapter lives; nothing is opened or started."""
        self._observer.declare(declaration)

    def begin(  # noqa: PLR0913 - what brokers say of a run, by name
        self,
        name: str,
        kind: TaskKind,
        *,
        id: str | None = None,  # noqa: A002 - what brokers call it
        queue: str | None = None,
        tries: int | None = None,
        sealed: object = None,
        function: object = None,
        is_new: bool = False,
    ) -> Work:
        """Return work that is about to run, for whom its ``sealed`` context names; `admit` it next.

        ``function`` is what runs: what `audited` says of it holds before it is called. ``is_new`` is said of a run that
        no broker delivers twice: a context that came with the same run before is a replay.
        """
        pipeline = self.pipeline
        work = Work(pipeline, name, kind, id=id, queue=queue, tries=tries)
        if sealed is not None:
            work.believe(sealed if isinstance(sealed, str) else "", pipeline)
            if is_new and work.cause is not None and self._replays.is_seen(f"{sealed} {tries}"):
                work.disbelieve("context.replayed")
        work.heed(rules_of(function))
        return work

    def again(self, work: Work, sealed: object) -> None:
        """Say that ``work``, which was not admitted, comes again as it is."""
        self._replays.forget(f"{sealed} {work.tries}")

    def seal(self, name: str, id_: str | None, exchange: Exchange | None = None) -> str | None:
        """Return the sealed context for a task that is being sent by ``exchange``, or the one at hand; None without."""
        exchange = exchange or exchange_at_hand()
        if exchange is None:
            return None
        pipeline = exchange.gate if isinstance(exchange.gate, Pipeline) else self.pipeline
        try:
            return sealed_context(exchange, pipeline.recorder.keyring, task_purpose(name, id_))
        except Exception as error:  # noqa: BLE001 - containment, see Pipeline.contain
            pipeline.contain("the context of a task", error)
            return None

    def end(self, work: Work, ended: TaskEnded, reason: str, began: float | None = None) -> None:
        """Record the end of work that another process ran and can say nothing of any more, or that never ran.

        ``began`` is when it did, in seconds since the epoch.
        """
        work.end = ended
        if began is not None:
            work.started_ns -= int(max(0.0, time.time() - began) * 1e9)
        if work.reason is None:
            work.reason = reason
        conclude(work, self.pipeline)
