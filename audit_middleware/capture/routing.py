"""The route of a request, as frameworks leave it in an ASGI scope or a WSGI environ after routing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final

ROUTE: Final = "audit_middleware.route"
"""Where an integration leaves (template, parameters) in a WSGI environ, if the framework does not leave them."""

VIEW: Final = "audit_middleware.view"
"""Where an integration leaves in a WSGI environ what the router found to call."""

MOUNTED: Final = "audit_middleware.mounted"
"""What is in a WSGI environ if an ASGI app has mounted this one, and the ASGI middleware observes the request."""
MAX_WRAPPERS: Final = 50
"""Middleware around an application, at most, through which it is looked for."""


def route_template(scope: MutableMapping[str, Any], initial_root: str, application: object) -> str | None:
    """Return the template of the route that matched, mounted apps joined; None when none did.

    A mount leaves the path it matched in ``root_path``, behind what the server had put there (``initial_root``).
    The routes of the outermost ``application`` know what the path of a mount was written as.
    """
    route = scope.get("route")
    path: object = getattr(route, "path", None) if route is not None else None
    if "fastapi" in scope:  # a route of a router that was included with a prefix does not know the prefix
        context = scope["fastapi"].get("effective_route_context")
        if context is not None and context.original_route is route:
            path = context.path
    elif route is None:
        path = scope.get("path_template")  # Litestar's
    if path is None and scope.get("endpoint") is not None:
        path = _path_of(scope["endpoint"], getattr(scope.get("app"), "routes", None) or ())
    root: str = scope.get("root_path", "")
    if root == initial_root:
        return (path or "/") if isinstance(path, str) else None
    if not isinstance(path, str) or _is_mount(route):
        if hasattr(scope.get("endpoint"), "routes"):
            return None
        path = "/*"  # a mounted app without routes that can be seen: static files
    mounted = root.removeprefix(initial_root)
    if not mounted or mounted == path:
        return path or "/"
    names = scope.get("path_params") or {}
    if any(f"{{{name}}}" not in path and f"{{{name}:" not in path for name in names):
        mounted = _mounts(application, {**scope, "root_path": initial_root, "path_params": {}}) or mounted
    return mounted + path


def joined(mount: str | None, below: str) -> str:
    """Return the template of a route ``below`` an application that is mounted, behind that of the ``mount``."""
    return (mount or "").removesuffix("/*") + below


def joined_params(mount: object, below: object) -> dict[str, object]:
    """Return the parameters of both."""
    return {name: value for params in (mount, below) if isinstance(params, Mapping) for name, value in params.items()}


def resolved(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield the routes of a router, those of routers that it includes too: FastAPI keeps these for itself."""
    for route in routes:
        if hasattr(route, "include_context"):
            yield from sys.modules["fastapi.routing"].iter_route_contexts([route])
        else:
            yield route


def application_in(app: Any, is_known: Callable[[object], bool] = lambda _app: False) -> Any:  # noqa: ANN401 - any app
    """Return what has routes, or is known, behind a mount or middleware, which keep the next one as ``app``.

    Channels keeps it by protocol.

    Returns an application without any routes if there is no other, and None if there is none at all.
    """
    empty = None
    for _ in range(MAX_WRAPPERS):
        if app is None:
            break
        routes = getattr(app, "routes", None)
        if routes or is_known(app):
            return app
        if routes is not None:
            empty = app
        app = _next(app)
    return empty


def _next(app: Any) -> Any:  # noqa: ANN401 - any app
    by_protocol = getattr(app, "application_mapping", None)  # of Channels
    return by_protocol.get("http") if isinstance(by_protocol, Mapping) else getattr(app, "app", None)


def _is_mount(route: Any) -> bool:  # noqa: ANN401 - routes have no common type
    """Whether this is what an app is mounted with: it matched, and no route of that app did."""
    return not is_view(route) and hasattr(route, "app")


def is_view(route: Any) -> bool:  # noqa: ANN401 - routes have no common type
    """Whether a route calls a view; a mount and a host have none, and FastAPI's context of either has None."""
    return getattr(route, "endpoint", None) is not None


def wsgi_route(environ: Mapping[str, Any]) -> tuple[str | None, object]:
    """Return the template of the route that matched and its parameters; (None, None) when none did.

    Integrations leave both under `ROUTE`, Werkzeug (Flask) its request, Bottle its route.
    """
    if ROUTE in environ:
        rule, params = environ[ROUTE]
        return rule, params
    request = environ.get("werkzeug.request")  # which Werkzeug's own middleware leaves around any app
    rule = getattr(getattr(request, "url_rule", None), "rule", None)
    if isinstance(rule, str):
        return rule, getattr(request, "view_args", None)
    rule = getattr(environ.get("bottle.route"), "rule", None)
    return (rule, environ.get("route.url_args")) if isinstance(rule, str) else (None, None)


def wsgi_view(environ: Mapping[str, Any]) -> object:
    """Return what the router found to call, where an integration or Bottle leaves it; None where nobody does."""
    return environ[VIEW] if VIEW in environ else getattr(environ.get("bottle.route"), "callback", None)


def _mounts(app: object, scope: dict[str, Any]) -> str:
    """Walk down the mounts that match, and join what their paths were written as."""
    for route in resolved(getattr(app, "routes", None) or ()):
        match, found = (None, {}) if is_view(route) else route.matches(scope)
        if match is not None and match.name == "FULL":
            below = _mounts(application_in(route), {**scope, **found})
            return getattr(route, "path", "") + below  # a host has no path
    return ""


def _path_of(endpoint: object, routes: Iterable[Any]) -> str | None:
    """Return the path of a plain route, which leaves its endpoint in the scope and not itself: FastAPI's own pages."""
    found: Iterator[str] = (route.path for route in routes if getattr(route, "endpoint", None) is endpoint)
    return next(found, None)
