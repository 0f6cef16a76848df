"""What the workers do: tell of findings, and say that the collector lives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from audit_middleware.collector.alerts.door import Sender
from audit_middleware.collector.alerts.memory import MemoryFile
from audit_middleware.collector.alerts.rules import Announcer, Rules
from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.findings import Finding

Look = Callable[[], Sequence[Finding] | None]
"""Returns all findings; None while they are not known."""

Tells = Callable[[Finding], bool]
"""Says whether this collector tells of a finding, and not another one that shares the index."""


class Telling:
    """A `Task`: tells one sink what is due. What it was told is remembered before the next message."""

    def __init__(
        self, sender: Sender, rules: Rules, collector: str, look: Look, file: MemoryFile, tells: Tells
    ) -> None:
        self._sender = sender
        self._announcer = Announcer(rules, collector, file.load(), tells)
        self._look = look
        self._file = file

    def turn(self, now: Now) -> str | None:
        """Look, and send at most one message."""
        findings = self._look()
        draft = self._announcer.draft(findings, now) if findings is not None else None
        if draft is None:
            return None
        answer = self._sender.send(draft.message)
        self._announcer.confirm(draft, now)
        self._file.save(self._announcer.told or {})
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._sender.close()


class Heartbeat:
    """A `Task`: says every so many seconds that the collector works, and nothing when it does not."""

    def __init__(
        self, beat: Callable[[], str], every: float, is_alive: Callable[[], bool], close: Callable[[], None]
    ) -> None:
        self.close = close
        self._beat = beat
        self._every = every
        self._is_alive = is_alive
        self._at = float("-inf")

    def turn(self, now: Now) -> str | None:
        """Beat, if it is time and there is a heart."""
        if now.mono - self._at < self._every or not self._is_alive():
            return None
        answer = self._beat()
        self._at = now.mono
        return answer
