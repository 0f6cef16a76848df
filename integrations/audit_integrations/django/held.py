"""A request of Django that runs without a record, as one view allows: no resolver leads it to another one.

``process_view`` would say the same of every request, for the price of a thread hop in projects that run under ASGI and
have middleware that is not asynchronous.
"""

from __future__ import annotations

import functools
from typing import Any, Final, cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse

from audit_middleware.capture import Exchange, refusal
from audit_middleware.capture.rules import is_out_of_policy

_MATCH: Final = "resolver_match"
_EXCHANGE: Final = "_audit_exchange"


def refused(detail: str) -> HttpResponse:
    """Return what a client gets instead of an answer."""
    body = refusal.body(detail)
    return HttpResponse(body, status=refusal.STATUS, headers=dict(refusal.headers(body)))


def hold(request: HttpRequest, exchange: Exchange) -> None:
    """Refuse the view that a request is led to, if it may not run without a record as the one asked before may."""
    if exchange.is_attempt_lost and exchange.on_failure == "allow":
        request.__dict__[_EXCHANGE] = exchange
        kind: Any = type(request)
        request.__class__ = _held(kind)


@functools.lru_cache(maxsize=64)
def _held(kind: type[HttpRequest]) -> type[HttpRequest]:
    own = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, _MATCH: property(_match, _take)}
    return cast("type[HttpRequest]", type(kind.__name__, (kind,), own))


def _match(request: HttpRequest) -> object:
    return request.__dict__.get(_MATCH)


def _take(request: HttpRequest, match: Any) -> None:  # noqa: ANN401 - middleware may put anything there
    request.__dict__[_MATCH] = match
    view = getattr(match, "func", None)
    if view is not None and is_out_of_policy(request.__dict__[_EXCHANGE], view, request.method or ""):
        match.func = _refusing(view)


def _refusing(view: Any) -> Any:  # noqa: ANN401 - any view
    """Return what runs instead of a view, and has its attributes: whether it is asynchronous, and its rules."""
    if not iscoroutinefunction(view):
        return functools.wraps(view)(lambda *_, **__: refused(refusal.NOT_CARRIED_OUT))

    @functools.wraps(view)
    async def refusing(*_: object, **__: object) -> HttpResponse:
        return refused(refusal.NOT_CARRIED_OUT)

    return refusing
