"""The view that a request would reach in a Flask app, or in another one that is mounted in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flask import Flask

_MAX_WRAPPERS: Final = 50


def view_of(application: Any, environ: dict[str, Any]) -> object:  # noqa: ANN401 - any WSGI app
    """Return the view that a URL map leads to; raises what the map raises when there is none.

    ``application`` is what a Flask app calls: its own method, with whatever middleware around it.
    """
    environ = dict(environ)  # a request of Flask leaves itself in the environ it gets
    for _ in range(_MAX_WRAPPERS):
        owner = getattr(application, "__self__", None)
        if isinstance(owner, Flask):
            adapter = owner.create_url_adapter(owner.request_class(environ))
            return owner.view_functions.get(adapter.match()[0]) if adapter is not None else None
        application = _next(application, environ)
    return None


def view_in(app: Flask, scope: Mapping[str, Any]) -> object:
    """Return the same for an app that an ASGI app has mounted, and the scope that it gets."""
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
    inner = getattr(application, "app", None)
    mounts = getattr(application, "mounts", None)
    if not isinstance(mounts, Mapping):
        return inner
    at = path = environ.get("PATH_INFO", "")
    while "/" in at and at not in mounts:
        at = at.rpartition("/")[0]
    environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + at
    environ["PATH_INFO"] = path.removeprefix(at)
    return mounts.get(at, inner)
