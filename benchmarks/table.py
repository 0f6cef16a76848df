"""Medians of interleaved rounds, printed as a table."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

Figure = TypeVar("Figure")


def interleave(variants: Mapping[str, Callable[[], Figure]], rounds: int) -> dict[str, list[Figure]]:
    """Run every variant once a round, in turn, so that a slow moment of the machine hits all of them alike."""
    figures: dict[str, list[Figure]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            figures[name].append(run())
    return figures


def added(figures: Mapping[str, Sequence[float]], base: str) -> dict[str, float]:
    """Return what each variant adds to ``base``: the median of the differences within each round."""
    return {
        name: statistics.median(value - bare for value, bare in zip(values, figures[base], strict=True))
        for name, values in figures.items()
    }


def show(title: str, method: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n## {title}\n\n{method}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
