"""Which framework an application is of, and what can be called in it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from audit_middleware import ConfigurationError
from audit_middleware.capture.coverage import EntryPoint

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
    """Return what can be called in a FastAPI, Starlette, Flask or Django application, whatever is wrapped around it.

    Raises `ConfigurationError` for one whose routes cannot be seen, or that has none.
    """
    walk = _walker(app)
    if walk is None:
        raise ConfigurationError(
            f"the routes of {type(app).__name__} cannot be seen; "
            "expected a FastAPI, Starlette, Flask or Django application"
        )
    try:
        points = list(walk())
    except Exception as error:  # the routes are made by the application's own code
        raise ConfigurationError(f"the routes of {type(app).__name__} cannot be read: {_said(error)}") from error
    if not points:
        raise ConfigurationError(f"{type(app).__name__} has no routes: there is nothing to cover")
    return points


def _walker(app: Any) -> Callable[[], Iterable[EntryPoint]] | None:  # noqa: ANN401 - an application of any framework
    """Find the framework of an application, inside the middleware wrapped around it, which keeps it as ``app``."""
    for _ in range(_MAX_WRAPPERS):
        if hasattr(app, "url_map"):
            from audit_integrations.flask import entry_points as of_flask

            return partial(of_flask, app)
        if type(app).__module__.startswith("django.core.handlers"):
            from audit_integrations.django.routes import entry_points as of_django

            return of_django
        if hasattr(app, "routes"):
            from audit_integrations.starlette import entry_points as of_starlette

            return partial(of_starlette, app)
        app = getattr(app, "app", None)
    return None


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
