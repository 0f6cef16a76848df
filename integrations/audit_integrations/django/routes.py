"""The route that Django's resolver found, as a template."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from django.contrib.admindocs.views import simplify_regex
from django.http import HttpRequest


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
