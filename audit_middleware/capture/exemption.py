"""What need not be recorded, why, and until when."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import NamedTuple


class Exemption(NamedTuple):
    """Why requests of an entry point are not recorded, and the last day (UTC) on which that holds."""

    reason: str
    until: date | None = None

    def holds(self, today: date) -> bool:
        """Say whether it still holds."""
        return self.until is None or today <= self.until


def today() -> date:
    """Return the day in UTC."""
    return datetime.now(UTC).date()
