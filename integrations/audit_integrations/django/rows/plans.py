"""Where the keys of declared models stand: in the rows of a statement, in its condition, in what it inserts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django.db.models.expressions import Col, ColPairs, Ref
from django.db.models.lookups import Exact, In
from django.db.models.sql.where import AND, WhereNode

Reader = Callable[[Sequence[Any]], object]


class Watched(NamedTuple):
    """A table of a declared model: what that is called, and the columns of the primary key."""

    label: str
    columns: tuple[str, ...]


class Seen(NamedTuple):
    """One declared model in the rows of a statement: how to read its keys, once for each alias."""

    label: str
    readers: tuple[Reader, ...]
    has_columns: bool
    """Whether rows hold values of it: without, as for aggregates, how many rows there are says nothing."""
    is_partial: bool = False
    """Whether rows hold values of further rows of it, whose keys are not among them."""


Watching = Mapping[str, Watched]
_Columns = dict[str, tuple[int, Any]]  # position and expression of each column


def seen_in(compiler: Any, tables: Collection[str], watching: Watching) -> list[Seen]:  # noqa: ANN401 - untyped in Django
    """Return the declared models that a compiled SELECT reads; ``tables`` are the declared ones it names anywhere."""
    labels = {watching[table].label for table in tables}
    query = compiler.query
    if query.combinator and not _is_uniform(query):
        return [Seen(label, (), has_columns=False) for label in sorted(labels)]
    groups, computed = _columns_of(compiler, watching)
    seen = []
    for label in sorted(labels | {watched.label for watched, _ in groups}):
        own = [(watched, columns) for watched, columns in groups if watched.label == label]
        whole = [(watched, columns) for watched, columns in own if all(name in columns for name in watched.columns)]
        readers = [_reader(compiler, [columns[name] for name in watched.columns]) for watched, columns in whole]
        is_partial = any(each not in whole and each[0] in [watched for watched, _ in whole] for each in own)
        has_columns = query.group_by is None and (bool(own) or label in computed)
        seen.append(Seen(label, tuple(readers), has_columns, is_partial))
    return seen


def compared_keys(query: Any, watched: Watched) -> list[object] | None:  # noqa: ANN401 - as above
    """Return the keys that the condition of an UPDATE or DELETE compares with; None if it compares anything else."""
    single: dict[str, object] = {}
    for lookup in _anded(query.where):
        if not isinstance(lookup, Exact | In) or not lookup.rhs_is_direct_value():
            continue
        names = _names(query, lookup.lhs)
        if names == watched.columns:
            given = list(lookup.rhs) if isinstance(lookup, In) else [lookup.rhs]
            keys = [tuple(each) if isinstance(each, list) else each for each in given]
            return None if any(_is_expression(key) for key in keys) else _unique(keys)
        if len(names) == 1 and isinstance(lookup, Exact):
            single[names[0]] = lookup.rhs
    if not all(name in single for name in watched.columns):
        return None
    return [tuple(single[name] for name in watched.columns)]


def created_keys(query: Any, watched: Watched, returning: Sequence[Any], rows: Sequence[Any]) -> list[object] | None:  # noqa: ANN401 - as above
    """Return the keys that an INSERT created, from the objects or what it returned; None if not all are known."""
    fields = {field.column: field for field in query.get_meta().concrete_fields}
    places = {field.column: place for place, field in enumerate(returning)}
    given = {field.column for field in query.fields}
    keys: list[object] = []
    for number, instance in enumerate(query.objs):
        parts: list[object] = []
        for name in watched.columns:
            value = getattr(instance, fields[name].attname, None) if name in given else None
            if (value is None or _is_expression(value)) and name in places and number < len(rows):
                value = rows[number][places[name]]
            if value is None or _is_expression(value):
                return None
            parts.append(value)
        keys.append(parts[0] if len(parts) == 1 else tuple(parts))
    return keys


def keys_in(rows: Sequence[Sequence[Any]], readers: Sequence[Reader]) -> list[object]:
    """Return the keys of these rows, each once; an outer join that found nothing has none."""
    return _unique([key for read in readers for row in rows if (key := read(row)) is not None])


def _is_uniform(query: Any) -> bool:  # noqa: ANN401 - as above
    """Whether a union is one of whole instances of one model, so that columns mean the same in all rows."""
    return all(
        each.combinator is None
        and each.default_cols
        and not each.deferred_loading[0]
        and not each.extra_select
        and each.model._meta.concrete_model is query.model._meta.concrete_model  # noqa: SLF001 - documented
        for each in query.combined_queries
    )


def _columns_of(compiler: Any, watching: Watching) -> tuple[list[tuple[Watched, _Columns]], set[str]]:  # noqa: ANN401 - as above
    """Return the columns of declared tables by alias, and the labels of whose columns values were computed."""
    groups: dict[str, tuple[Watched, _Columns]] = {}
    computed: set[str] = set()
    position = 0
    for expression, *_ in compiler.select or ():
        columns = expression.get_source_expressions() if isinstance(expression, ColPairs) else [expression]
        for column in map(_source, columns):
            watched = _watched(compiler.query, column, watching)
            if watched is not None:
                groups.setdefault(column.alias, (watched, {}))[1].setdefault(column.target.column, (position, column))
            else:
                computed.update(_computed(compiler.query, column, watching))
            position += 1
    return list(groups.values()), computed


def _computed(query: Any, expression: Any, watching: Watching) -> Iterator[str]:  # noqa: ANN401 - as above
    if expression is None or getattr(expression, "contains_aggregate", False):
        return
    for each in expression.flatten():
        watched = _watched(query, each, watching)
        if watched is not None:
            yield watched.label


def _watched(query: Any, column: Any, watching: Watching) -> Watched | None:  # noqa: ANN401 - as above
    return watching.get(_table(query, column)) if isinstance(column, Col) else None


def _table(query: Any, column: Any) -> str:  # noqa: ANN401 - as above
    return getattr(query.alias_map.get(column.alias), "table_name", "")


def _source(expression: Any) -> Any:  # noqa: ANN401 - as above
    while isinstance(expression, Ref):
        expression = expression.source  # type: ignore[attr-defined] # the stubs lack it
    return expression


def _reader(compiler: Any, parts: Sequence[tuple[int, Any]]) -> Reader:  # noqa: ANN401 - as above
    readers = [_part(compiler, *part) for part in parts]
    if len(readers) == 1:
        return readers[0]

    def read(row: Sequence[Any]) -> object:
        values = tuple(each(row) for each in readers)
        return None if all(value is None for value in values) else values

    return read


def _part(compiler: Any, position: int, column: Any) -> Reader:  # noqa: ANN401 - as above
    converters, connection = compiler.get_converters([column]).get(0, ((), None))[0], compiler.connection
    if not converters:
        return lambda row: row[position]

    def read(row: Sequence[Any]) -> object:
        value = row[position]
        try:
            for convert in converters:
                value = convert(value, column, connection)
        except Exception:  # noqa: BLE001 - it will raise where the application asks, too
            return row[position]
        return value

    return read


def _anded(node: Any) -> Iterator[Any]:  # noqa: ANN401 - as above
    """Yield every condition that must hold."""
    if not isinstance(node, WhereNode):
        yield node
    elif not node.negated and (node.connector == AND or len(node.children) == 1):
        for child in node.children:
            yield from _anded(child)


def _names(query: Any, expression: Any) -> tuple[str, ...]:  # noqa: ANN401 - as above
    columns = expression.get_source_expressions() if isinstance(expression, ColPairs) else [expression]
    table = query.get_meta().db_table
    if not all(isinstance(column, Col) and _table(query, column) == table for column in columns):
        return ()
    return tuple(column.target.column for column in columns)


def _is_expression(value: object) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return any(hasattr(part, "resolve_expression") for part in parts)


def _unique(keys: list[object]) -> list[object]:
    try:
        return list(dict.fromkeys(keys))
    except TypeError:  # values of a field of the application's own need not be hashable
        return list({repr(key): key for key in keys}.values())
