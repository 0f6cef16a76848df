"""Lines of an access log against records, one to one: by request id, else by method, path, status and time. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple

from audit_middleware.cli.access_log import Witnessed

LINE_SECONDS: Final = 1.0
"""A time in a log is cut to its second."""

UNENDED_SECONDS: Final = 600.0
"""How long after an attempt a line can be the end of it that its process did not live to record."""


class Recorded(NamedTuple):
    """One request on record: from when to when it ran, in seconds since the epoch; ``ids``, ours and the client's."""

    began: float
    ended: float
    method: str
    path: str
    status: int | None
    ids: tuple[str, ...]


class Matched(NamedTuple):
    """How many lines are on record, how many of them with another status, and those that are not."""

    recorded: int
    differing: int
    bypassed: list[Witnessed]


def recorded(record: Mapping[str, Any]) -> Recorded | None:
    """Return what a ``request`` or ``attempt`` record says, None for one of no HTTP request."""
    http, trace = record["rec"].get("http"), record["rec"]["trace"]
    if not http:
        return None
    ended = datetime.fromisoformat(record["ts"]).timestamp()
    longest = 0.0 if record["type"] == "request" else UNENDED_SECONDS
    ids = tuple(str(trace[name]) for name in ("request_id", "client_request_id") if trace.get(name))
    began = ended - (http.get("duration_us") or 0) / 1_000_000
    return Recorded(began, ended + longest, http["method"], http["path"], http.get("status"), ids)


def match(lines: Sequence[Witnessed], records: Iterable[Recorded], tolerance: float) -> Matched:
    """Give each line a record of its own, and as many lines as possible one.

    A line with the id of a record is that request, if method and path agree. ``tolerance`` is how far clocks may be
    apart, in seconds. Where a status differs, such as 499 of a client that left, the same method, path and time is
    taken last.
    """
    free = dict(enumerate(records))
    rest = _by_id(lines, free)
    unlike = _by_time(rest, free, tolerance, is_exact=True)
    bypassed = _by_time(unlike, free, tolerance, is_exact=False)
    return Matched(len(lines) - len(bypassed), len(unlike) - len(bypassed), sorted(bypassed))


def _by_id(lines: Iterable[Witnessed], free: dict[int, Recorded]) -> list[Witnessed]:
    named = {(id_, each.method, each.path): number for number, each in free.items() for id_ in each.ids}
    rest = []
    for line in lines:
        number = named.get((line.request_id or "", line.method, line.path))
        if number is None or free.pop(number, None) is None:
            rest.append(line)
    return rest


def _by_time(
    lines: Iterable[Witnessed], free: dict[int, Recorded], tolerance: float, *, is_exact: bool
) -> list[Witnessed]:
    """Match lines and records of one method and path, and of one status if that is asked for; return what is left."""
    asked: dict[tuple[Any, ...], list[Witnessed]] = defaultdict(list)
    for line in lines:
        asked[line.method, line.path, line.status if is_exact else None].append(line)
    kept: dict[tuple[Any, ...], list[tuple[float, float, int]]] = defaultdict(list)
    for number, each in free.items():
        key = (each.method, each.path, each.status if is_exact else None)
        kept[key].append((each.began - tolerance - LINE_SECONDS, each.ended + tolerance, number))
    left = []
    for key, some in asked.items():
        left += _assign(some, kept.get(key, []), free)
    return left


def _assign(
    lines: Iterable[Witnessed], spans: Iterable[tuple[float, float, int]], free: dict[int, Recorded]
) -> list[Witnessed]:
    """Give each line, first come first, the record that ends first of those that ran then: no choice is better."""
    waiting, left = sorted(spans, reverse=True), []
    running: list[tuple[float, int]] = []
    timed = sorted((line for line in lines if line.at is not None), key=lambda line: line.at or 0.0)
    for line in timed:
        at = line.at or 0.0
        while waiting and waiting[-1][0] <= at:
            _, end, number = waiting.pop()
            heappush(running, (end, number))
        while running and running[0][0] < at:
            heappop(running)
        if running:
            del free[heappop(running)[1]]
        else:
            left.append(line)
    return left + _assign_untimed([line for line in lines if line.at is None], spans, free)


def _assign_untimed(
    lines: Sequence[Witnessed], spans: Iterable[tuple[float, float, int]], free: dict[int, Recorded]
) -> list[Witnessed]:
    """Count: a log without times says how often only."""
    numbers = [number for _, _, number in spans if number in free][: len(lines)]
    for number in numbers:
        del free[number]
    return list(lines[len(numbers) :])
