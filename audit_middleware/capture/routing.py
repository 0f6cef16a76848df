"""The route of a request, as frameworks leave it in an ASGI scope or a WSGI environ after routing."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final

from audit_middleware.capture.routers import application_in, is_view, path_of, resolved, routes_of

ROUTE: Final = "audit_middleware.route"
"""Where an integration leaves (template, parameters) in a WSGI environ, if the framework does not leave them."""

VIEW: Final = "audit_middleware.view"
"""Where an integration leaves in a WSGI environ what the router found to call."""


def route_template(scope: MutableMapping[str, Any], initial_root: str, application: object) -> str | None:
    """Return the template of the route that matched, mounted apps joined; None when none did.

    A mount leaves the path it matched in ``root_path``, behind what the server had put there (``initial_root``).
    The routes of the outermost ``application`` know what the path of a mount was written as.
    """
    route = scope.get("route")
    path = _matched(scope, route)
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


def _matched(scope: Mapping[str, Any], route: object) -> object:
    """Return the path of what matched, below all mounts."""
    path: object = getattr(route, "path", None) if route is not None else None
    if "fastapi" in scope:  # a route of a router that was included with a prefix does not know the prefix
        own = scope["fastapi"]
        context = own.get("effective_route_context")
        plain: Any = getattr(context, "starlette_route", None)  # of such a router too, and left nowhere else
        if context is not None and context.original_route is route:
            path = context.path
        elif scope.get("endpoint") is not None and getattr(plain, "endpoint", None) is scope["endpoint"]:
            path = plain.path
        if "frontend_path" in own:
            path = _frontend(scope, own["frontend_path"])
    elif route is None:
        path = scope.get("path_template")  # Litestar's
    if path is None and scope.get("endpoint") is not None:
        path = _path_of(scope["endpoint"], routes_of(scope.get("app")) or ())
    return path


def view_in(scope: Mapping[str, Any]) -> object:
    """Return the view that a router found and left in the scope, Litestar's one too; None where none does."""
    view = scope.get("endpoint")
    return view if view is not None else getattr(scope.get("route_handler"), "fn", None)


def _is_mount(route: Any) -> bool:  # noqa: ANN401 - routes have no common type
    """Whether this is what an app is mounted with: it matched, and no route of that app did."""
    return not is_view(route) and hasattr(route, "app")


def is_written(endpoint: object) -> bool:
    """Whether an endpoint is a view, a function or a class; what is mounted is an object."""
    return inspect.isroutine(endpoint) or inspect.isclass(endpoint)


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
    for route in resolved(routes_of(app) or ()):
        match, found = (None, {}) if is_view(route) else route.matches(scope)
        if match is not None and match.name == "FULL":
            below = _mounts(application_in(route), {**scope, **found})
            return path_of(route) + below
    return ""


def _frontend(scope: Mapping[str, Any], behind: str) -> str:
    """Return the path of a static frontend, spelled as that of mounted files; ``behind`` was asked for in it."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.removesuffix(behind).rstrip("/") + "/*"


def _path_of(endpoint: object, routes: Iterable[Any]) -> str | None:
    """Return the path of a plain route, which leaves its endpoint in the scope and not itself: FastAPI's own pages."""
    found: Iterator[str] = (route.path for route in routes if getattr(route, "endpoint", None) is endpoint)
    return next(found, None)
