"""The route that Django's resolver found, as a template."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import count
from types import ModuleType
from typing import Any, Final

from django.conf import settings
from django.contrib.admindocs.views import simplify_regex
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.urls import get_resolver
from django.urls.resolvers import URLPattern, URLResolver
from django.utils import decorators
from django.views.decorators import http

from audit_integrations.django.conf import project_name
from audit_middleware.capture import ANY, Declaration, EntryPoint
from audit_middleware.capture.entry_points import know
from audit_middleware.capture.rules import rules_for

_OPENED: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?!\?)")  # what is escaped or in a class opens no group
_IGNORED: Final = "__ignored__"
_NAMES: Final = ("get", "post", "put", "patch", "delete")
_MAX_DECORATORS: Final = 50


def route_of(request: HttpRequest) -> tuple[str, Mapping[str, object]] | None:
    """Return (template, arguments) of the view that was called; None when there is none."""
    match = request.resolver_match
    if match is None or match.route is None:
        return None
    if not match.args:
        return template(match.route), match.kwargs
    unnamed = {str(number): value for number, value in enumerate(match.args)}
    return template(match.route, len(unnamed)), {**unnamed, **match.kwargs}


def view_of(request: HttpRequest) -> object:
    """Return the view that the resolver finds; raises ``Resolver404`` when there is none."""
    return get_resolver(getattr(request, "urlconf", None)).resolve(request.path_info).func


@lru_cache(maxsize=4096)
def template(route: str, unnamed: int = 0) -> str:
    r"""Return ``/orders/<int:pk>/`` for ``orders/<int:pk>/``, and ``/orders/<pk>/`` for ``^orders/(?P<pk>[0-9]+)/$``.

    ``unnamed`` is how many groups without a name reach the view: ``/orders/<0>/`` for ``^orders/(\d+)/$``. The others,
    which Django ignores for the named ones beside them, are ``*``.
    """
    if any(sign in route for sign in "(^$\\"):
        return str(simplify_regex(_numbered(route, unnamed))).replace(f"<{_IGNORED}>", "*")
    return f"/{route}"


def _numbered(route: str, unnamed: int) -> str:
    """Give the unnamed groups of a regular expression names; the last ``unnamed`` ones reach the view."""
    number = count(unnamed - sum(found[0] == "(" for found in _OPENED.finditer(route)))

    def name(found: re.Match[str]) -> str:
        if found[0] != "(":
            return found[0]
        position = next(number)
        return f"(?P<{position if position >= 0 else _IGNORED}>"

    return _OPENED.sub(name, route)


def entry_points(urlconf: str | None = None) -> Iterator[EntryPoint]:
    """Yield every URL pattern of the project, those of included lists too, with the methods its view names."""
    yield from _walk(get_resolver(urlconf).url_patterns, ())


def declaration() -> Declaration:
    """Return what a project declares: its URL patterns."""
    return Declaration(" ".join(filter(None, ["django", project_name()])), entry_points, ("django",))


def _mounted(app: object) -> Declaration | None:
    """Return the same for a project inside an ASGI app, if its own middleware tells ours which route it was."""
    if not type(app).__module__.startswith("django.core.handlers"):
        return None
    is_audited = any(str(name).startswith("audit_integrations.django") for name in settings.MIDDLEWARE)
    return declaration() if is_audited else None


def _view_in(_app: object, scope: Mapping[str, Any]) -> object:
    return view_of(ASGIRequest({**scope, "method": scope.get("method", "GET")}, io.BytesIO()))


know(_mounted, _view_in)


def _walk(patterns: Iterable[URLPattern | URLResolver], above: tuple[URLResolver, ...]) -> Iterator[EntryPoint]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern.url_patterns, (*above, pattern))
            continue
        route = "".join(str(each.pattern) for each in above) + str(pattern.pattern)
        shown = template(route, _unnamed(pattern, above))
        for method in _methods_of(pattern.callback):
            rules = rules_for(pattern.callback, method)
            exemption = rules.exemption if rules is not None else None
            yield EntryPoint("http", method, shown, pattern.name or pattern.lookup_str, exemption)


def _unnamed(pattern: URLPattern, above: tuple[URLResolver, ...]) -> int:
    """Count the groups without a name that reach a view; one with a name, or a value beside, hides those before it."""
    own = pattern.pattern.regex
    found = 0 if own.groupindex else own.groups
    is_hiding = bool(own.groupindex or pattern.default_args)
    for resolver in reversed(above):
        regex = resolver.pattern.regex
        is_hiding = is_hiding or bool(regex.groupindex or resolver.default_kwargs)
        found += 0 if is_hiding else regex.groups
    return found


def _methods_of(view: object) -> list[str]:
    """Return the methods that a view takes: those a class has, or those decorators of Django let through."""
    view_class = getattr(view, "view_class", None) or getattr(view, "cls", None)
    if view_class is None:
        return _required_of(view) or [ANY]
    required = _in_all([_required_of(view), _required_of(getattr(view_class, "dispatch", None))])
    actions = getattr(view, "actions", None)  # of a view set of Django REST framework
    handlers: Any = actions if isinstance(actions, Mapping) else {name: name for name in _NAMES}
    given: Mapping[str, Any] = getattr(view, "view_initkwargs", None) or getattr(view, "initkwargs", None) or {}
    allowed: Any = given.get("http_method_names") or getattr(view_class, "http_method_names", _NAMES)
    found = [name.upper() for name in _NAMES if name in allowed and _handles(view_class, name, handlers.get(name))]
    return [method for method in found if not required or method in required] or required or [ANY]


def _handles(view_class: object, name: str, handler: object) -> bool:
    """Say whether a class has a handler for a method, and no decorator on that keeps the method out."""
    function = getattr(view_class, handler, None) if isinstance(handler, str) else None
    if function is None:
        return False
    required = _required_of(function)
    return not required or name.upper() in required


def _required_of(view: object) -> list[str]:
    """Return what all of ``require_http_methods`` and its kin let through that stand on ``view``; nothing for any.

    They leave it nowhere but in their closures. What is there in another shape than they are documented to leave says
    nothing: a view that is listed as taking any method is covered by each of them.
    """
    found: list[list[str]] = []
    for _ in range(_MAX_DECORATORS):
        found.append(_told(view))
        found += [_told(decorator) for decorator in _on_method(view)]
        view = getattr(view, "__wrapped__", None)
    return _in_all(found)


def _in_all(lists: list[list[str]]) -> list[str]:
    """Return what is in each of the lists that say something."""
    said = [each for each in lists if each]
    return [method for method in said[0] if all(method in each for each in said)] if said else []


def _told(view: object) -> list[str]:
    """Return the methods that ``require_http_methods`` was told, from the decorator it made or what that made."""
    told = _enclosed(view, http).get("request_method_list")
    if not isinstance(told, list | tuple | set | frozenset) or not all(isinstance(each, str) for each in told):
        return []
    return [method for method in dict.fromkeys(told) if method != "HEAD" or "GET" not in told]


def _on_method(method: object) -> list[object]:
    """Return the decorators that ``method_decorator`` put on a method; they are applied when it is called."""
    found = _enclosed(method, decorators).get("decorators")
    return list(found) if isinstance(found, list | tuple) else []


def _enclosed(function: object, module: ModuleType) -> Mapping[str, object]:
    """Return what a function that ``module`` made has in its closure."""
    if not inspect.isfunction(function) or function.__globals__ is not vars(module):
        return {}
    try:
        return inspect.getclosurevars(function).nonlocals
    except ValueError:  # a cell of the closure is empty
        return {}
