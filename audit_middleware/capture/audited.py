"""``@audited``: what a view or function is called on record, written beside it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import lru_cache
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, cast

from audit_middleware.capture import body as request_body
from audit_middleware.capture import refusal
from audit_middleware.capture.exchange import Exchange, current_audit
from audit_middleware.capture.exemption import Exemption
from audit_middleware.capture.said import OnFailure
from audit_middleware.errors import ConfigurationError, RequestRefused

P = ParamSpec("P")
R = TypeVar("R")

RULES: Final = "__audited__"
"""The attribute that carries a function's `Rules`; wrappers that use ``functools.wraps`` pass it on."""
_RESOURCE: Final = re.compile(r"([^:{}]+):(.*)")
_FIELD: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Rules(NamedTuple):
    """What `audited` was told."""

    action: str | None = None
    resource: str | None = None
    exemption: Exemption | None = None
    query: tuple[str, ...] = ()
    body: tuple[str, ...] = ()
    on_failure: OnFailure | None = None


def audited(
    action: str | None = None,
    *,
    resource: str | None = None,
    query: Iterable[str] = (),
    body: Iterable[str] = (),
    on_failure: OnFailure | None = None,
    exempt: str | None = None,
    until: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Name the ``action`` and ``resource`` of whatever the decorated function does for a request.

    ``resource`` is ``"type:{argument}"``, filled from the function's arguments. ``query`` names the parameters of the
    query string that may be recorded, besides those of the settings; ``body`` those fields of a JSON or form body
    (``amount``, or ``customer.id`` inside a JSON object), if it is no larger than 64 KiB. ``on_failure`` overrules the
    setting for requests that reach the function: under ``"deny"`` it does not run unless its record can be kept, and
    the client is told so (503); under ``"allow"`` it is served unaudited. ``exempt`` is the reason why requests
    that reach the function are not recorded, ``until`` the last day of that (``2027-01-31``, UTC): that a route is
    exempt is on record itself, and a request that had an attempt record is recorded all the same. What the function
    says through `current_audit` wins. Raises `ConfigurationError` for a template, a policy or a date that is none.
    """
    if resource is not None and not _RESOURCE.fullmatch(resource):
        raise ConfigurationError(f"audited: resource {resource!r} is not of the form 'type:{{argument}}'")
    if exempt is not None and not exempt.strip():
        raise ConfigurationError("audited: an exemption needs a reason")
    if until is not None and exempt is None:
        raise ConfigurationError("audited: until is the end of an exemption; say why with exempt")
    if on_failure not in {None, "deny", "allow"}:
        raise ConfigurationError(f"audited: on_failure is 'deny' or 'allow', not {on_failure!r}")
    exemption = Exemption(exempt, _day(until)) if exempt is not None else None
    rules = Rules(action, resource, exemption, _names("query", query), _names("body", body), on_failure)
    if rules.body:
        request_body.ask()

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        decorated = _decorated(function, rules)
        setattr(decorated, RULES, rules)
        return decorated

    return decorate


def _names(argument: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise ConfigurationError(f"audited: {argument} is a list of names, not the text {given!r}")
    return tuple(given)


def rules_of(function: object) -> Rules | None:
    """Return the rules of a decorated function, or of a class that holds one per method: then those of the class."""
    rules = getattr(function, RULES, None)
    return rules if isinstance(rules, Rules) else None


def rules_for(view: object, method: str) -> Rules | None:
    """Return the rules of what a router calls for ``method``: a view, or the method of a class-based one."""
    holder = getattr(view, "view_class", None) or getattr(view, "cls", None) or view
    actions = getattr(view, "actions", None)  # of a view set of Django REST framework: its methods have other names
    name = actions.get(method.lower()) if isinstance(actions, dict) else method.lower()
    handler = getattr(holder, name, None) if isinstance(holder, type) and name else None
    return rules_of(handler) or rules_of(view) or rules_of(holder)


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
    if exchange.action is None:
        exchange.action = rules.action
    if exchange.resource is None and rules.resource is not None:
        exchange.resource = _routed(rules.resource, exchange.path_params)


def _rules_of_view(view: object, method: str) -> Rules | None:
    try:
        return _known_rules(view, method)
    except TypeError:  # a view that cannot be hashed
        return rules_for(view, method)


_known_rules: Final = lru_cache(maxsize=4096)(rules_for)


def _routed(resource: str, params: object) -> tuple[str, object] | None:
    """Fill a template from the parameters of the route; None when those are not all there."""
    kind, _, template = resource.partition(":")
    if not isinstance(params, Mapping) or not params.keys() >= set(_FIELD.findall(template)):
        return None
    return kind, _FIELD.sub(lambda field: str(params[field[1]]), template)


def _decorated(function: Callable[P, R], rules: Rules) -> Callable[P, R]:
    if isinstance(function, type):
        raise ConfigurationError(f"audited: {function.__qualname__} is a class: decorate its methods")
    names = set(_FIELD.findall(rules.resource or ""))
    signature = inspect.signature(function) if names else None
    missing = names - set(signature.parameters) if signature is not None else set()
    if missing and signature is not None and not _takes_anything(signature):
        raise ConfigurationError(
            f"audited: {getattr(function, '__qualname__', function)} has no argument {min(missing)!r}"
        )

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaiting(*arguments: P.args, **named: P.kwargs) -> Any:  # noqa: ANN401 - the function's own
            _apply(rules, signature, arguments, named)
            return await function(*arguments, **named)

        return cast("Callable[P, R]", awaiting)

    @functools.wraps(function)
    def calling(*arguments: P.args, **named: P.kwargs) -> R:
        _apply(rules, signature, arguments, named)
        return function(*arguments, **named)

    return calling


def _apply(
    rules: Rules, signature: inspect.Signature | None, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    """Say to the request at hand what the rules say, before the function; raise `RequestRefused` if it must not."""
    audit = current_audit()
    if rules.action is not None and audit.action is None:
        audit.action = rules.action
    if rules.query:
        audit.query_parameters = rules.query
    if rules.body:
        audit.want_body(rules.body)
    if rules.exemption is not None:
        audit.exemption = rules.exemption
    if rules.resource is not None and audit.resource is None:
        audit.resource = _filled(rules.resource, signature, arguments, named)
    if rules.on_failure is not None and audit.is_refused_by(rules.on_failure):
        raise RequestRefused(refusal.NOT_CARRIED_OUT)


def _filled(
    resource: str, signature: inspect.Signature | None, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[str, object]:
    """Fill a template; what raises while it is made text becomes a defect of the record, and no error."""
    kind, _, template = resource.partition(":")
    if signature is None:
        return kind, template
    try:
        bound = signature.bind(*arguments, **named)
        bound.apply_defaults()
        values = {**bound.arguments, **named}
        return kind, _FIELD.sub(lambda field: str(values[field[1]]), template)
    except Exception:  # noqa: BLE001 - an application's own __str__, or a call that is about to fail by itself
        return kind, ""


def _takes_anything(signature: inspect.Signature) -> bool:
    """Whether a function takes arguments that its signature does not name, as methods of Django's views do."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text is not None else None
    except ValueError as error:
        raise ConfigurationError(f"audited: until {text!r} is no day such as 2027-01-31") from error
