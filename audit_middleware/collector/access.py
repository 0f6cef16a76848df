"""Who read what the collector keeps, and who was not let in: `access` records in the collector's own stream.

A search is on record before its answer leaves. Everything that comes in crowds, such as the files that one
verification reads, is counted and recorded every few seconds. Nothing here waits for the committer but a search.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from audit_middleware.collector.answer import Answer
from audit_middleware.collector.auth import Caller
from audit_middleware.collector.group import Batch, Said
from audit_middleware.collector.problems import Problem
from audit_middleware.collector_record import Accessed, AccessKind
from audit_middleware.record import COLLECTOR_SERVICE
from audit_middleware.sealing.text import timestamp

NOBODY: Final = "unknown"
MAX_WHAT: Final = 2048
MAX_KEYS: Final = 1000
OTHERS: Final = "(others)"
"""What stands for everything beyond `MAX_KEYS` within one interval: the counts stay right."""

FLUSH_SECONDS: Final = 5.0
SAID_AT_ONCE: Final = 200
_log: Final = logging.getLogger(__name__)
_NOBODY: Final = Caller(COLLECTOR_SERVICE, frozenset(), frozenset())


class Key(NamedTuple):
    """What accesses are counted by."""

    by: str
    kind: AccessKind
    what: str
    source: str


@dataclass(slots=True)
class _Count:
    first: str
    last: str
    number: int


class AccessBook:
    """Counts accesses until somebody takes them. Pure but for its lock; any thread may note."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._counts: dict[Key, _Count] = {}

    def note(self, key: Key, moment: str) -> None:
        """Count one access at ``moment``, spelled as records spell it."""
        self._add(key, moment, moment, 1)

    def put_back(self, taken: Sequence[Accessed]) -> None:
        """Count again what was taken and could not be put on record."""
        for each in taken:
            self._add(Key(each.by, each.kind, each.what, each.source), each.first, each.last, each.count)

    def _add(self, key: Key, first: str, last: str, number: int) -> None:
        with self._turn:
            known = self._counts.get(key)
            if known is None and len(self._counts) >= MAX_KEYS:
                key = Key(OTHERS, key.kind, OTHERS, OTHERS)
                known = self._counts.get(key)
            if known is None:
                self._counts[key] = _Count(first, last, number)
            else:
                known.first, known.last = min(known.first, first), max(known.last, last)
                known.number += number

    def take(self) -> list[Accessed]:
        """Return what was counted since the last call."""
        with self._turn:
            counts, self._counts = self._counts, {}
        return [accessed(key, count.number, count.first, count.last) for key, count in counts.items()]


def accessed(key: Key, count: int, first: str, last: str) -> Accessed:
    """Return the payload of an `access` record."""
    return Accessed(
        service=COLLECTOR_SERVICE,
        by=key.by,
        kind=key.kind,
        what=_shown(key.what),
        source=key.source,
        count=count,
        first=first,
        last=last,
    )


class Accesses:
    """Puts accesses on record; ``submit`` hands a batch to the committer."""

    def __init__(self, submit: Callable[[Batch], None]) -> None:
        self._submit = submit
        self._book = AccessBook()
        self._is_refused = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-access", daemon=True)

    def start(self) -> None:
        """Record what was counted every `FLUSH_SECONDS` from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Record what is left, and end."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()

    def note(self, by: str, kind: AccessKind, what: str, source: str) -> None:
        """Count an access."""
        self._book.note(Key(by[:128], kind, _shown(what), source[:64]), _now())

    def record(self, by: str, kind: AccessKind, what: str, source: str) -> Batch:
        """Hand one access over at once; the batch's ``done`` says when it is durable. Raises `Problem` 503."""
        moment = _now()
        batch = _batch([accessed(Key(by, kind, what, source), 1, moment, moment)])
        self._submit(batch)
        return batch

    def flush(self) -> None:
        """Hand over what was counted; what cannot be taken now, or was not committed, is counted again."""
        counted = self._book.take()
        for start in range(0, len(counted), SAID_AT_ONCE):
            some = counted[start : start + SAID_AT_ONCE]
            batch = _batch(some)
            batch.done.add_done_callback(partial(self._done, some))
            try:
                self._submit(batch)
            except Problem as problem:
                self._keep(some, problem)

    def _done(self, some: list[Accessed], done: Future[Answer]) -> None:
        """A commit that failed may be on record all the same: then what it held is there twice, rather than never."""
        error = done.exception()
        if error is not None:
            self._keep(some, error)
        else:
            self._is_refused = False

    def _keep(self, some: list[Accessed], why: BaseException) -> None:
        level = logging.DEBUG if self._is_refused else logging.WARNING
        _log.log(level, "accesses are not on record yet, it is tried again: %s", why)
        self._is_refused = True
        self._book.put_back(some)

    def _run(self) -> None:
        while not self._over.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except Exception:  # noqa: BLE001 - named containment point: nothing here may end recording
                _log.exception("accesses could not be recorded")


class RateLimit:
    """So much a second for each name, with bursts of twice that; 0 is no limit. Bounded memory."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_second
        self._burst = max(1.0, 2 * per_second)
        self._clock = clock
        self._turn = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, name: str, cost: float = 1) -> float:
        """Take ``cost`` if anything is left, on credit what is more; return 0, or the seconds after which there is."""
        if not self._rate:
            return 0.0
        now = self._clock()
        with self._turn:
            left, at = self._left.get(name, (self._burst, now))
            left = min(self._burst, left + (now - at) * self._rate)
            if len(self._left) >= MAX_KEYS and name not in self._left:
                self._left.pop(next(iter(self._left)))
            self._left[name] = (left - cost if left >= 1 else left, now)
        return 0.0 if left >= 1 else (1 - left) / self._rate


def _batch(payloads: list[Accessed]) -> Batch:
    said: list[Any] = [Said("access", payload) for payload in payloads]
    return Batch([], _NOBODY, said=said)


def _now() -> str:
    return timestamp(time.time_ns()).decode()


def _shown(what: str) -> str:
    return what.encode("utf-8", "replace").decode()[:MAX_WHAT]
