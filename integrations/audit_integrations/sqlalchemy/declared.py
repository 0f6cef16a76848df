"""Which models and tables are declared, and what they are called on record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, Final

from sqlalchemy import Table, inspect
from sqlalchemy.orm import Mapper, configure_mappers

from audit_integrations.patching import Undo
from audit_integrations.sqlalchemy import watching
from audit_middleware import ConfigurationError
from audit_middleware.capture import ANY, Declaration, EntryPoint, declare_everywhere

_lock: Final = Lock()


def audit_models(*models: Any) -> Undo:  # noqa: ANN401 - mapped classes and tables have no type in common
    """Record who reads and changes rows of these mapped classes and ``Table`` objects, with any engine there is.

    A class stands for its subclasses and their tables too, and is called by its name on record; a table by its own,
    with its schema. What is declared twice stays what it was called first. Returns what undoes it. Raises
    `ConfigurationError` for anything else, and when nothing is named.
    """
    if not models:
        raise ConfigurationError("audit_models: name the mapped classes or tables that are sensitive")
    found: dict[Table, str] = {}
    for model in models:
        for table, label in _tables(model):
            found.setdefault(table, label)
    with _lock:
        added = {table: label for table, label in found.items() if table not in watching.DECLARED}
        _change(lambda: watching.DECLARED.update(added))
    declare_everywhere(Declaration("sqlalchemy", entry_points, ("sqlalchemy",)))

    def undo() -> None:
        with _lock:
            _change(lambda: [watching.DECLARED.pop(table, None) for table in added])

    return undo


def declared_models() -> list[str]:
    """Return what the declared models are called on record, in order."""
    return sorted(set(watching.DECLARED.values()))


def entry_points() -> Iterator[EntryPoint]:
    """Yield every declared model."""
    return (EntryPoint("model", ANY, label, "") for label in declared_models())


def _change(change: Callable[[], object]) -> None:
    """Change what is declared; nothing is listened to while that is nothing."""
    was = bool(watching.DECLARED)
    change()
    watching.forget_plans()
    if bool(watching.DECLARED) != was:
        watching.listen(is_on=not was)


def _tables(model: object) -> list[tuple[Table, str]]:
    if isinstance(model, Table):
        return [(model, model.fullname)]
    mapper = inspect(model, raiseerr=False)
    if not isinstance(model, type) or not isinstance(mapper, Mapper):
        raise ConfigurationError(f"audit_models: {model!r} is neither a mapped class nor a Table")
    configure_mappers()
    own = [mapper.local_table, *(each.local_table for each in mapper.self_and_descendants)]
    tables = [table for table in own if isinstance(table, Table)]
    if not tables:
        raise ConfigurationError(f"audit_models: {model.__qualname__} is mapped to no table of its own")
    return [(table, model.__name__) for table in tables]
