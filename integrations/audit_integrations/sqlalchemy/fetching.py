"""Rows on their way from the driver to the application: their keys are on record before they are handed over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy, ResultFetchStrategy

from audit_integrations.sqlalchemy.plans import Seen
from audit_middleware.capture import DataTrail, Rows
from audit_middleware.errors import RequestRefused
from audit_middleware.pipeline import LOGGER

_GROWTH: Final = 5
_MAX_AHEAD: Final = 1000
"""Rows read ahead of an application that takes one by one: one at first, then five times as many, up to these."""


class RecordedFetch(ResultFetchStrategy):
    """Fetches as the strategy below it does, and says which rows these were; one record for each fetch and model."""

    __slots__ = ("_ahead", "_below", "_buffer", "_keys", "_reads", "_trail")

    def __init__(self, below: Any, result: Any, reads: Sequence[Seen], trail: DataTrail) -> None:  # noqa: ANN401 - as above
        self._below = below
        self._reads = reads
        self._trail = trail
        self._keys = {seen.label: _readers(result, seen) for seen in reads}
        self._buffer: deque[Any] = deque()
        self._ahead = 1

    @property
    def alternate_cursor_description(self) -> Any:  # type: ignore[override] # an attribute there # noqa: ANN401 - of any type
        """What the strategy below says."""
        return self._below.alternate_cursor_description

    def soft_close(self, result: Any, dbapi_cursor: Any) -> None:  # noqa: ANN401 - SQLAlchemy's signature
        """Close, unless rows that were read ahead are left."""
        if not self._buffer:
            self._below.soft_close(result, dbapi_cursor)

    def hard_close(self, result: Any, dbapi_cursor: Any) -> None:  # noqa: ANN401 - as above
        """Close."""
        self._buffer.clear()
        self._below.hard_close(result, dbapi_cursor)

    def yield_per(self, result: Any, dbapi_cursor: Any, num: int) -> None:  # noqa: ANN401 - as above
        """Take so many at a time."""
        self._below.yield_per(result, dbapi_cursor, num)
        if result.cursor_strategy is not self:
            self._below, result.cursor_strategy = result.cursor_strategy, self

    def fetchone(self, result: Any, dbapi_cursor: Any, hard_close: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - as above
        """Return one row, or None."""
        if not self._buffer:
            rows = self._below.fetchmany(result, dbapi_cursor, self._ahead)
            self._ahead = min(self._ahead * _GROWTH, _MAX_AHEAD)
            self._note(result, rows)
            self._buffer.extend(rows)
        if self._buffer:
            return self._buffer.popleft()
        if hard_close:
            result._soft_close(hard=True)  # noqa: SLF001 - what a strategy does at the end of its rows
        return None

    def fetchmany(self, result: Any, dbapi_cursor: Any, size: int | None = None) -> Any:  # noqa: ANN401 - as above
        """Return some rows."""
        taken = [self._buffer.popleft() for _ in range(min(len(self._buffer), size or 1))]
        if taken and len(taken) >= (size or 1):
            return taken
        rows = self._below.fetchmany(result, dbapi_cursor, size - len(taken) if size is not None else None)
        self._note(result, rows)
        return [*taken, *rows]

    def fetchall(self, result: Any, dbapi_cursor: Any) -> Any:  # noqa: ANN401 - as above
        """Return all that are left."""
        rows = self._below.fetchall(result, dbapi_cursor)
        self._note(result, rows)
        if self._buffer:
            rows = [*self._buffer, *rows]
            self._buffer.clear()
        return rows

    def handle_exception(self, result: Any, dbapi_cursor: Any, err: BaseException) -> Any:  # noqa: ANN401 - as above
        """Raise what the strategy below makes of it."""
        self._below.handle_exception(result, dbapi_cursor, err)

    def _note(self, result: Any, rows: Sequence[Any]) -> None:  # noqa: ANN401 - as above
        if not rows:
            return
        try:
            for seen in self._reads:
                readers = self._keys[seen.label]
                if readers:
                    self._trail.note(Rows("read", seen.label, _keys(rows, readers)))
                else:
                    self._trail.note(Rows("read", seen.label, None, len(rows) if seen.has_columns else None))
        except RequestRefused:
            result.close()
            raise
        except Exception:  # noqa: BLE001 - containment: a fault of ours must not fail the application's reading
            LOGGER.exception("audit: rows that were read are not on record")


Reader = Callable[[Any], object]


def fetched_now(result: Any, seen: Seen) -> list[object]:  # noqa: ANN401 - a cursor's result
    """Return the keys of all rows that RETURNING gives, and leave the rows for the application."""
    readers = _readers(result, seen)
    description = result.cursor.description
    rows = result.cursor_strategy.fetchall(result, result.cursor)
    result.cursor_strategy = FullyBufferedCursorFetchStrategy(description, initial_buffer=deque(rows))
    return _keys(rows, readers)


def fetched_before(rows: Iterable[Any], seen: Seen) -> list[object]:
    """Return the keys of rows that SQLAlchemy has fetched by itself, as an ORM session asks for what it changed."""
    return _keys(rows, [_reader([(at, None) for at in positions]) for positions in seen.positions])


def _keys(rows: Iterable[Any], readers: Sequence[Reader]) -> list[object]:
    found: dict[object, None] = {}
    for read in readers:
        for row in rows:
            key = read(row)
            if key is not None:
                found[key if _is_hashable(key) else repr(type(key))] = None
    return list(found)


def _is_hashable(key: object) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def _readers(result: Any, seen: Seen) -> list[Reader]:  # noqa: ANN401 - as above
    columns = result.context.compiled._result_columns  # noqa: SLF001 - as the plan was made of
    dialect, description = result.dialect, result.cursor.description
    readers: list[Reader] = []
    for positions in seen.positions:
        parts = [
            (at, columns[at].type._cached_result_processor(dialect, description[at][1]))  # noqa: SLF001 - as SQLAlchemy does
            for at in positions
        ]
        readers.append(_reader(parts))
    return readers


def _reader(parts: Sequence[tuple[int, Any]]) -> Reader:
    return _single(*parts[0]) if len(parts) == 1 else _composite(parts)


def _single(at: int, process: Any) -> Reader:  # noqa: ANN401 - a function, or None
    if process is None:
        return lambda row: row[at]
    return lambda row: _processed(process, row[at])


def _composite(parts: Sequence[tuple[int, Any]]) -> Reader:
    def read(row: Any) -> object:  # noqa: ANN401 - a row of the driver
        values = tuple(_processed(process, row[at]) if process is not None else row[at] for at, process in parts)
        return None if all(value is None for value in values) else values

    return read


def _processed(process: Any, value: object) -> object:  # noqa: ANN401 - a function
    """Make of a driver's value what the application gets; a type of its own may raise anything."""
    if value is None:
        return None
    try:
        return process(value)
    except Exception:  # noqa: BLE001 - it will raise where the application asks, too
        return value
