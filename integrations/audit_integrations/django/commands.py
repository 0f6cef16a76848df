"""Management commands on record: ``AUDIT = {"COMMANDS": True}``, or a list of their names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

from django.core.management import get_commands
from django.core.management.base import BaseCommand, CommandError

from audit_integrations.django.conf import OBSERVER, commands, project_name
from audit_middleware.capture import ANY, Declaration, EntryPoint, Work, exchange_at_hand, run
from audit_middleware.capture.operator import operator
from audit_middleware.errors import RequestRefused

_NEVER: Final = frozenset({"audit", "runserver", "testserver"})
"""Servers, whose requests are on record, and what looks at the spool."""
_AUDITED: Final = "__audited_command__"


def connect() -> None:
    """Put every command on record that the settings name, whoever wrote it; a second call changes nothing."""
    execute: Callable[..., Any] = BaseCommand.execute
    if hasattr(execute, _AUDITED):
        return

    @functools.wraps(execute)
    def audited_execute(self: BaseCommand, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - Django's signature
        name = type(self).__module__.rpartition(".")[2]
        exchange = exchange_at_hand()
        if not _is_named(name) or (exchange is not None and not exchange.is_closed):
            return execute(self, *arguments, **options)
        declare()
        pipeline = OBSERVER.pipeline()
        work = Work(pipeline, name, "command")
        work.principal = operator()
        try:
            with run(work, pipeline):
                try:
                    return execute(self, *arguments, **options)
                except CommandError as error:
                    work.details["exit_code"] = error.returncode
                    raise
        except RequestRefused as error:
            raise CommandError(f"{name} does not run, because its record cannot be kept: {error}") from error

    setattr(audited_execute, _AUDITED, True)
    BaseCommand.execute = audited_execute  # type: ignore[method-assign] # there is no other way to all of them


def declare() -> None:
    """Declare the commands that are on record, by a server of the project as by a command itself."""
    OBSERVER.declare(Declaration(" ".join(filter(None, ["django-admin", project_name()])), entry_points, ("django",)))


def entry_points() -> Iterator[EntryPoint]:
    """Yield every command that is on record: those that are named, or all that there are."""
    named = commands()
    names = get_commands() if named is True else named or ()
    for name in sorted(set(names) - _NEVER):
        yield EntryPoint("command", ANY, name, "")


def _is_named(name: str) -> bool:
    named = commands()
    return name not in _NEVER and (named is True or (named is not False and name in named))
