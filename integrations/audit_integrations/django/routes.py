"""The route that Django's resolver found, as a template."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final

from django.contrib.admindocs.views import simplify_regex
from django.http import HttpRequest
from django.urls import get_resolver
from django.urls.resolvers import URLPattern, URLResolver

from audit_middleware.capture.audited import rules_for
from audit_middleware.capture.coverage import ANY, EntryPoint

_NAMES: Final = ("get", "post", "put", "patch", "delete")


def route_of(request: HttpRequest) -> tuple[str, Mapping[str, object]] | None:
    """Return (template, arguments) of the view that was called; None when there is none."""
    match = request.resolver_match
    if match is None or match.route is None:
        return None
    return template(match.route), match.kwargs or {str(n): value for n, value in enumerate(match.args)}


def view_of(request: HttpRequest) -> object:
    """Return the view that the resolver finds; raises ``Resolver404`` when there is none."""
    return get_resolver(getattr(request, "urlconf", None)).resolve(request.path_info).func


@lru_cache(maxsize=4096)
def template(route: str) -> str:
    """Return ``/orders/<int:pk>/`` for ``orders/<int:pk>/``, and ``/orders/<pk>/`` for ``^orders/(?P<pk>[0-9]+)/$``."""
    if any(sign in route for sign in "(^$\\"):
        return str(simplify_regex(route))
    return f"/{route}"


def entry_points(urlconf: str | None = None) -> Iterator[EntryPoint]:
    """Yield every URL pattern of the project, those of included lists too, with the methods its view names."""
    yield from _walk(get_resolver(urlconf).url_patterns, "")


def _walk(patterns: Iterable[URLPattern | URLResolver], before: str) -> Iterator[EntryPoint]:
    for pattern in patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern.url_patterns, route)
            continue
        for method in _methods_of(pattern.callback):
            rules = rules_for(pattern.callback, method)
            exemption = rules.exemption if rules is not None else None
            yield EntryPoint("http", method, template(route), pattern.name or pattern.lookup_str, exemption)


def _methods_of(view: object) -> list[str]:
    """Return the methods that a view takes: those a class has, or those a decorator of Django lets through."""
    view_class = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if view_class is None:
        return _required_of(view) or [ANY]
    actions = getattr(view, "actions", None)  # of a view set of Django REST framework
    names = actions if isinstance(actions, Mapping) else [name for name in _NAMES if hasattr(view_class, name)]
    allowed = getattr(view_class, "http_method_names", _NAMES)
    return [name.upper() for name in _NAMES if name in names and name in allowed] or [ANY]


def _required_of(view: object) -> list[str]:
    """Return what ``require_http_methods`` and its kin were told; they leave it nowhere but in their closure."""
    while callable(view):
        if inspect.isfunction(view):
            required = inspect.getclosurevars(view).nonlocals.get("request_method_list")
            if required is not None:
                return [method for method in required if method != "HEAD" or "GET" not in required]
        view = getattr(view, "__wrapped__", None)
    return []
