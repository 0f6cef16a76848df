"""Which models are declared, what they are called on record, and whether this Django is one that can be watched."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any, Final

from django.apps import apps
from django.core.signals import setting_changed
from django.db import connections
from django.db.models.sql import compiler

from audit_integrations.django.conf import models
from audit_integrations.django.rows.plans import Watched
from audit_integrations.django.rows.watching import WATCHED, hooks
from audit_integrations.patching import Undo, all_undone, patched
from audit_middleware import ConfigurationError
from audit_middleware.capture import ANY, Declaration, EntryPoint, declare_everywhere
from audit_middleware.pipeline import LOGGER

_COMPILERS: Final = (
    "SQLCompiler",
    "SQLInsertCompiler",
    "SQLUpdateCompiler",
    "SQLDeleteCompiler",
    "SQLAggregateCompiler",
)
_OVERRULED: Final = ("execute_sql", "get_from_clause")
_lock: Final = Lock()
_undo: list[Undo] = []


def connect() -> None:
    """Watch the models that the settings name; nothing is wrapped while they name none. A second call changes nothing.

    Raises `ConfigurationError` when some cannot be watched; the others are.
    """
    setting_changed.connect(_again, dispatch_uid="audit.models")
    found, wrong = _found()
    with _lock:
        if found != WATCHED:
            WATCHED.clear()
            WATCHED.update(found)
            declare_everywhere(Declaration("django models", entry_points, ("django",)))
        if found and not _undo:
            _undo.append(all_undone(*(patched(*hook) for hook in hooks() if hook[1] in hook[0].__dict__)))
        elif not found and _undo:
            _undo.pop()()
    if wrong:
        raise ConfigurationError(wrong[0])


def problems() -> list[str]:
    """Return why models that the settings name cannot be watched, each beginning with its number."""
    return _found()[1]


def unsure() -> Iterator[str]:
    """Yield which database backends run statements in a way of their own, which may not be seen."""
    for connection in connections.all() if WATCHED else ():
        for name in _COMPILERS:
            kind = connection.ops.compiler(name)
            for base in kind.__mro__:
                if not base.__module__.startswith("django.") and any(each in base.__dict__ for each in _OVERRULED):
                    yield f"{base.__module__}.{base.__qualname__} of database {connection.alias!r} replaces Django's"


def entry_points() -> Iterator[EntryPoint]:
    """Yield every declared model."""
    return (EntryPoint("model", ANY, label, "") for label in sorted({each.label for each in WATCHED.values()}))


def _again(setting: str = "", **_: object) -> None:
    """Read what a test overrides."""
    if setting == "AUDIT":
        try:
            connect()
        except ConfigurationError as error:  # the middleware of the test says so
            LOGGER.debug("audit: %s", error)


def _found() -> tuple[dict[str, Watched], list[str]]:
    """Return the tables of the declared models, and what is wrong."""
    try:
        labels = models()
    except ConfigurationError as error:
        return {}, [str(error)]
    declared: dict[type, str] = {}
    wrong = _missing() if labels else []
    for label in labels:
        try:
            model = apps.get_model(label)
        except (LookupError, ValueError):
            wrong.append(f"audit.E023: AUDIT['MODELS']: there is no model {label!r}")
            continue
        swapped = model._meta.swapped  # noqa: SLF001 - documented
        if swapped:
            wrong.append(f"audit.E023: AUDIT['MODELS']: {label} is replaced by {swapped}")
        else:
            declared[model] = model._meta.label  # noqa: SLF001 - documented
    return _tables(declared), wrong


def _tables(declared: dict[type, str]) -> dict[str, Watched]:
    """Return the tables of declared models and of their subclasses; a proxy stands for what it is a proxy of."""
    found: dict[str, Watched] = {}
    every: list[Any] = apps.get_models(include_auto_created=True) if declared else []
    for model in sorted(every, key=lambda each: each._meta.proxy):  # noqa: SLF001 - documented
        label = next((declared[base] for base in model.__mro__ if base in declared), None)
        if label is not None:
            meta = model._meta  # noqa: SLF001 - documented
            columns = tuple(field.column for field in getattr(meta, "pk_fields", (meta.pk,)))
            found.setdefault(meta.db_table, Watched(label, columns))
    return found


def _missing() -> list[str]:
    """Return what this release of Django has not got, without which statements would not be seen."""
    wanted = [f"{owner.__qualname__}.{name}" for owner, name, _ in hooks() if name not in owner.__dict__]
    wanted += [f"compiler.{name}" for name in _COMPILERS if not hasattr(compiler, name)]
    return [f"audit.E024: this release of Django has no {name}: models cannot be watched" for name in wanted]
