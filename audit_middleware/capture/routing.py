"""The route of a request, as frameworks leave it in an ASGI scope or a WSGI environ after routing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

ROUTE: Final = "audit_middleware.route"
"""Where an integration leaves (template, parameters) in a WSGI environ, if the framework does not leave them."""


def route_template(scope: MutableMapping[str, Any], initial_root: str) -> str | None:
    """Return the template of the route that matched, mounted apps joined; None when none did.

    A mount leaves the path it matched in ``root_path``, behind what the server had put there (``initial_root``).
    """
    route = scope.get("route")
    path = getattr(route, "path", None) if route is not None else None
    if "fastapi" in scope:  # a route of a router that was included with a prefix does not know the prefix
        context = scope["fastapi"].get("effective_route_context")
        if context is not None and context.original_route is route:
            path = context.path
    elif route is None:
        path = scope.get("path_template")  # Litestar's
    root = scope.get("root_path", "")
    if root == initial_root:
        return (path or "/") if isinstance(path, str) else None
    if not isinstance(path, str) or _is_mount(route):
        if hasattr(scope.get("endpoint"), "routes"):
            return None
        return f"{root.removeprefix(initial_root)}/*"  # a mounted app without routes that can be seen: static files
    mounted = root.removeprefix(initial_root)
    if not mounted or mounted == path:
        return path or "/"
    return _mount_template(mounted, path, scope.get("path_params") or {}) + path


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


def _mount_template(mounted: str, path: str, params: Mapping[str, Any]) -> str:
    """A mount shows its path with the values in place; put the names of those that are not the inner route's back."""
    names = {str(value): name for name, value in params.items() if "{" + name not in path}
    return "/".join(f"{{{names[part]}}}" if part in names else part for part in mounted.split("/"))
