"""Sets of numbers as sorted ranges, both ends included. Pure."""

from __future__ import annotations

from collections.abc import Sequence

Range = tuple[int, int]


def added(ranges: Sequence[Range], first: int, last: int) -> list[Range]:
    """Return the ranges with ``first`` to ``last`` in them; those that touch are one."""
    apart = [known for known in ranges if known[1] < first - 1 or known[0] > last + 1]
    joined = [known for known in ranges if known not in apart]
    low = min([first, *(known[0] for known in joined)])
    high = max([last, *(known[1] for known in joined)])
    return sorted([*apart, (low, high)])


def removed(ranges: Sequence[Range], first: int, last: int) -> list[Range]:
    """Return the ranges without ``first`` to ``last``."""
    sides = [side for low, high in ranges for side in ((low, min(high, first - 1)), (max(low, last + 1), high))]
    return sorted({(low, high) for low, high in sides if low <= high})


def size_of(ranges: Sequence[Range]) -> int:
    """Return how many numbers there are."""
    return sum(last - first + 1 for first, last in ranges)
