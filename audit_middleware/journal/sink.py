"""Where a stream's writer puts its lines: what the journal on disk and the one in memory have in common."""

from __future__ import annotations

from typing import Protocol

from audit_middleware.journal.syncing import SyncTicket


class LineSink(Protocol):
    """Where sealed lines go: a `Journal` on disk or a `MemoryJournal`."""

    def append(self, line: bytes) -> None:
        """Keep the line or raise `JournalError` and keep nothing of it."""

    def begin_sync(self) -> SyncTicket | None:
        """Say what has to be synced; None when nothing has."""

    def end_sync(self, ticket: SyncTicket, error: OSError | None) -> None:
        """Note how syncing the ticket went."""

    def check(self) -> str | None:
        """Say what somebody else did to the files; None when nothing."""

    def restore_reserve(self) -> None:
        """Make the reserve for the next full disk."""

    def close(self) -> None:
        """Let the stream go."""

    def discard(self) -> None:
        """Remove what was begun: no line was written."""

    def abandon(self) -> None:
        """Close descriptors, nothing else: this is a forked child."""
