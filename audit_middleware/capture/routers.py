"""What routers like Starlette's and FastAPI's consist of, as far as they show it; no framework is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

MAX_WRAPPERS: Final = 50
"""Middleware around an application, at most, through which it is looked for."""


def routes_of(app: Any) -> Sequence[Any] | None:  # noqa: ANN401 - any app
    """Return the routes of an app whose router is like Starlette's; None for others, as Litestar's, which has some."""
    routes = getattr(app, "routes", None)
    if not isinstance(routes, list | tuple):
        return None
    return routes if not routes or hasattr(routes[0], "matches") else None


def resolved(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield the routes of a router, those of routers that it includes too: FastAPI keeps these for itself."""
    for route in routes:
        if hasattr(route, "include_context"):
            yield from sys.modules["fastapi.routing"].iter_route_contexts([route])
        else:
            yield route


def is_view(route: Any) -> bool:  # noqa: ANN401 - routes have no common type
    """Whether a route calls a view; a mount and a host have none, and FastAPI's context of either has None."""
    return getattr(route, "endpoint", None) is not None


def path_of(route: Any) -> str:  # noqa: ANN401 - routes have no common type
    """Return the path of a mount as it is written; a host has none, and FastAPI's context of one has None."""
    return getattr(route, "path", None) or ""


def frontends(app: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any app with routes
    """Yield the static frontends of a FastAPI app, each with its prefix; it tries them last, and does not list them."""
    router = app
    for _ in range(MAX_WRAPPERS):
        if router is None or hasattr(router, "_low_priority_routes"):
            break
        router = getattr(router, "router", None) or getattr(router, "app", None)
    groups = [("", group) for group in getattr(router, "_low_priority_routes", ())]
    for route in getattr(router, "routes", ()):
        found = route.effective_low_priority_routes() if hasattr(route, "effective_low_priority_routes") else ()
        groups += [(context.frontend_prefix, context.original_route) for context in found]
    for prefix, group in groups:
        yield from ((prefix, route) for route in getattr(group, "routes", ()))


def application_in(app: Any, is_known: Callable[[object], bool] = lambda _app: False) -> Any:  # noqa: ANN401 - any app
    """Return what has routes, or is known, behind a mount or middleware, which keep the next one as ``app``.

    Channels keeps it by protocol.

    Returns an application without any routes if there is no other, and None if there is none at all.
    """
    empty = None
    for _ in range(MAX_WRAPPERS):
        if app is None:
            break
        routes = routes_of(app)
        if routes or is_known(app):
            return app
        if routes is not None:
            empty = app
        app = _next(app)
    return empty


def _next(app: Any) -> Any:  # noqa: ANN401 - any app
    by_protocol = getattr(app, "application_mapping", None)  # of Channels
    if isinstance(by_protocol, Mapping):
        return by_protocol.get("http")
    return getattr(app, "app", None) or getattr(app, "wsgi_application", None)  # asgiref's bridge to WSGI
