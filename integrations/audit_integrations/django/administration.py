"""What is added, changed and deleted in Django's admin, as its own log says it: which object, never what it held."""

from __future__ import annotations

import functools
from typing import Any, Final

from django.apps import apps
from django.db.models.signals import post_save

from audit_integrations.django.telling import at_hand, contained
from audit_middleware import events

_REASONS: Final = {1: "add", 2: "change", 3: "delete"}
"""What ``action_flag`` means: ADDITION, CHANGE and DELETION of django.contrib.admin.models."""
_SAID: Final = "_audit_said"
_AUDITED: Final = "__audited_log__"


def connect() -> None:
    """Listen to the admin's log, if the project has it; a second call changes nothing.

    Entries of several objects, as "delete selected" makes them, are created in bulk, which sends no signal: they are
    read where they are made.
    """
    if not apps.is_installed("django.contrib.admin"):
        return
    post_save.connect(saved, sender=apps.get_model("admin", "LogEntry"), dispatch_uid="audit")
    from django.contrib.admin.models import LogEntryManager  # a model cannot be imported before its app is installed

    log_actions = LogEntryManager.log_actions
    if hasattr(log_actions, _AUDITED):
        return

    @functools.wraps(log_actions)
    def audited_log_actions(self: Any, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - Django's signature
        made = log_actions(self, *arguments, **named)
        _say_all(made)
        return made

    setattr(audited_log_actions, _AUDITED, True)
    LogEntryManager.log_actions = audited_log_actions  # type: ignore[method-assign] # bulk_create sends no signal


@contained
def saved(sender: object, instance: Any, created: bool, **_: object) -> None:  # noqa: ANN401, ARG001, FBT001 - Django's signature
    """Record one entry."""
    if created:
        _say(instance)


@contained
def _say_all(made: Any) -> None:  # noqa: ANN401 - one entry or several
    for entry in made if isinstance(made, list) else [made]:
        if not entry.__dict__.get(_SAID):
            _say(entry)


def _say(entry: Any) -> None:  # noqa: ANN401 - a log entry
    entry.__dict__[_SAID] = True
    kind = "unknown"
    if entry.content_type_id is not None:
        types = apps.get_model("contenttypes", "ContentType").objects.db_manager(entry._state.db)  # noqa: SLF001 - documented
        found: Any = types.get_for_id(entry.content_type_id)
        kind = f"{found.app_label}.{found.model}"
    with at_hand():
        reason = _REASONS.get(entry.action_flag, str(entry.action_flag))
        events.admin_access((kind, entry.object_id), reason=reason)
