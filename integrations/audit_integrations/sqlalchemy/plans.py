"""What a compiled statement does to declared tables: where keys stand in its rows, or among its parameters. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Delete, Insert, Table, Update
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList, ColumnElement, Grouping

from audit_middleware.capture.data import Method

_METHODS: Final[tuple[tuple[type, Method], ...]] = ((Insert, "create"), (Update, "update"), (Delete, "delete"))


class Seen(NamedTuple):
    """One declared model in the rows of a statement: where its keys stand, once for each alias."""

    label: str
    positions: tuple[tuple[int, ...], ...]
    has_columns: bool
    """Whether rows hold values of it: without, as for aggregates, how many rows there are says nothing."""


class Target(NamedTuple):
    """The declared table that a statement changes; ``binds`` are the parameters that hold keys, if those alone do."""

    label: str
    method: Method
    binds: tuple[tuple[str, ...], ...] | None


class Plan(NamedTuple):
    """What a statement does to declared models."""

    reads: tuple[Seen, ...]
    target: Target | None


def plan_of(compiled: Any, declared: Mapping[Table, str]) -> Plan | None:  # noqa: ANN401 - SQLCompiler has no public type
    """Return what a compiled statement does to declared tables; None for nothing."""
    statement = getattr(compiled.compile_state, "statement", None)
    statement = statement if statement is not None else compiled.statement
    target = _target(compiled, statement, declared)
    own = statement.table if target is not None else None
    labels = {declared[table] for table in _tables(statement, compiled.statement) if table in declared and table != own}
    returned = list(_returned(compiled, declared))
    labels.update(label for label, *_ in returned)
    reads = tuple(_seen(label, returned) for label in sorted(labels))
    return Plan(reads, target) if reads or target is not None else None


def _tables(*statements: Any) -> Iterator[Table]:  # noqa: ANN401 - any SQL expression
    for statement in statements:
        for element in visitors.iterate(statement):
            if isinstance(element, Table):
                yield element
            elif isinstance(element, ColumnElement) and isinstance(getattr(element, "table", None), Table):
                yield element.table


def _returned(compiled: Any, declared: Mapping[Table, str]) -> Iterator[tuple[str, int, Any, Any]]:  # noqa: ANN401 - as above
    """Yield label, position, column and the selectable it is of, for each column of a declared table in the rows."""
    is_ordered = getattr(compiled, "_ordered_columns", False)
    for position, entry in enumerate(compiled._result_columns):  # noqa: SLF001 - there is no public way
        for element in entry.objects:
            if not isinstance(element, ColumnElement):
                continue
            for base in element.base_columns:
                table = getattr(base, "table", None)
                if isinstance(table, Table) and table in declared:
                    yield declared[table], position if is_ordered else -1, base, _selectable(element)


def _selectable(element: Any) -> int:  # noqa: ANN401 - any column
    while not hasattr(element, "table") and hasattr(element, "element"):
        element = element.element
    return hash(getattr(element, "table", None))  # the same for a selectable and what the ORM annotates


def _seen(label: str, returned: Sequence[tuple[str, int, Any, Any]]) -> Seen:
    groups: dict[tuple[Any, Any], dict[str, int]] = {}
    tables: dict[tuple[Any, Any], Table] = {}
    for found, position, column, selectable in returned:
        if found == label:
            tables[column.table, selectable] = column.table
            groups.setdefault((column.table, selectable), {}).setdefault(column.key, position)
    complete: list[tuple[int, ...]] = []
    for key, columns in groups.items():
        names = [column.key for column in tables[key].primary_key.columns]
        if names and all(columns.get(name, -1) >= 0 for name in names):
            complete.append(tuple(columns[name] for name in names))
    is_partly_unknown = len(complete) < len(groups) and not complete
    return Seen(label, () if is_partly_unknown else tuple(dict.fromkeys(complete)), bool(groups))


def _target(compiled: Any, statement: Any, declared: Mapping[Table, str]) -> Target | None:  # noqa: ANN401 - as above
    method = next((method for kind, method in _METHODS if isinstance(statement, kind)), None)
    if method is None or statement.table not in declared:
        return None
    binds = _binds(compiled, statement) if method != "create" else None
    return Target(declared[statement.table], method, binds)


def _binds(compiled: Any, statement: Any) -> tuple[tuple[str, ...], ...] | None:  # noqa: ANN401 - as above
    """Return the names of the parameters that a WHERE compares the whole key with; None when it does not."""
    where = statement.whereclause
    if where is None:
        return None
    names: dict[str, str] = {}
    for column, bind in _compared(where):
        if getattr(column, "table", None) == statement.table and column.primary_key:
            name = compiled.bind_names.get(bind)
            if name is None:
                return None
            names[column.key] = name
    keys = [column.key for column in statement.table.primary_key.columns]
    return (tuple(names[key] for key in keys),) if keys and all(key in names for key in keys) else None


def _compared(where: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - any condition
    """Yield column and parameter of everything that must be equal."""
    if isinstance(where, Grouping):
        yield from _compared(where.element)
    elif isinstance(where, BooleanClauseList) and where.operator is operators.and_:
        for clause in where.clauses:
            yield from _compared(clause)
    elif isinstance(where, BinaryExpression) and where.operator in {operators.eq, operators.in_op}:
        right = where.right.element if isinstance(where.right, Grouping) else where.right
        if isinstance(right, BindParameter):
            yield where.left, right
