"""When to try again: full jitter, no deadline, no limit of attempts. Nothing is given up for being old."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from audit_middleware.shipping.delivery import MAX_RECORDS

FIRST_S: Final = 0.25
LONGEST_S: Final = 30.0
LONGEST_HELD_S: Final = 300.0  # who-are-you answers need a person, and Retry-After is believed up to here
OPEN_AFTER: Final = 5
SMALLER_FOR_S: Final = 600.0


_uniform: Final = random.SystemRandom().uniform


class Backoff:
    """The circuit of one collector, and how large the next batch may be.

    After `OPEN_AFTER` failures in a row the circuit is open: only a probe of one record goes out at the times the
    backoff gives. After an outage the batch doubles from one record back to full size.
    """

    def __init__(self, monotonic: Callable[[], float], uniform: Callable[[float, float], float] = _uniform) -> None:
        self._monotonic = monotonic
        self._uniform = uniform
        self._failures = 0
        self._try_at = 0.0
        self._limit = MAX_RECORDS
        self._ceiling = MAX_RECORDS
        self._ceiling_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the collector failed so often that only probes are sent."""
        return self._failures >= OPEN_AFTER

    @property
    def wait_s(self) -> float:
        """Seconds until the next attempt may be made."""
        return max(0.0, self._try_at - self._monotonic())

    @property
    def limit(self) -> int:
        """Records the next batch may hold."""
        if self._monotonic() >= self._ceiling_until:
            self._ceiling = MAX_RECORDS
        return 1 if self.is_open else min(self._limit, self._ceiling)

    def succeeded(self) -> None:
        """A receipt was good."""
        if self._failures:
            self._limit = 1
        self._limit = min(MAX_RECORDS, self._limit * 2)
        self._failures = 0
        self._try_at = 0.0

    def failed(self, retry_after: float | None = None) -> None:
        """No receipt: try again later, after what the collector asked for if it did."""
        self._failures += 1
        if retry_after is not None:
            delay = min(retry_after, LONGEST_HELD_S) * (1 + self._uniform(0.0, 0.2))
        else:
            delay = self._uniform(0.0, min(LONGEST_S, FIRST_S * 2.0 ** min(self._failures, 16)))
        self._try_at = self._monotonic() + delay

    def held(self) -> None:
        """The collector does not know us: a person has to act, so ask rarely."""
        self._failures += 1
        delay = min(LONGEST_HELD_S, FIRST_S * 2.0 ** min(self._failures, 16))
        self._try_at = self._monotonic() + self._uniform(delay / 2, delay)

    def too_large(self, records: int) -> None:
        """413: half of that from now on, for a while."""
        self._ceiling = max(1, records // 2)
        self._ceiling_until = self._monotonic() + SMALLER_FOR_S

    def cleared(self) -> None:
        """The line that made batches small is out of the way: they double back to full size."""
        self._limit = 1
        self._ceiling_until = 0.0
