"""click and Typer: commands on record, as run by the user of the operating system unless somebody else is named."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, ParamSpec, TypeVar, cast

from audit_middleware import Pipeline
from audit_middleware.capture import ANY, Declaration, EntryPoint, Runs, Work, exchange_at_hand, run
from audit_middleware.capture.operator import operator
from audit_middleware.capture.rules import rules_of

__all__ = ["Audit", "entry_points"]

P = ParamSpec("P")
R = TypeVar("R")
_AUDITED: Final = "__audited_command__"


class Audit:
    """Record commands: ``Audit()(cli)`` for a whole click group or Typer app, or as the decorator of one function.

    As a decorator it stands below that of click or Typer. ``principal`` names who runs them, if not the user of the
    operating system. Settings come from here, then from the environment. Raises `ConfigurationError` for wrong ones.
    """

    def __init__(
        self,
        *,
        principal: object = None,
        pipeline: Pipeline | None = None,
        **settings: Any,  # noqa: ANN401 - settings of any type
    ) -> None:
        self._principal = principal
        self._runs = Runs(pipeline, settings, lambda: None)
        self._commands: dict[str, object] = {}

    def __call__(self, command: R) -> R:
        """Audit a function, a command, a group with all its commands, or a Typer app with all of its; return it."""
        target: Any = command
        holders = list(_commands_of(target))
        for holder, name in holders:
            holder.callback = self._audited(holder.callback, name)
        return command if holders or _is_of_click(target) else cast("R", self._audited(target, target.__name__))

    def entry_points(self) -> Iterator[EntryPoint]:
        """Yield every command that was audited here."""
        for name, function in list(self._commands.items()):
            rules = rules_of(function)
            yield EntryPoint("command", ANY, name, "", rules.exemption if rules is not None else None)

    def _audited(self, function: Callable[P, Any], name: str) -> Callable[P, Any]:
        if hasattr(function, _AUDITED):
            return function
        if not self._commands:  # the module tells the programs of one service apart
            module = function.__module__
            component = "click" if module == "__main__" else f"click {module}"
            self._runs.declare(Declaration(component, self.entry_points, ("click", "typer")))
        self._commands[name] = function

        @functools.wraps(function)
        def calling(*arguments: P.args, **named: P.kwargs) -> Any:  # noqa: ANN401 - the function's own
            exchange = exchange_at_hand()
            if exchange is not None and not exchange.is_closed:
                return function(*arguments, **named)
            work = self._runs.begin(name, "command", function=function)
            if work.principal is None:
                work.principal = self._principal if self._principal is not None else operator()
            with run(work, self._runs.pipeline):
                try:
                    return function(*arguments, **named)
                except BaseException as error:
                    _note(work, error)
                    raise

        setattr(calling, _AUDITED, True)
        return calling


def entry_points(command: Any) -> Iterator[EntryPoint]:  # noqa: ANN401 - of click or of Typer
    """Yield every command of a click command, a group or a Typer app, audited or not."""
    for holder, name in _commands_of(command):
        rules = rules_of(holder.callback)
        yield EntryPoint("command", ANY, name, "", rules.exemption if rules is not None else None)


def _is_of_click(target: Any) -> bool:  # noqa: ANN401 - a command, a group, a Typer app, or a function
    return any(hasattr(target, name) for name in ("registered_commands", "commands", "make_context"))


def _commands_of(target: Any) -> Iterator[tuple[Any, str]]:  # noqa: ANN401 - of click or of Typer
    """Yield what holds the callback of each command, and what the command is called on record."""
    if hasattr(target, "registered_commands"):
        for each in [*target.registered_commands, *([target.registered_callback] if not _subs(target) else [])]:
            if each is not None and each.callback is not None:
                yield each, each.name or each.callback.__name__
        for group in target.registered_groups:
            yield from _commands_of(group.typer_instance)
    elif isinstance(getattr(target, "commands", None), dict):
        for each in target.commands.values():
            yield from _commands_of(each)
    elif hasattr(target, "make_context") and target.callback is not None:
        yield target, target.name or target.callback.__name__


def _subs(app: Any) -> bool:  # noqa: ANN401 - a Typer app
    """Say whether an app has commands, of which its callback is only the beginning."""
    return bool(app.registered_commands or app.registered_groups)


def _note(work: Work, error: BaseException) -> None:
    """Say with which exit code it ends; 0 is no failure, however it was raised."""
    code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", 1)
    if not isinstance(code, int):
        code = 0 if code is None else 1
    work.details["exit_code"] = code
    if code == 0:
        work.end, work.reason = "complete", work.reason or "exit"
