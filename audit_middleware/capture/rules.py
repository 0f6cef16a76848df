"""What `audited` was told, and what it means for the view that a router found."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.exemption import Exemption
from audit_middleware.capture.said import OnFailure

RULES: Final = "__audited__"
"""The attribute that carries a function's `Rules`; wrappers that use ``functools.wraps`` pass it on."""
_NOT_ALLOWED: Final = 405
_OF_API_VIEW: Final = "api_view.<locals>.decorator.<locals>.handler"
_OF_NINJA: Final = "PathView.get_view.<locals>."
_MAX_WRAPPERS: Final = 50
FIELD: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Rules(NamedTuple):
    """What `audited` was told."""

    action: str | None = None
    resource: str | None = None
    exemption: Exemption | None = None
    query: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    on_failure: OnFailure | None = None
    principal: object = None


def rules_of(function: object) -> Rules | None:
    """Return the rules of a decorated function, or of a class that holds one per method: then those of the class."""
    rules = getattr(function, RULES, None)
    return rules if isinstance(rules, Rules) else None


def rules_for(view: object, method: str) -> Rules | None:
    """Return the rules of what a router calls for ``method``: a view, or the method of a class-based one.

    They are seen through arguments that are filled in, and through decorators that pass no attributes on.
    """
    for _ in range(_MAX_WRAPPERS):
        while isinstance(view, functools.partial):
            view = view.func
        found = _rules_at(view, method)
        view = getattr(view, "__wrapped__", None)
        if found is not None or view is None:
            return found
    return None


def _rules_at(view: object, method: str) -> Rules | None:
    operations = operations_of(view)
    if operations:
        return rules_of(next((each.view_func for each in operations if method in each.methods), None))
    holder = getattr(view, "view_class", None) or getattr(view, "cls", None) or view
    actions = getattr(view, "actions", None)  # of a view set of Django REST framework: its methods have other names
    handler = _handler(holder, actions if isinstance(actions, dict) else {}, method.lower())
    found = rules_of(handler) or rules_of(_enclosed(handler)) or rules_of(view) or rules_of(holder)
    return found or rules_of(getattr(type(view), "__call__", None))  # noqa: B004 - what it does, not whether it can


def _handler(holder: object, actions: Mapping[str, str], name: str) -> object:
    """Return the method of a class of views; every framework that has them lets ``head`` be answered by ``get``."""
    if not isinstance(holder, type):
        return None
    found = getattr(holder, actions.get(name, "" if actions else name), None)
    return _handler(holder, actions, "get") if found is None and name == "head" else found


def operations_of(view: object) -> Sequence[Any]:
    """Return the operations among which a view of Django Ninja chooses by method; it leaves them nowhere else."""
    if not inspect.isfunction(view) or not view.__qualname__.startswith(_OF_NINJA):
        return ()
    operations = getattr(inspect.getclosurevars(view).nonlocals.get("self"), "operations", ())
    return [each for each in operations if hasattr(each, "view_func") and hasattr(each, "methods")]


def _enclosed(handler: object) -> object:
    """Return the function that ``api_view`` of Django REST framework keeps for its handler, and leaves nowhere else."""
    if not inspect.isfunction(handler) or handler.__qualname__ != _OF_API_VIEW:
        return None
    return inspect.getclosurevars(handler).nonlocals.get("func")


def note_view(exchange: Exchange, view: object) -> None:
    """Say of an exchange what the rules of the routed ``view`` say, though something in front of it may have answered.

    An exemption counts only where it stands on that view: a function that is exempt by itself, and called by another
    view, does not exempt that one.
    """
    rules = _rules_of_view(view, exchange.method)
    if rules is None:
        exchange.exemption = None
        return
    if exchange.exemption is not rules.exemption:
        exchange.exemption = None
    if exchange.action is None and exchange.status != _NOT_ALLOWED:  # a DELETE is not what the view for GET is called
        exchange.action = rules.action
    if exchange.on_failure is None:  # what a cache in front of it answers is no less worth a record
        exchange.on_failure = rules.on_failure
    if not exchange.query_parameters:
        exchange.query_parameters = rules.query
    if exchange.resource is None and rules.resource is not None:
        exchange.resource = _routed(rules.resource, exchange.path_params)


def is_out_of_policy(exchange: Exchange, view: object, method: str) -> bool:
    """Say whether a request runs without a record under the policy of a view, and was then led to another one.

    The view is asked for its policy before anything ran; what runs then may change where the router looks, or the
    ``method``, as clients ask for in ``X-HTTP-Method-Override``.
    """
    if not exchange.is_attempt_lost or exchange.on_failure != "allow":
        return False
    rules = _rules_of_view(view, method)
    exchange.is_refused = exchange.status is None and (rules is None or rules.on_failure != "allow")
    return exchange.is_refused


def _rules_of_view(view: object, method: str) -> Rules | None:
    try:
        try:
            return _known_rules(view, method)
        except TypeError:  # a view that cannot be hashed
            return rules_for(view, method)
    except Exception:  # noqa: BLE001 - a view's own attributes may raise anything: such a one allows and exempts nothing
        return None


_known_rules: Final = functools.lru_cache(maxsize=4096)(rules_for)


def _routed(resource: str, params: object) -> tuple[str, object] | None:
    """Fill a template from the parameters of the route; None when those are not all there."""
    kind, _, template = resource.partition(":")
    if not isinstance(params, Mapping) or not params.keys() >= set(FIELD.findall(template)):
        return None
    return kind, FIELD.sub(lambda field: str(params[field[1]]), template)
