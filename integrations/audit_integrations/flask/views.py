"""The view that a request would reach in a Flask app, or in another one that is mounted in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flask import Flask

_MAX_WRAPPERS: Final = 50


def view_of(app: Flask, environ: dict[str, Any], application: Any = None) -> object:  # noqa: ANN401 - any WSGI app
    """Return the view that a URL map leads to; raises what the map raises when there is none.

    ``application`` is what the app calls: its own method, with whatever middleware around it, behind which there may
    be another app. Through what keeps its next one elsewhere than others nothing is seen but the app itself, and
    nothing at all behind a mount.
    """
    found, seen = application or app, dict(environ)
    for _ in range(_MAX_WRAPPERS):
        owner = getattr(found, "__self__", None)
        if isinstance(owner, Flask):
            return _routed(owner, seen)
        found = _next(found, seen)
    is_mounted = seen.get("PATH_INFO") != environ.get("PATH_INFO")
    return None if is_mounted else _routed(app, dict(environ))


def _routed(app: Flask, environ: dict[str, Any]) -> object:
    adapter = app.create_url_adapter(app.request_class(environ))  # which leaves itself in the environ it gets
    return app.view_functions.get(adapter.match()[0]) if adapter is not None else None


def view_in(app: Flask, scope: Mapping[str, Any]) -> object:
    """Return the same for an app inside another, and the ASGI scope or WSGI environ that it gets."""
    if "REQUEST_METHOD" in scope:
        return view_of(app, dict(scope))
    root, path = scope.get("root_path", ""), scope["path"]
    host = next((value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"host"), "localhost")
    server, port = scope.get("server") or ("localhost", 80)
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root.encode().decode("latin-1"),
        "PATH_INFO": path.removeprefix(root).encode().decode("latin-1"),
        "HTTP_HOST": host,
        "SERVER_NAME": server,
        "SERVER_PORT": str(port),
        "wsgi.url_scheme": scope.get("scheme", "http"),
    }
    return view_of(app, environ)


def _next(application: Any, environ: dict[str, Any]) -> Any:  # noqa: ANN401 - any WSGI app
    """Return what a middleware calls; Werkzeug's ``DispatcherMiddleware`` has apps by the path they are mounted at."""
    if isinstance(application, Flask):
        return application.wsgi_app
    inner = getattr(application, "app", None) or getattr(application, "application", None)  # as WhiteNoise calls it
    mounts = getattr(application, "mounts", None)
    if not isinstance(mounts, Mapping):
        return inner
    at = path = environ.get("PATH_INFO", "")
    while "/" in at and at not in mounts:
        at = at.rpartition("/")[0]
    environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + at
    environ["PATH_INFO"] = path.removeprefix(at)
    return mounts.get(at, inner)
