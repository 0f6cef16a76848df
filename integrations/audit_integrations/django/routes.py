"""The route that Django's resolver found, as a template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from django.contrib.admindocs.views import simplify_regex
from django.http import HttpRequest
from django.urls import get_resolver
from django.urls.resolvers import URLPattern, URLResolver

from audit_middleware.capture.audited import rules_of
from audit_middleware.capture.coverage import ANY, EntryPoint


def route_of(request: HttpRequest) -> tuple[str, Mapping[str, object]] | None:
    """Return (template, arguments) of the view that was called; None when there is none."""
    match = request.resolver_match
    if match is None or match.route is None:
        return None
    return template(match.route), match.kwargs or {str(n): value for n, value in enumerate(match.args)}


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
        rules = rules_of(pattern.callback)
        exemption = rules.exemption if rules is not None else None
        for method in _methods_of(pattern.callback):
            yield EntryPoint("http", method, template(route), pattern.name or pattern.lookup_str, exemption)


def _methods_of(view: object) -> list[str]:
    """Return the methods that a class-based view has; a function may take any."""
    view_class = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if view_class is None:
        return [ANY]
    names = ("get", "post", "put", "patch", "delete")
    return [name.upper() for name in names if hasattr(view_class, name)] or [ANY]
