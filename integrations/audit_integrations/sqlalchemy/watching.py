"""Listens where SQLAlchemy executes statements, and says what they do to rows of declared models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Delete, Engine, Insert, Table, Update, event

from audit_integrations.sqlalchemy.fetching import RecordedFetch, fetched_before, fetched_now
from audit_integrations.sqlalchemy.plans import Plan, Target, plan_of
from audit_middleware.capture import DataTrail, Rows, Transaction
from audit_middleware.errors import RequestRefused
from audit_middleware.pipeline import LOGGER

DECLARED: Final[dict[Table, str]] = {}
TRAIL: Final = DataTrail()
_TRANSACTION: Final = "audit_transaction"
_savepoints: Final[WeakKeyDictionary[Connection, int]] = WeakKeyDictionary()
_plans: WeakKeyDictionary[Any, Plan | None] = WeakKeyDictionary()


def forget_plans() -> None:
    """Look at every statement anew: what is declared has changed."""
    global _plans  # noqa: PLW0603 - replaced as a whole, because other threads read it
    _plans = WeakKeyDictionary()


def listen(*, is_on: bool) -> None:
    """Listen to every engine of this process, or no more."""
    listeners: dict[str, Any] = {
        "before_execute": _before,
        "after_execute": _after,
        "commit": _committed,
        "commit_twophase": _committed,
        "rollback": _rolled_back,
        "rollback_twophase": _rolled_back,
        "savepoint": _savepoint,
        "rollback_savepoint": _back_to_savepoint,
    }
    for name, function in listeners.items():
        (event.listen if is_on else event.remove)(Engine, name, function)


def _before(conn: Connection, clauseelement: Any, *_: object) -> None:  # noqa: ANN401, ARG001 - SQLAlchemy's signature
    """A change that must not happen without its record does not begin while the journal cannot take that."""
    if isinstance(clauseelement, Insert | Update | Delete) and clauseelement.table in DECLARED:
        TRAIL.require("update")


def _after(conn: Connection, *said: Any) -> None:  # noqa: ANN401 - SQLAlchemy's signature; the result comes last
    result = said[-1]
    compiled = getattr(result.context, "compiled", None)
    if compiled is None or TRAIL.is_quiet:
        return
    try:
        plan = _planned(compiled)
        if plan is not None:
            _note_contained(conn, result, plan)
    except RequestRefused:
        _let_go(result)
        raise
    except Exception:  # noqa: BLE001 - containment: a fault of ours must not fail the statement
        LOGGER.exception("audit: what a statement does to declared models is not on record")


def _planned(compiled: Any) -> Plan | None:  # noqa: ANN401 - a statement as its dialect spells it
    plans = _plans
    return plans[compiled] if compiled in plans else plans.setdefault(compiled, plan_of(compiled, DECLARED))


def _note_contained(conn: Connection, result: Any, plan: Plan) -> None:  # noqa: ANN401 - a cursor's result
    """Note what is known; where that fails, that something was done to rows, though nobody knows which."""
    try:
        _note(conn, result, plan)
    except RequestRefused:
        raise
    except Exception:  # noqa: BLE001 - containment: a fault of ours must not fail the statement
        LOGGER.exception("audit: which rows a statement read or changed is not known")
        target = plan.target
        for method, label in (
            [(target.method, target.label)] if target else [("read", seen.label) for seen in plan.reads]
        ):
            rows = Rows(method, label, None)
            TRAIL.note(rows)
            if target is not None:
                _remember(conn, rows)


def _note(conn: Connection, result: Any, plan: Plan) -> None:  # noqa: ANN401 - a cursor's result
    target = plan.target
    if target is not None:
        rows = _changed(result, target, plan)
        if rows.number == 0:
            return
        TRAIL.note(rows)
        _remember(conn, rows)
    is_over = result.cursor is None  # the rows of a change were taken by SQLAlchemy itself
    if is_over or not result.returns_rows or (target is not None and target.method == "create"):
        for seen in plan.reads:
            if target is None or seen.label != target.label:
                TRAIL.note(Rows("read", seen.label, None))
        return
    reads = plan.reads if target is None else tuple(seen for seen in plan.reads if seen.label != target.label)
    if reads:
        result.cursor_strategy = RecordedFetch(result.cursor_strategy, result, reads, TRAIL)


def _remember(conn: Connection, rows: Rows) -> None:
    """Remember a change until its transaction ends."""
    if not conn._is_autocommit_isolation():  # noqa: SLF001 - an option here or of the engine; SQLAlchemy's own question
        _transaction(conn).add(rows)


def _changed(result: Any, target: Target, plan: Plan) -> Rows:  # noqa: ANN401 - a cursor's result
    context = result.context
    if target.method == "create":
        return _created(context, target)
    count = result.rowcount if result.rowcount >= 0 else None
    if count == 0 and not result.returns_rows:
        return Rows(target.method, target.label, None, 0)
    if target.binds is not None:
        keys = _bound(context.compiled_parameters, target.binds[0], getattr(context, "_expanded_parameters", {}))
        if keys is not None and (count is None or result.returns_rows or count == len(keys)):
            return Rows(target.method, target.label, keys)
    returned = next((seen for seen in plan.reads if seen.label == target.label and seen.positions), None)
    if returned is not None and result.returns_rows:
        rows = context.returned_default_rows
        keys = fetched_now(result, returned) if result.cursor is not None else fetched_before(rows or (), returned)
        return Rows(target.method, target.label, keys)
    return Rows(target.method, target.label, None, count)


def _created(context: Any, target: Target) -> Rows:  # noqa: ANN401 - SQLAlchemy's execution context
    statement = context.compiled.statement
    is_select, has_conflict = statement.select is not None, getattr(statement, "_post_values_clause", None) is not None
    count = None if is_select or has_conflict else len(context.compiled_parameters)
    if getattr(statement, "_multi_values", None):
        count = context.rowcount if context.rowcount > 0 else None
    elif count is not None:
        keys = _inserted(context)
        if keys is not None and len(keys) == count:
            return Rows("create", target.label, keys)
    return Rows("create", target.label, None, count)


def _inserted(context: Any) -> list[object] | None:  # noqa: ANN401 - as above
    columns = [column.key for column in context.compiled.statement.table.primary_key.columns]
    parameters = context.compiled_parameters
    if columns and all(all(given.get(name) is not None for name in columns) for given in parameters):
        return [_key([given[name] for name in columns]) for given in parameters]
    if context._is_explicit_returning:  # noqa: SLF001 - what SQLAlchemy asks before it says the keys
        return None
    found = context.inserted_primary_key_rows
    if not found or any(row is None or any(part is None for part in row) for row in found):
        return None
    return [_key(list(row)) for row in found]


def _bound(parameters: Sequence[Any], names: tuple[str, ...], expanded: Mapping[str, Any]) -> list[object] | None:
    keys: list[object] = []
    for given in parameters:
        if len(names) == 1 and names[0] in expanded:
            keys.extend(given[each] for each in expanded[names[0]])
            continue
        if any(name not in given for name in names):
            return None
        values = [given.get(name) for name in names]
        if len(values) == 1 and isinstance(values[0], list | tuple):
            keys.extend(values[0])
        elif any(isinstance(value, list) for value in values):
            return None
        else:
            keys.append(_key(values))
    return list(dict.fromkeys(keys))


def _key(parts: list[Any]) -> object:
    return parts[0] if len(parts) == 1 else tuple(parts)


def _let_go(result: Any) -> None:  # noqa: ANN401 - a cursor's result
    if result.returns_rows:
        result.close()


def _transaction(conn: Connection) -> Transaction:
    found: Transaction = conn.info.setdefault(_TRANSACTION, Transaction())
    return found


def _committed(conn: Connection, *_: object) -> None:
    if _TRANSACTION in conn.info:
        conn.info.pop(_TRANSACTION)


def _rolled_back(conn: Connection, *_: object) -> None:
    info = getattr(conn, "info", {}) if not conn.closed and not conn.invalidated else {}
    if _TRANSACTION in info:
        TRAIL.rolled_back(info.pop(_TRANSACTION).end())


def _savepoint(conn: Connection, _name: str | None) -> None:
    """A savepoint has no name yet: SQLAlchemy numbers those of a connection from 1."""
    number = _savepoints[conn] = _savepoints.get(conn, 0) + 1
    _transaction(conn).mark(f"sa_savepoint_{number}")


def _back_to_savepoint(conn: Connection, name: str, _context: object) -> None:
    if _TRANSACTION in conn.info:
        TRAIL.rolled_back(_transaction(conn).back_to(name))
