"""How Django's signals become the events of `audit_middleware.events`, contained, in whatever runs at this moment."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from django.apps import apps
from django.db.models import Model

from audit_integrations.django.conf import OBSERVER
from audit_middleware.capture import Work, enter, exchange_at_hand, leave

LOGGER: Final = logging.getLogger("audit_middleware")
_AT_A_TIME: Final = 500
"""Fewer than 999, the least that SQLite has taken: sqlite.org/limits.html, SQLITE_MAX_VARIABLE_NUMBER."""


def contained(receiver: Callable[..., None]) -> Callable[..., None]:
    """Return a receiver that never raises into the save, or whatever else, that sent the signal."""

    @functools.wraps(receiver)
    def safe(*arguments: Any, **named: Any) -> None:  # noqa: ANN401 - Django's signatures
        try:
            receiver(*arguments, **named)
        except Exception:
            LOGGER.exception("audit: what Django said is not on record (%s)", receiver.__name__)

    return safe


@contextmanager
def at_hand() -> Iterator[None]:
    """Run the body in the request or task at hand; outside of any the service acts, under the project's settings."""
    if exchange_at_hand() is not None:
        yield
        return
    token = enter(Work(OBSERVER.pipeline(), "django", "function"))
    try:
        yield
    finally:
        leave(token)


def names_of(model: type[Model], keys: Iterable[Any], using: str | None) -> dict[Any, str]:
    """Return what rows of a model are called, by primary key: users, groups, permissions; others by their key."""
    found = {key: str(key) for key in keys}
    fields = _naming(model)
    for some in chunks(list(found)) if fields else ():
        rows = model._base_manager.using(using).filter(pk__in=some).values_list("pk", *fields)  # noqa: SLF001 - documented
        found.update((row[0], ".".join(str(part) for part in row[1:])) for row in rows)
    return found


def name_of(user: Any) -> str:  # noqa: ANN401 - any user model
    """Return what a user is called."""
    return str(user.get_username())


def chunks(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield so many keys at a time as any database takes in one query."""
    for start in range(0, len(keys), _AT_A_TIME):
        yield keys[start : start + _AT_A_TIME]


def same_table(model: type[Model]) -> Iterator[type[Model]]:
    """Yield a model and its proxies, for which Django sends signals of their own."""
    for each in apps.get_models():
        if each._meta.concrete_model is model._meta.concrete_model:  # noqa: SLF001 - documented
            yield each


def _naming(model: type[Model]) -> tuple[str, ...]:
    names = {field.name for field in model._meta.concrete_fields}  # noqa: SLF001 - documented
    if hasattr(model, "USERNAME_FIELD"):
        return (str(model.USERNAME_FIELD),)
    if {"content_type", "codename"} <= names:  # django.contrib.auth's Permission
        return ("content_type__app_label", "codename")
    return ("name",) if "name" in names else ()
