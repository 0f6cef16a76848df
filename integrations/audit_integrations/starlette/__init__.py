"""Starlette and FastAPI: what can be called in an application, for audit coverage, and background tasks on record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from audit_integrations.starlette.background import audit_background
from audit_middleware.capture.coverage import ANY, EntryPoint
from audit_middleware.capture.exemption import Exemption
from audit_middleware.capture.rules import rules_for

__all__ = ["audit_background", "entry_points"]


def entry_points(app: Any) -> Iterator[EntryPoint]:  # noqa: ANN401 - any app with routes, whatever wraps it
    """Yield every route of a Starlette or FastAPI app, mounted apps and websockets included."""
    yield from _walk(app.routes, "")


def _walk(routes: Iterable[Any], mounted: str) -> Iterator[EntryPoint]:
    for route in routes:
        if hasattr(route, "include_context"):  # FastAPI resolves the routers it includes when it is asked to
            from fastapi.routing import iter_route_contexts

            yield from _walk(iter_route_contexts([route]), mounted)
        elif hasattr(route, "endpoint"):
            yield from _points(route, mounted)
        else:
            yield from _below(route, mounted + getattr(route, "path", ""))  # a host has no path


def _below(route: Any, mounted: str) -> Iterator[EntryPoint]:  # noqa: ANN401 - routes have no common type
    """Yield what is mounted, whatever is wrapped around it."""
    app = route
    while app is not None and not getattr(app, "routes", None) and not _is_audited_django(app):
        app = getattr(app, "app", None)
    if app is None:  # an app without routes that can be seen, such as static files
        yield EntryPoint("http", ANY, f"{mounted}/*", str(getattr(route, "name", None) or ""))
    elif _is_audited_django(app):
        from audit_integrations.django.routes import entry_points as of_django

        yield from (point._replace(route=mounted + point.route) for point in of_django())
    else:
        yield from _walk(app.routes, mounted)


def _is_audited_django(app: object) -> bool:
    """Whether this is a Django project whose own middleware tells ours which route it was."""
    if not type(app).__module__.startswith("django.core.handlers"):
        return False
    from django.conf import settings

    return any(str(name).startswith("audit_integrations.django") for name in settings.MIDDLEWARE)


def _points(route: Any, mounted: str) -> Iterator[EntryPoint]:  # noqa: ANN401 - routes have no common type
    template, endpoint = mounted + (getattr(route, "path", None) or ""), getattr(route, "endpoint", None)
    name = str(getattr(route, "name", None) or getattr(endpoint, "__name__", ""))
    methods = getattr(route, "methods", None)
    if methods is None and _is_websocket(route):
        yield EntryPoint("websocket", "GET", template, name, _exemption(endpoint, ""))
        return
    for method in sorted(methods or _methods_of(endpoint)):
        if method != "HEAD" or "GET" not in (methods or ()):
            yield EntryPoint("http", method, template, name, _exemption(endpoint, method))


def _exemption(endpoint: object, method: str) -> Exemption | None:
    rules = rules_for(endpoint, method)
    return rules.exemption if rules is not None else None


def _is_websocket(route: Any) -> bool:  # noqa: ANN401 - routes have no common type
    original = getattr(route, "original_route", route)
    return any("WebSocket" in each.__name__ for each in type(original).__mro__)


def _methods_of(endpoint: object) -> set[str]:
    """Return the methods that a class of endpoints has, ``*`` for one that takes all."""
    named = {method for method in ("GET", "POST", "PUT", "PATCH", "DELETE") if hasattr(endpoint, method.lower())}
    return named or {ANY}
