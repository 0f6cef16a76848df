"""What `audited` was told, and what it means for the view that a router found."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.exemption import Exemption
from audit_middleware.capture.said import OnFailure

RULES: Final = "__audited__"
"""The attribute that carries a function's `Rules`; wrappers that use ``functools.wraps`` pass it on."""
_NOT_ALLOWED: Final = 405
_OF_API_VIEW: Final = "api_view.<locals>.decorator.<locals>.handler"
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
    """Return the rules of what a router calls for ``method``: a view, or the method of a class-based one."""
    while isinstance(view, functools.partial):
        view = view.func
    holder = getattr(view, "view_class", None) or getattr(view, "cls", None) or view
    actions = getattr(view, "actions", None)  # of a view set of Django REST framework: its methods have other names
    name = actions.get(method.lower()) if isinstance(actions, dict) else method.lower()
    handler = getattr(holder, name, None) if isinstance(holder, type) and name else None
    called = getattr(type(view), "__call__", None)  # noqa: B004 - of a view that is an object
    return rules_of(handler) or rules_of(_enclosed(handler)) or rules_of(view) or rules_of(holder) or rules_of(called)


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
    if exchange.resource is None and rules.resource is not None:
        exchange.resource = _routed(rules.resource, exchange.path_params)


def _rules_of_view(view: object, method: str) -> Rules | None:
    try:
        return _known_rules(view, method)
    except TypeError:  # a view that cannot be hashed
        return rules_for(view, method)


_known_rules: Final = functools.lru_cache(maxsize=4096)(rules_for)


def _routed(resource: str, params: object) -> tuple[str, object] | None:
    """Fill a template from the parameters of the route; None when those are not all there."""
    kind, _, template = resource.partition(":")
    if not isinstance(params, Mapping) or not params.keys() >= set(FIELD.findall(template)):
        return None
    return kind, FIELD.sub(lambda field: str(params[field[1]]), template)
