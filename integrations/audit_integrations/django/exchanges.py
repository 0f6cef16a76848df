"""Which exchange a request of Django belongs to: that of our middleware, or of one around the whole project."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from django.http import HttpRequest

from audit_integrations.django.routes import route_of
from audit_middleware import current_audit
from audit_middleware.capture import MARK, ROUTE, VIEW, Exchange, around, tell

LOGGER: Final = logging.getLogger("audit_middleware")


def exchange_of(request: HttpRequest) -> Exchange | None:
    """Return the exchange that observes ``request``; None while nobody does."""
    found = request.META.get(MARK)
    return found if found is not None else _scope_of(request).get(MARK)


def outer_of(request: HttpRequest) -> Exchange | None:
    """Return the exchange of an audit middleware around the project, perhaps around a bridge; None without one."""
    found = exchange_of(request)
    return found if found is not None else around(request.META, request.path)  # META has it as text already


def exchange_at_hand(request: HttpRequest | None) -> Exchange | None:
    """Return the same, or for code that was not given its request the exchange it runs in."""
    found = exchange_of(request) if request is not None else None
    if found is not None:
        return found
    current = current_audit()
    return current if isinstance(current, Exchange) else None


def note_route(request: HttpRequest, outer: Exchange) -> None:
    """Tell an exchange around the project which view Django's resolver found, below whatever it is mounted at."""
    if outer.route is not None:
        return
    try:
        _note_route(request, outer)
    except Exception:
        LOGGER.exception("audit: the route of the request cannot be read")


def _note_route(request: HttpRequest, outer: Exchange) -> None:
    found = route_of(request)
    if found is None:
        return
    route, arguments = found
    view = request.resolver_match.func if request.resolver_match is not None else None
    scope = _scope_of(request)
    if not scope:
        request.META[ROUTE], request.META[VIEW] = (route, arguments), view
        tell(outer, request.META)
        return
    mounted = dict(scope.get("path_params") or {})
    outer.route = _mounted_at(scope, mounted) + route
    scope["path_params"], scope["endpoint"] = {**mounted, **arguments}, view  # as a router does: adapters look there


def _mounted_at(scope: MutableMapping[str, Any], params: Mapping[str, Any]) -> str:
    """Return the template of the mount: Starlette leaves the path it matched in ``root_path``, behind the server's."""
    root: str = scope.get("root_path", "")
    mounted = root.removeprefix(scope.get("app_root_path", root))
    names = {str(value): name for name, value in params.items()}
    return "/".join(f"{{{names[part]}}}" if part in names else part for part in mounted.split("/"))


def _scope_of(request: HttpRequest) -> MutableMapping[str, Any]:
    """Return the ASGI scope of a request; an empty one under WSGI."""
    scope: MutableMapping[str, Any] | None = getattr(request, "scope", None)
    return scope if scope is not None else {}
