"""The route of a request, as frameworks leave it in an ASGI scope or a WSGI environ after routing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Final

ROUTE: Final = "audit_middleware.route"
"""Where an integration leaves (template, parameters) in a WSGI environ, if the framework does not leave them."""


VIEW: Final = "audit_middleware.view"
"""Where an integration leaves in a WSGI environ what the router found to call."""


def route_template(scope: MutableMapping[str, Any], initial_root: str, routes: Iterable[Any] = ()) -> str | None:
    """Return the template of the route that matched, mounted apps joined; None when none did.

    A mount leaves the path it matched in ``root_path``, behind what the server had put there (``initial_root``).
    ``routes`` are those of the outermost app, which know what the path of a mount was written as.
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
        return f"{root.removeprefix(initial_root)}/*"  # a mounted app without routes that can be seen: static files
    mounted = root.removeprefix(initial_root)
    if not mounted or mounted == path:
        return path or "/"
    names = scope.get("path_params") or {}
    if any(f"{{{name}}}" not in path and f"{{{name}:" not in path for name in names):
        mounted = _mounts(routes, {**scope, "root_path": initial_root, "path_params": {}}) or mounted
    return mounted + path


def endpoint_of(scope: Mapping[str, Any]) -> object:
    """Return what the router of a Starlette or FastAPI app would call; None when that cannot be seen."""
    return _endpoint(getattr(scope.get("app"), "routes", None) or (), dict(scope))


def _endpoint(routes: Iterable[Any], scope: dict[str, Any]) -> object:
    for route in routes:
        match, found = route.matches(scope)
        if match.name != "FULL":
            continue
        inner = {**scope, **found}
        endpoint = inner.get("endpoint")
        below = getattr(route, "routes", None) or getattr(endpoint, "routes", None)
        return _endpoint(below, inner) if below else endpoint
    return None


def _is_mount(route: Any) -> bool:  # noqa: ANN401 - routes have no common type
    """Whether this is what an app is mounted with: it matched, and no route of that app did."""
    return not hasattr(route, "endpoint") and hasattr(route, "app")


def wsgi_route(environ: Mapping[str, Any]) -> tuple[str | None, object]:
    """Return the template of the route that matched and its parameters; (None, None) when none did.

    Integrations leave both under `ROUTE`, Werkzeug (Flask) its request, Bottle its route.
    """
    if ROUTE in environ:
        rule, params = environ[ROUTE]
        return rule, params
    request = environ.get("werkzeug.request")
    if request is not None:
        rule = getattr(getattr(request, "url_rule", None), "rule", None)
        return (rule, getattr(request, "view_args", None)) if isinstance(rule, str) else (None, None)
    rule = getattr(environ.get("bottle.route"), "rule", None)
    return (rule, environ.get("route.url_args")) if isinstance(rule, str) else (None, None)


def _mounts(routes: Iterable[Any], scope: dict[str, Any]) -> str:
    """Walk down the mounts that match, and join what their paths were written as."""
    for route in routes:
        below = getattr(route, "routes", None)
        match, found = route.matches(scope) if below else (None, {})
        if match is not None and match.name == "FULL":
            return getattr(route, "path", "") + _mounts(below or (), {**scope, **found})
    return ""


def _path_of(endpoint: object, routes: Iterable[Any]) -> str | None:
    """Return the path of a plain route, which leaves its endpoint in the scope and not itself: FastAPI's own pages."""
    found: Iterator[str] = (route.path for route in routes if getattr(route, "endpoint", None) is endpoint)
    return next(found, None)
