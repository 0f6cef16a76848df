"""``@audited``: what a view or function is called on record, written beside it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, cast

from audit_middleware.capture.exchange import current_audit
from audit_middleware.capture.exemption import Exemption
from audit_middleware.errors import ConfigurationError

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


def audited(
    action: str | None = None,
    *,
    resource: str | None = None,
    query: Iterable[str] = (),
    exempt: str | None = None,
    until: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Name the ``action`` and ``resource`` of whatever the decorated function does for a request.

    ``resource`` is ``"type:{argument}"``, filled from the function's arguments. ``query`` names the parameters of the
    query string that may be recorded, besides those of the settings. ``exempt`` is the reason why requests
    that reach the function are not recorded, ``until`` the last day of that (``2027-01-31``, UTC): that a route is
    exempt is on record itself, and a request that had an attempt record is recorded all the same. What the function
    says through `current_audit` wins. Raises `ConfigurationError` for a template or a date that is none.
    """
    if resource is not None and not _RESOURCE.fullmatch(resource):
        raise ConfigurationError(f"audited: resource {resource!r} is not of the form 'type:{{argument}}'")
    if exempt is not None and not exempt.strip():
        raise ConfigurationError("audited: an exemption needs a reason")
    if until is not None and exempt is None:
        raise ConfigurationError("audited: until is the end of an exemption; say why with exempt")
    if isinstance(query, str):
        raise ConfigurationError(f"audited: query is a list of names, not the text {query!r}")
    exemption = Exemption(exempt, _day(until)) if exempt is not None else None
    rules = Rules(action, resource, exemption, tuple(query))

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        decorated = _decorated(function, rules)
        setattr(decorated, RULES, rules)
        return decorated

    return decorate


def rules_of(function: object) -> Rules | None:
    """Return the rules of a decorated function, or of a class that holds one per method: then those of the class."""
    rules = getattr(function, RULES, None)
    return rules if isinstance(rules, Rules) else None


def _decorated(function: Callable[P, R], rules: Rules) -> Callable[P, R]:
    names = set(_FIELD.findall(rules.resource or ""))
    signature = inspect.signature(function) if names else None
    missing = names - set(signature.parameters) if signature is not None else set()
    if missing:
        raise ConfigurationError(
            f"audited: {getattr(function, '__qualname__', function)} has no argument {min(missing)!r}"
        )

    def apply(arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        audit = current_audit()
        if rules.action is not None and audit.action is None:
            audit.action = rules.action
        if rules.query:
            audit.query_parameters = rules.query
        if rules.exemption is not None:
            audit.exemption = rules.exemption
        if rules.resource is not None and audit.resource is None:
            audit.resource = _filled(rules.resource, signature, arguments, named)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaiting(*arguments: P.args, **named: P.kwargs) -> Any:  # noqa: ANN401 - the function's own
            apply(arguments, named)
            return await function(*arguments, **named)

        return cast("Callable[P, R]", awaiting)

    @functools.wraps(function)
    def calling(*arguments: P.args, **named: P.kwargs) -> R:
        apply(arguments, named)
        return function(*arguments, **named)

    return calling


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
        return kind, _FIELD.sub(lambda field: str(bound.arguments[field[1]]), template)
    except Exception:  # noqa: BLE001 - an application's own __str__, or a call that is about to fail by itself
        return kind, ""


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text is not None else None
    except ValueError as error:
        raise ConfigurationError(f"audited: until {text!r} is no day such as 2027-01-31") from error
