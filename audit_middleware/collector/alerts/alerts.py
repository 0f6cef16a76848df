"""All sinks of one collector."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from audit_middleware.collector.alerts.memory import MemoryFile
from audit_middleware.collector.alerts.senders import make_alertmanager, make_beater, make_sender
from audit_middleware.collector.alerts.settings import (
    AlertmanagerAlerts,
    AlertSettings,
    HeartbeatAlerts,
    TellingSettings,
)
from audit_middleware.collector.alerts.tasks import Heartbeat, Look, Telling, Tells
from audit_middleware.collector.alerts.worker import Result, SinkStatus, Task, Worker
from audit_middleware.collector.monitor.findings import Transition


class Alerts:
    """The workers. Construction raises `ConfigurationError` for a secret that is not there."""

    def __init__(
        self,
        settings: Sequence[AlertSettings],
        folder: Path,
        *,
        collector: str,
        seed: bytes,
        look: Look,
        tells: Tells = lambda _: True,
        is_alive: Callable[[], bool],
    ) -> None:
        self.count: Callable[[str, Result], None] = lambda _name, _result: None
        """Called with the name of a sink and the result of each message."""

        self._folder = folder
        self._collector = collector
        self._seed = seed
        self._look = look
        self._tells = tells
        self._is_alive = is_alive
        self._workers = [
            Worker(name, kind, task, pause=_pause(each), count=self._count)
            for each in settings
            for name, kind, task in self._tasks(each)
        ]

    def hear(self, transition: Transition) -> None:  # noqa: ARG002 - what is told is what the findings say then
        """Look at the findings soon; a `Sink` of the monitor, which never waits."""
        for worker in self._workers:
            worker.wake()

    def start(self) -> None:
        """Start every worker."""
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """End every worker; what was not told is told after the next start."""
        for worker in self._workers:
            worker.stop()

    def statuses(self) -> list[SinkStatus]:
        """Return how each sink does."""
        return [worker.status for worker in self._workers]

    def _count(self, name: str, result: Result) -> None:
        self.count(name, result)

    def _tasks(self, each: AlertSettings) -> list[tuple[str, str, Task]]:
        if isinstance(each, HeartbeatAlerts):
            beater = make_beater(each, os.environ)
            return [
                (each.name, "heartbeat", self._heartbeat(lambda: beater.now().beat(), each.every_seconds, beater.close))
            ]
        file = MemoryFile(self._folder / f"{each.name}.json", self._seed)
        kind = str(each.__struct_config__.tag)
        tasks: list[tuple[str, str, Task]] = [(each.name, kind, self._telling(each, file))]
        if isinstance(each, AlertmanagerAlerts) and each.heartbeat:
            manager = make_alertmanager(each, os.environ)
            beat = self._heartbeat(lambda: manager.now().beat(self._collector), each.repeat_seconds, manager.close)
            tasks.append((f"{each.name}/heartbeat", "heartbeat", beat))
        return tasks

    def _telling(self, each: TellingSettings, file: MemoryFile) -> Telling:
        sender = make_sender(each, os.environ)
        return Telling(sender, each.rules, self._collector, self._look, file, self._tells)

    def _heartbeat(self, beat: Callable[[], str], every: float, close: Callable[[], None]) -> Heartbeat:
        return Heartbeat(beat, every, self._is_alive, close)


def _pause(each: AlertSettings) -> float:
    return min(1.0, each.every_seconds / 4) if isinstance(each, HeartbeatAlerts) else 1.0
