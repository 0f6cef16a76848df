"""The time, twice: for people, and for measuring. The wall clock may be set; the monotonic one only goes on."""

from __future__ import annotations

import time
from typing import NamedTuple

from audit_middleware.sealing.text import timestamp


class Now(NamedTuple):
    """A moment; seconds since the epoch, and of the monotonic clock."""

    wall: float
    mono: float

    @property
    def text(self) -> str:
        """The moment as records spell it."""
        return spell(self.wall)


def spell(wall: float) -> str:
    """Return seconds since the epoch as UTC with microseconds."""
    return timestamp(int(wall * 1_000_000) * 1000).decode()


def real_clock() -> Now:
    """Return the present moment."""
    return Now(time.time(), time.monotonic())
