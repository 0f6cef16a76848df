"""Search: parameters become a `Query`, which is pure; `Reader` asks the index where, and the ledger what."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

import msgspec

from audit_middleware.collector.index_rows import split_id
from audit_middleware.collector.index_store import Hit
from audit_middleware.collector.problems import Problem, busy
from audit_middleware.errors import StorageError

MAX_LIMIT: Final = 500
DEFAULT_LIMIT: Final = 100
MAX_VALUE: Final = 4096
PAGE_BYTES: Final = 4 * 1024 * 1024  # of lines and proofs; a page that reaches it ends there, with a cursor
READ_WAIT: Final = 2.0  # seconds a search waits for the index to take what was answered before it
SEARCH_SECONDS: Final = 10.0  # after that a search is given up: it holds a thread
INCLUDES: Final = ("line", "proof")
EQUALS: Final = ("service", "principal", "action", "outcome", "ip", "request_id", "trace_id", "type")
PARAMETERS: Final = (*EQUALS, "resource", "stream", "from", "to", "limit", "cursor", "include")
_CURSOR: Final = re.compile(r"(-?[0-9]{1,18})\.([0-9]{1,19})")
EVER: Final = (-(1 << 63), (1 << 63) - 1)
_DIGITS: Final = re.compile(r"[0-9]{1,4}")


class Query(NamedTuple):
    """A search: conditions in SQL with their values, how many records, and what comes with each."""

    conditions: tuple[str, ...] = ()
    values: tuple[str | int, ...] = ()
    limit: int = DEFAULT_LIMIT
    include: frozenset[str] = frozenset()
    span: tuple[int, int] = EVER
    """Microseconds since the epoch of the oldest and newest record that could match."""

    def of_services(self, services: frozenset[str]) -> Query:
        """Return the same search among the records of some services."""
        names = tuple(sorted(services))
        condition = f"service IN ({', '.join('?' * len(names))})"
        return self._replace(conditions=(*self.conditions, condition), values=(*self.values, *names))


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record that was found: where it stands and what it says."""

    log: str
    index: int
    record: msgspec.Raw
    line: str | None = None
    proof: str | None = None


class Page(msgspec.Struct, frozen=True):
    """Records, newest first; ``next`` is the cursor of the page behind this one."""

    records: list[Found]
    next: str | None


def parse_query(items: Iterable[tuple[str, str]]) -> Query:
    """Return the search that the parameters describe; raise `Problem` 400 naming the one that is wrong."""
    given: dict[str, str] = {}
    for name, value in items:
        if name not in PARAMETERS:
            raise _bad(name, f"is not a parameter; expected one of {', '.join(PARAMETERS)}")
        if name in given:
            raise _bad(name, "is there twice")
        if not value or len(value) > MAX_VALUE:
            raise _bad(name, f"expected 1 to {MAX_VALUE} characters")
        given[name] = value
    conditions = [_condition(name, value) for name, value in given.items() if name not in {"limit", "include"}]
    return Query(
        tuple(sql for sql, _ in conditions),
        tuple(value for _, values in conditions for value in values),
        _limit(given.get("limit", str(DEFAULT_LIMIT))),
        _include(given.get("include")),
        _span(given),
    )


class SearchedIndex(Protocol):
    """The index as a search needs it."""

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the index has what was answered before; raise `StorageError` when it is broken."""

    def select(self, query: Query) -> list[Hit]:
        """Return the newest matches, one more than asked for; raises `StorageError`."""


class SearchedLog(Protocol):
    """A log as a search needs it; both raise `BadLedger` for what is damaged."""

    def entry(self, index: int) -> bytes:
        """Return one sealed line."""

    def proof(self, index: int) -> bytes:
        """Return the tlog-proof of an entry."""


class SearchedLogs(Protocol):
    """The logs an index speaks of."""

    def by_origin(self, origin: str) -> SearchedLog | None:
        """Return the log of an origin."""


class Reader:
    """Answers searches; safe from any thread."""

    def __init__(self, index: SearchedIndex, logs: SearchedLogs) -> None:
        self._index = index
        self._logs = logs

    def search(self, query: Query) -> Page:
        """Return one page; raises `Problem` 503 when the index is broken, `BadLedger` for a damaged entry."""
        try:
            self._index.flush(READ_WAIT)
            hits = self._index.select(query)
        except StorageError as error:
            raise busy("index-unusable", str(error), seconds=30) from error
        found: list[Found] = []
        size = 0
        for hit in hits[: query.limit]:
            found.append(self._found(hit, query.include))
            size += _size(found[-1])
            if size >= PAGE_BYTES:
                break
        is_last = len(found) == len(hits)
        return Page(found, None if is_last else f"{hits[len(found) - 1].ts}.{hits[len(found) - 1].id}")

    def _found(self, hit: Hit, include: frozenset[str]) -> Found:
        """Return a record as its ledger has it; one in the ledger of another collector, which gives no proof here."""
        index = split_id(hit.id)[1]
        log = None if hit.line is not None else self._log(hit.origin)
        line = hit.line if log is None else log.entry(index)
        assert line is not None
        return Found(
            log=hit.origin,
            index=index,
            record=msgspec.Raw(line),
            line=line.decode() if "line" in include else None,
            proof=log.proof(index).decode() if log is not None and "proof" in include else None,
        )

    def _log(self, origin: str) -> SearchedLog:
        log = self._logs.by_origin(origin)
        if log is None:
            raise StorageError(f"the index names the log {origin}, which is not here")
        return log


def _size(found: Found) -> int:
    return len(bytes(found.record)) + len(found.line or "") + len(found.proof or "")


def _condition(name: str, value: str) -> tuple[str, tuple[str | int, ...]]:
    if name in EQUALS:
        return f"{name} = ?", (value,)
    if name == "resource":
        return _resource(value)
    if name == "stream":
        return "stream = (SELECT number FROM streams WHERE stream = ?)", (value,)
    if name == "cursor":
        return _cursor(value)
    return ("ts >= ?" if name == "from" else "ts < ?"), (_time(name, value),)


def _resource(value: str) -> tuple[str, tuple[str | int, ...]]:
    """``42`` finds an id of any type, ``order:42`` also the id 42 of type order."""
    type_, colon, id_ = value.partition(":")
    if not colon:
        return "resource_id = ?", (value,)
    return "(resource_id = ? OR (resource_id = ? AND resource_type = ?))", (value, id_, type_)


def _cursor(value: str) -> tuple[str, tuple[str | int, ...]]:
    match = _CURSOR.fullmatch(value)
    if match is None or int(match[2]) >= 1 << 63:
        raise _bad("cursor", "expected the value of `next` in an answer")
    return "(ts, id) < (?, ?)", (int(match[1]), int(match[2]))


def _time(name: str, value: str) -> int:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise _bad(name, "expected a date or time such as 2026-11-23 or 2026-11-23T07:00:00Z") from error
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds


def _span(given: Mapping[str, str]) -> tuple[int, int]:
    oldest, newest = EVER
    if "from" in given:
        oldest = _time("from", given["from"])
    if "to" in given:
        newest = _time("to", given["to"]) - 1
    if "cursor" in given:
        newest = min(newest, int(given["cursor"].partition(".")[0]))
    return oldest, newest


def _limit(value: str) -> int:
    if not _DIGITS.fullmatch(value) or not 1 <= int(value) <= MAX_LIMIT:
        raise _bad("limit", f"expected a number from 1 to {MAX_LIMIT}")
    return int(value)


def _include(value: str | None) -> frozenset[str]:
    names = frozenset(value.split(",") if value else ())
    if names - set(INCLUDES):
        raise _bad("include", f"expected some of {','.join(INCLUDES)}")
    return names


def _bad(name: str, expectation: str) -> Problem:
    return Problem(400, "bad-parameter", f"{name[:64]}: {expectation}")
