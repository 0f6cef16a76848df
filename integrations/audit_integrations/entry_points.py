"""Which framework an application is of, and what can be called in it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import isfunction
from typing import Any, Final

from audit_middleware import ConfigurationError
from audit_middleware.capture.coverage import EntryPoint
from audit_middleware.capture.routers import routes_of

_MAX_WRAPPERS: Final = 50


def load(target: str) -> Any:  # noqa: ANN401 - an application of any framework
    """Import ``package.module:name``, or ``package.module:factory()``; raise `ConfigurationError` saying what fails."""
    module, colon, name = target.partition(":")
    if not colon or not name:
        raise ConfigurationError(f"{target!r} is not of the form package.module:app")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.removesuffix("()").split("."):
            found = getattr(found, part)
        return found() if name.endswith("()") else found
    except (Exception, SystemExit) as error:  # whatever the application's own code does when it is imported
        raise ConfigurationError(f"{target!r} cannot be imported: {_said(error)}") from error


def entry_points(app: Any) -> list[EntryPoint]:  # noqa: ANN401 - an application of any framework
    """Return what can be called in an application, a worker or a program, whatever is wrapped around it.

    Known are FastAPI, Starlette, Flask and Django; Celery and Dramatiq; click and Typer. Raises `ConfigurationError`
    for one whose entry points cannot be seen, or that has none.
    """
    name = type(app).__name__
    walk = _walker(app)
    if walk is None:
        raise ConfigurationError(
            f"what can be called in {name} cannot be seen; expected a FastAPI, Starlette, Flask or Django application, "
            "a Celery app, a Dramatiq broker, a click command or a Typer app"
            + (f"; one that {app.__name__} makes is named with {app.__name__}()" if isfunction(app) else "")
        )
    try:
        points = list(walk())
    except Exception as error:  # what can be called is made by the application's own code
        raise ConfigurationError(f"what can be called in {name} cannot be read: {_said(error)}") from error
    if not points:
        raise ConfigurationError(f"{name} has nothing that can be called, no route, task or command: nothing to cover")
    return points


def _walker(app: Any) -> Callable[[], Iterable[EntryPoint]] | None:  # noqa: ANN401 - an application of any framework
    """Find the framework of an application, inside the middleware wrapped around it."""
    for _ in range(_MAX_WRAPPERS):
        walk = _web(app) or _work(app)
        if walk is not None:
            return walk
        app = _next(app)
    return None


def _next(app: Any) -> Any:  # noqa: ANN401 - an application of any framework
    by_protocol = getattr(app, "application_mapping", None)  # of Channels
    if isinstance(by_protocol, Mapping):
        return by_protocol.get("http")
    return getattr(app, "app", None) or getattr(app, "application", None)  # WhiteNoise calls it so


def _web(app: Any) -> Callable[[], Iterable[EntryPoint]] | None:  # noqa: ANN401 - an application of any framework
    if hasattr(app, "url_map"):
        from audit_integrations.flask import entry_points as of_flask

        return partial(of_flask, app)
    if type(app).__module__.startswith("django.core.handlers"):
        from audit_integrations.django.routes import entry_points as of_django

        return of_django
    if routes_of(app) is not None:
        from audit_integrations.starlette import entry_points as of_starlette

        return partial(of_starlette, app)
    return None


def _work(app: Any) -> Callable[[], Iterable[EntryPoint]] | None:  # noqa: ANN401 - an application of any framework
    """Do the same for workers and programs."""
    if hasattr(app, "register_task") and hasattr(app, "tasks"):
        return partial(_of_celery, app)
    if hasattr(app, "get_declared_actors"):
        from audit_integrations.dramatiq import entry_points as of_dramatiq

        return partial(of_dramatiq, app)
    if hasattr(app, "registered_commands") or hasattr(app, "make_context"):
        from audit_integrations.click import entry_points as of_click

        return partial(of_click, app)
    return None


def _of_celery(app: Any) -> Iterable[EntryPoint]:  # noqa: ANN401 - a Celery app
    from audit_integrations.celery import entry_points as of_celery

    app.loader.import_default_modules()  # as a worker does: what no test imports is a task all the same
    return of_celery(app)


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
