"""Which framework an application is of, and what can be called in it."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from audit_middleware import ConfigurationError
from audit_middleware.capture.coverage import EntryPoint


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
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{target!r} cannot be imported: {error}") from error
    return found() if name.endswith("()") else found


def entry_points(app: Any) -> list[EntryPoint]:  # noqa: ANN401 - an application of any framework
    """Return what can be called in a FastAPI, Starlette, Flask or Django application.

    Raises `ConfigurationError` for one whose routes cannot be seen.
    """
    if hasattr(app, "url_map"):
        from audit_integrations.flask import entry_points as of_flask

        return list(of_flask(app))
    if type(app).__module__.startswith("django.core.handlers"):
        from audit_integrations.django.routes import entry_points as of_django

        return list(of_django())
    if hasattr(app, "routes"):
        from audit_integrations.starlette import entry_points as of_starlette

        return list(of_starlette(app))
    raise ConfigurationError(
        f"the routes of {type(app).__name__} cannot be seen; expected a FastAPI, Starlette, Flask or Django application"
    )
