"""What can be called in an ASGI application, as a router like Starlette's has it.

Nothing of a framework is imported: whatever has ``routes`` is walked, as `routing` reads what such routers leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from audit_middleware.capture.coverage import ANY, EntryPoint
from audit_middleware.capture.declared import Declaration
from audit_middleware.capture.exemption import Exemption
from audit_middleware.capture.inventory import installed
from audit_middleware.capture.routers import application_in, frontends, is_view, path_of, resolved, routes_of
from audit_middleware.capture.rules import rules_for

Describe = Callable[[object], Declaration | None]
FindView = Callable[[Any, Mapping[str, Any]], object]


class Known(NamedTuple):
    """What an integration knows about one application."""

    declaration: Declaration
    find_view: Callable[[Mapping[str, Any]], object]


_known: Final[dict[Describe, FindView]] = {}
_DEFAULT_TITLES: Final = frozenset({"", "FastAPI"})


def know(describe: Describe, find_view: FindView) -> None:
    """Ask ``describe`` too what can be called in an app whose routes cannot be seen; it answers None for most.

    ``find_view`` is given such an app, and the ASGI scope or WSGI environ that it gets, and says what would be called.
    For integrations whose framework tells a middleware around it which route it was, as Django's does.
    """
    _known[describe] = find_view


def title_of(app: object) -> str | None:
    """Return the title of an application, unless it is FastAPI's own."""
    title = getattr(app, "title", None)
    return title if isinstance(title, str) and title not in _DEFAULT_TITLES else None


def entry_points(app: Any) -> Iterator[EntryPoint]:  # noqa: ANN401 - any app with routes, whatever wraps it
    """Yield every route of a Starlette or FastAPI app, mounted apps and websockets included."""
    yield from _walk(app, "")


def application_of(app: object, scope: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any app
    """Return the application that a middleware calls as ``app``, perhaps through others; None if it cannot be seen.

    ``scope`` is the first one it was given, where Starlette leaves the application that it begins with.
    """
    inner = _inner(app)
    return _outer(inner, scope) if known_of(inner) is None else inner


def declaration_of(application: object) -> Declaration | None:
    """Return what an ASGI application declares; None for one whose routes cannot be seen."""
    known = known_of(application)
    if known is not None:
        return known.declaration
    if not _has_routes(application):
        return None
    packages = _packages_of(application)
    return Declaration(_component(application, packages), lambda: entry_points(application), packages)


def view_of(application: Any, scope: Mapping[str, Any]) -> object:  # noqa: ANN401 - any app
    """Return what an ASGI application would call for this scope; None if that cannot be seen, or nothing would be.

    Raises whatever routers raise.
    """
    known = known_of(application)
    if known is not None:
        return known.find_view(scope)
    for route in resolved(routes_of(application) or ()):
        match, found = route.matches(dict(scope))
        if match.name == "FULL":
            inner = {**scope, **found}
            return inner.get("endpoint") if is_view(route) else view_of(_inner(route), inner)
    return None


def _inner(app: object) -> Any:  # noqa: ANN401 - any app
    return application_in(app, lambda each: known_of(each) is not None)


def _outer(inner: Any, scope: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any app with routes
    """Return the application in the scope, which has a title, where ``inner`` is its router or cannot be seen."""
    outer: Any = scope.get("app")
    if not _has_routes(outer):
        return inner
    if _has_routes(inner):
        return outer if outer.routes is inner.routes else inner
    return inner if "app_root_path" in scope else outer  # a mount leaves that: the one in the scope is around it


def _has_routes(app: object) -> bool:
    return routes_of(app) is not None


def known_of(app: object) -> Known | None:
    """Return what an integration knows about an application; None for most."""
    for describe, find_view in _known.items():
        declaration = describe(app)
        if declaration is not None:
            return Known(declaration, partial(find_view, app))
    return None


def _component(app: object, packages: tuple[str, ...]) -> str:
    title = title_of(app)
    name = packages[0] if packages else type(app).__module__.partition(".")[0]
    return f"{name} {title}" if title is not None else name


def _packages_of(app: object) -> tuple[str, ...]:
    """Return the distributions that an app's class and its bases are of: FastAPI's own, and Starlette."""
    return tuple(installed(dict.fromkeys(each.__module__.partition(".")[0] for each in type(app).__mro__)))


def _walk(app: Any, mounted: str) -> Iterator[EntryPoint]:  # noqa: ANN401 - any app with routes
    for route in resolved(app.routes):
        if is_view(route):
            yield from _points(route, mounted)
        else:
            yield from _below(route, mounted + path_of(route))
    for prefix, route in frontends(app):
        yield from _below(route, f"{mounted}{prefix}{path_of(route)}".rstrip("/"))


def _below(route: Any, mounted: str) -> Iterator[EntryPoint]:  # noqa: ANN401 - routes have no common type
    """Yield what is mounted, whatever is wrapped around it."""
    app = _inner(route)
    known = known_of(app)
    if known is not None:
        yield from (point._replace(route=mounted + point.route) for point in known.declaration.find())
    elif routes_of(app) or any(frontends(app)):
        yield from _walk(app, mounted)
    else:  # an app without routes that can be seen, such as static files
        yield EntryPoint("http", ANY, f"{mounted}/*", str(getattr(route, "name", None) or ""))


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
