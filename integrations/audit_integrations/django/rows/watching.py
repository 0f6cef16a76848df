"""Stands around the compilers of Django's ORM, and says what their statements do to rows of declared models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from itertools import chain, islice
from typing import Any, Final, NamedTuple

from django.db.models.query import RawQuerySet
from django.db.models.sql import DeleteQuery, UpdateQuery, compiler
from django.db.models.sql.constants import CURSOR, GET_ITERATOR_CHUNK_SIZE, MULTI, NO_RESULTS, ROW_COUNT, SINGLE

from audit_integrations.django.conf import OBSERVER
from audit_integrations.django.rows import transactions
from audit_integrations.django.rows.plans import Seen, Watched, compared_keys, created_keys, keys_in, seen_in
from audit_middleware.capture import DataTrail, Rows
from audit_middleware.capture.data import Method
from audit_middleware.pipeline import LOGGER

WATCHED: Final[dict[str, Watched]] = {}
"""By the name of the table."""
TRAIL: Final = DataTrail(OBSERVER.pipeline)
_tables: Final[ContextVar[set[str] | None]] = ContextVar("audit_tables", default=None)
"""The declared tables that the statement being compiled names, subqueries included."""
_RETURNING: Final = "execute_returning_sql"  # of UPDATE, since Django 6.0
Wrapped = Callable[..., Any]
Hook = tuple[type, str, Callable[[Wrapped], Wrapped]]


class Change(NamedTuple):
    """What an UPDATE or DELETE is about to do to a declared model."""

    method: Method
    watched: Watched


def hooks() -> list[Hook]:
    """Return what is wrapped: owner, name, and what goes around."""
    found: list[Hook] = [
        (compiler.SQLCompiler, "get_from_clause", _from_clause),
        (compiler.SQLCompiler, "execute_sql", _executing),
        (compiler.SQLInsertCompiler, "execute_sql", _inserting),
        (RawQuerySet, "iterator", _raw),
    ]
    if hasattr(compiler.SQLUpdateCompiler, _RETURNING):
        found.append((compiler.SQLUpdateCompiler, _RETURNING, _returning))
    return [*found, *transactions.hooks(TRAIL)]


def _from_clause(original: Wrapped) -> Wrapped:
    def get_from_clause(self: Any) -> Any:  # noqa: ANN401 - Django's signature
        answer = original(self)
        found, query = _tables.get(), self.query
        if found is not None:
            named = (
                getattr(each, "table_name", None)
                for alias, each in query.alias_map.items()
                if query.alias_refcount[alias]
            )
            found.update(name for name in chain(named, query.extra_tables) if name in WATCHED)
        return answer

    return get_from_clause


def _executing(original: Wrapped) -> Wrapped:
    def execute_sql(self: Any, result_type: Any = MULTI, *rest: Any, **named: Any) -> Any:  # noqa: ANN401 - Django's signature
        if TRAIL.is_quiet or getattr(self.query, "explain_info", None):
            return original(self, result_type, *rest, **named)
        is_change = isinstance(self.query, UpdateQuery | DeleteQuery)
        if not is_change:
            answer, tables = _compiled(original, self, result_type, *rest, **named)
            return _read(self, tables, answer, result_type or NO_RESULTS) if tables else answer
        change = _change(self.query)
        is_counted = result_type and result_type != NO_RESULTS
        answer, tables = _compiled(original, self, result_type if is_counted else ROW_COUNT, *rest, **named)
        if change is not None or tables:
            count = getattr(answer, "rowcount", None) if result_type == CURSOR else answer
            _changed(self, change, tables, count)
        return answer if is_counted else None

    return execute_sql


def _compiled(original: Wrapped, self: Any, *arguments: Any, **named: Any) -> tuple[Any, set[str]]:  # noqa: ANN401 - as above
    """Run a statement; return its answer, and the declared tables that it named."""
    tables: set[str] = set()
    token = _tables.set(tables)
    try:
        return original(self, *arguments, **named), tables
    finally:
        _tables.reset(token)


def _change(query: Any) -> Change | None:  # noqa: ANN401 - as above
    watched = WATCHED.get(query.get_meta().db_table)
    if watched is None:
        return None
    method: Method = "update" if isinstance(query, UpdateQuery) else "delete"
    TRAIL.require(method)
    return Change(method, watched)


def _changed(self: Any, change: Change | None, tables: set[str], count: int | None) -> None:  # noqa: ANN401 - as above
    if not count:  # nothing was run, or nothing found
        return
    if change is not None:
        keys = _keys(compared_keys, self.query, change.watched)
        is_sure = keys is not None and (count < 0 or count == len(keys))
        label, number = change.watched.label, count if count >= 0 else None
        _keep(self, Rows(change.method, label, keys if is_sure else None, None if is_sure else number))
    _note_conditions(tables, change.watched if change is not None else None)


def _keep(self: Any, rows: Rows) -> None:  # noqa: ANN401 - as above
    TRAIL.note(rows)
    transactions.remember(self.connection, rows)


def _note_conditions(tables: set[str], target: Watched | None) -> None:
    for label in sorted({WATCHED[table].label for table in tables} - {target.label if target else None}):
        TRAIL.note(Rows("read", str(label), None))


def _inserting(original: Wrapped) -> Wrapped:
    def execute_sql(self: Any, returning_fields: Any = None) -> Any:  # noqa: ANN401 - Django's signature
        if TRAIL.is_quiet:
            return original(self, returning_fields)
        watched = WATCHED.get(self.query.get_meta().db_table)
        if watched is not None:
            TRAIL.require("create")
        answer, tables = _compiled(original, self, returning_fields)
        if watched is not None:
            _keep(self, _created(self.query, watched, returning_fields or (), answer))
        if tables:
            _note_conditions(tables, watched)
        return answer

    return execute_sql


def _created(query: Any, watched: Watched, returning: Sequence[Any], rows: Sequence[Any]) -> Rows:  # noqa: ANN401 - as above
    if query.on_conflict is not None:  # which rows were there already, the database alone knows
        return Rows("create", watched.label, None)
    keys = _keys(created_keys, query, watched, returning, rows)
    return Rows("create", watched.label, keys, len(query.objs) if keys is None else None)


def _returning(original: Wrapped) -> Wrapped:
    def execute_returning_sql(self: Any, returning_fields: Any) -> Any:  # noqa: ANN401 - Django's signature
        is_ours = returning_fields and self.connection.features.can_return_rows_from_update
        if TRAIL.is_quiet or not is_ours:  # without, it calls execute_sql
            return original(self, returning_fields)
        change = _change(self.query)
        answer, tables = _compiled(original, self, returning_fields)
        if change is not None or tables:
            _changed(self, change, tables, len(answer))
        return answer

    return execute_returning_sql


def _read(self: Any, tables: set[str], answer: Any, result_type: str) -> Any:  # noqa: ANN401 - as above
    """Note which rows a SELECT reads, before they are handed over; those taken chunk by chunk, by the chunk."""
    try:
        seen = seen_in(self, tables, WATCHED)
    except Exception as error:  # noqa: BLE001 - containment: they are on record as rows that are not known
        _unreadable(error)
        seen = [Seen(label, (), has_columns=False) for label in sorted({WATCHED[table].label for table in tables})]
    if result_type == SINGLE:
        _note_rows(seen, [answer] if answer else [])
    elif result_type == MULTI and not isinstance(answer, list):
        return _chunked(answer, seen)
    elif result_type == MULTI:
        _note_rows(seen, list(chain.from_iterable(answer)))
    else:
        for each in seen:
            TRAIL.note(Rows("read", each.label, None))
    return answer


def _chunked(chunks: Any, seen: Sequence[Seen]) -> Iterator[Any]:  # noqa: ANN401 - a generator of Django's
    try:
        for rows in chunks:
            _note_rows(seen, rows)
            yield rows
    finally:
        if hasattr(chunks, "close"):
            chunks.close()


def _note_rows(seen: Iterable[Seen], rows: Sequence[Any]) -> None:
    if not rows:
        return
    for label, readers, has_columns, is_partial in seen:
        keys = _keys(keys_in, rows, readers) if readers else None
        number = len(rows) if has_columns else None
        TRAIL.note(Rows("read", label, keys, number if keys is None else None))
        if is_partial:
            TRAIL.note(Rows("read", label, None, number))


def _raw(original: Wrapped) -> Wrapped:
    def iterator(self: Any) -> Iterator[Any]:  # noqa: ANN401 - Django's signature
        watched = WATCHED.get(self.model._meta.db_table)  # noqa: SLF001 - documented
        found = original(self)
        return found if watched is None or TRAIL.is_quiet else _instances(found, watched.label)

    return iterator


def _instances(found: Iterator[Any], label: str) -> Iterator[Any]:
    """Yield the instances of a raw query; Django insists that their keys are in it."""
    while some := list(islice(found, GET_ITERATOR_CHUNK_SIZE)):
        TRAIL.note(Rows("read", label, [each.pk for each in some]))
        yield from some


def _keys(find: Callable[..., list[object] | None], *given: Any) -> list[object] | None:  # noqa: ANN401 - its own
    """Return the keys that ``find`` finds; rows are on record without, if it is ours to fail."""
    try:
        return find(*given)
    except Exception as error:  # noqa: BLE001 - containment
        _unreadable(error)
        return None


def _unreadable(error: Exception) -> None:
    LOGGER.error("audit: the keys of declared models cannot be read: %s", type(error).__name__, exc_info=error)
