"""Users as Django saves and deletes them: created, deleted, activated, passwords, ``is_staff``, ``is_superuser``.

The row before is read, by primary key, when a save may change one of these; ``QuerySet.update`` sends no signal.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import is_password_usable
from django.core.exceptions import FieldDoesNotExist, ImproperlyConfigured
from django.db.models import Model
from django.db.models.signals import post_delete, post_save, pre_save

from audit_integrations.django.telling import at_hand, contained, name_of, same_table
from audit_middleware import events

_BEFORE: Final = "_audit_before"
"""Rows as they were before the saves of an instance that run now, the innermost last."""
_ROLES: Final = ("is_staff", "is_superuser")
_WATCHED: Final = ("password", "is_active", *_ROLES)


def connect() -> None:
    """Listen to the saves and deletions of users; a second call changes nothing.

    Only those models are listened to that are users: a listener to all would slow down the deletions of every model.
    """
    users = user_model()
    if users is None:
        return
    for model in apps.get_models():
        if issubclass(model, users):
            pre_save.connect(before_save, sender=model, dispatch_uid="audit")
            post_save.connect(saved, sender=model, dispatch_uid="audit")
    for model in same_table(users):  # a model that extends the table of users sends this signal for both
        post_delete.connect(deleted, sender=model, dispatch_uid="audit")


def user_model() -> type[Model] | None:
    """Return the model of the project's users; None when it has none."""
    try:
        return get_user_model()
    except ImproperlyConfigured:  # its app is not installed
        return None


def before_save(sender: object, instance: Any, using: str, update_fields: Collection[str] | None, **_: object) -> None:  # noqa: ANN401, ARG001 - Django's signature
    """Remember the row as it is, if this save may change what is watched."""
    rows: list[dict[str, Any] | None] = instance.__dict__.setdefault(_BEFORE, [])
    rows.append(None)
    _remember(rows, instance, using, update_fields)


@contained
def _remember(
    rows: list[dict[str, Any] | None],
    instance: Any,  # noqa: ANN401 - any user model
    using: str,
    update_fields: Collection[str] | None,
) -> None:
    names = _saved_names(instance, update_fields)
    users = user_model()
    if names and instance.pk is not None and users is not None:
        found = users._base_manager.using(using).filter(pk=instance.pk)  # noqa: SLF001 - documented, and without filters
        rows[-1] = found.values("pk", *names).first()


@contained
def saved(sender: object, instance: Any, created: bool, update_fields: Collection[str] | None, **_: object) -> None:  # noqa: ANN401, ARG001, FBT001 - Django's signature
    """Record what became of the row."""
    after = {name: getattr(instance, name) for name in _saved_names(instance, update_fields)}
    before = _remembered(instance, after)
    with at_hand():
        if before is not None:
            _say_changes(instance, before, after, update_fields)
        elif created:
            events.user_created(name_of(instance), roles=_roles(after))
        elif getattr(instance, "_password", None) is not None and "password" in after:  # the row could not be read
            events.password_changed(name_of(instance))


@contained
def deleted(sender: object, instance: Any, **_: object) -> None:  # noqa: ANN401, ARG001 - Django's signature
    """Record that there is one user less."""
    with at_hand():
        events.user_deleted(name_of(instance))


def _remembered(instance: Any, after: Mapping[str, Any]) -> Mapping[str, Any] | None:  # noqa: ANN401 - any user model
    """Return the row as it was, and leave nothing of it on an instance that may be pickled.

    For a save within which this one ran the row is as it is now.
    """
    rows: list[dict[str, Any] | None] = instance.__dict__.pop(_BEFORE, [])
    before = rows.pop() if rows else None
    for outer in filter(None, rows):
        outer.update({name: value for name, value in after.items() if name in outer})
    if rows:
        instance.__dict__[_BEFORE] = rows
    return before


def _say_changes(
    user: Any,  # noqa: ANN401 - any user model
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    update_fields: Collection[str] | None,
) -> None:
    name = name_of(user)
    if before.get("password") != after.get("password") and not _is_upgrade(user, update_fields):
        events.password_changed(name)
    if _roles(before) != _roles(after):
        events.role_changed(name, before=_roles(before), after=_roles(after))
    if bool(before.get("is_active")) != bool(after.get("is_active")):
        (events.user_activated if after["is_active"] else events.user_deactivated)(name)


def _is_upgrade(user: Any, update_fields: Collection[str] | None) -> bool:  # noqa: ANN401 - any user model
    """Whether ``check_password`` hashed the same password anew: it saves nothing else, and leaves no ``_password``."""
    is_alone = update_fields is not None and set(update_fields) == {"password"}
    return is_alone and getattr(user, "_password", None) is None and is_password_usable(user.password)


def _roles(values: Mapping[str, Any]) -> list[str]:
    return [name for name in _ROLES if values.get(name)]


def _saved_names(user: Any, update_fields: Collection[str] | None) -> list[str]:  # noqa: ANN401 - any user model
    return [name for name in _WATCHED if _is_field(user, name) and (update_fields is None or name in update_fields)]


def _is_field(user: Any, name: str) -> bool:  # noqa: ANN401 - any user model
    try:
        return bool(user._meta.get_field(name).concrete)  # noqa: SLF001 - documented
    except FieldDoesNotExist:
        return False
