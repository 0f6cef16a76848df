"""``audited``: what a view, a function or a block of code is called on record, written beside it.

In a request or a task it names that one. Outside of any it is work of its own, with a record of its own.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast

from audit_middleware.capture import body as request_body
from audit_middleware.capture import refusal
from audit_middleware.capture.exchange import current_audit, exchange_at_hand
from audit_middleware.capture.exemption import Exemption
from audit_middleware.capture.rules import FIELD, RULES, Rules
from audit_middleware.capture.said import CurrentAudit, OnFailure
from audit_middleware.capture.work import Work, run
from audit_middleware.errors import ConfigurationError, RequestRefused
from audit_middleware.pipeline import Pipeline, pipeline_at_hand

P = ParamSpec("P")
R = TypeVar("R")

_RESOURCE: Final = re.compile(r"([^:{}]+):(.*)")


class Audited:
    """What `audited` returns: a decorator, and for a block of code a context manager that gives `current_audit`."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._blocks: list[AbstractContextManager[CurrentAudit]] = []

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a view or function."""
        decorated = _decorated(function, self._rules)
        setattr(decorated, RULES, self._rules)
        return decorated

    def __enter__(self) -> CurrentAudit:
        """Begin a block of code: as a part of the request or task at hand, or as work of its own."""
        rules = self._rules
        if rules.action is None:
            raise ConfigurationError("audited: a block of code needs a name: with audited('orders.clean_up')")
        work = _work(rules, rules.action)
        if work is not None:
            block: AbstractContextManager[CurrentAudit] = run(work, _pipeline_of(work))
            work.resource = _constant(rules.resource)
        else:
            _apply(rules, None, (), {})
            block = nullcontext(current_audit())
        self._blocks.append(block)
        return block.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self._blocks.pop().__exit__(kind, error, traceback)


def audited(  # noqa: PLR0913 - what can be said of a view, by name
    action: str | None = None,
    *,
    resource: str | None = None,
    query: Iterable[str] = (),
    body: Iterable[str] = (),
    on_failure: OnFailure | None = None,
    exempt: str | None = None,
    until: str | None = None,
    principal: object = None,
) -> Audited:
    """Name the ``action`` and ``resource`` of whatever the decorated function, or a ``with`` block, does.

    In a request or a task it says so of that. Outside of any, in a script, a thread or a background task, the function
    or block is work of its own: an ``attempt`` record before it and a ``task`` record after it, on behalf of the
    request that this context had before, else of ``principal``, else of the service itself.

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
    rules = Rules(action, resource, exemption, _names("query", query), _names("body", body), on_failure, principal)
    if rules.body:
        request_body.ask()

    return Audited(rules)


def _names(argument: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise ConfigurationError(f"audited: {argument} is a list of names, not the text {given!r}")
    return tuple(given)


def _decorated(function: Callable[P, R], rules: Rules) -> Callable[P, R]:
    if isinstance(function, type):
        raise ConfigurationError(f"audited: {function.__qualname__} is a class: decorate its methods")
    names = set(FIELD.findall(rules.resource or ""))
    signature = inspect.signature(function) if names else None
    missing = names - set(signature.parameters) if signature is not None else set()
    if missing and signature is not None and not _takes_anything(signature):
        raise ConfigurationError(
            f"audited: {getattr(function, '__qualname__', function)} has no argument {min(missing)!r}"
        )

    name = str(getattr(function, "__qualname__", function))
    is_generator = inspect.isgeneratorfunction(function)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaiting(*arguments: P.args, **named: P.kwargs) -> Any:  # noqa: ANN401 - the function's own
            work = _work(rules, name)
            if work is not None:
                with run(work, _pipeline_of(work)):
                    _apply(rules, signature, arguments, named)
                    return await function(*arguments, **named)
            _apply(rules, signature, arguments, named)
            return await function(*arguments, **named)

        return cast("Callable[P, R]", awaiting)

    @functools.wraps(function)
    def calling(*arguments: P.args, **named: P.kwargs) -> R:
        work = _work(rules, name)
        if work is None:
            _apply(rules, signature, arguments, named)
            return function(*arguments, **named)
        if is_generator:
            return cast("R", _generate(work, rules, signature, function, arguments, named))
        with run(work, _pipeline_of(work)):
            _apply(rules, signature, arguments, named)
            return function(*arguments, **named)

    return calling


def _generate(
    work: Work,
    rules: Rules,
    signature: inspect.Signature | None,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> Generator[Any, Any, Any]:
    """Run a generator as work: it begins with the first value and ends with the last."""
    with run(work, _pipeline_of(work)):
        _apply(rules, signature, arguments, named)
        result: Any = yield from function(*arguments, **named)
        return result


def _work(rules: Rules, name: str) -> Work | None:
    """Return what a call outside of any request is on record; None inside of one that is not over."""
    before = exchange_at_hand()
    if before is not None and not before.is_closed:
        return None
    pipeline = before.gate if before is not None and isinstance(before.gate, Pipeline) else pipeline_at_hand()
    work = Work(pipeline, rules.action or name, "function")
    work.heed(rules)
    if before is not None:
        work.follow(before)
    return work


def _pipeline_of(work: Work) -> Pipeline:
    return cast("Pipeline", work.gate)


def _constant(resource: str | None) -> tuple[str, object] | None:
    return _filled(resource, None, (), {}) if resource is not None else None


def _apply(
    rules: Rules, signature: inspect.Signature | None, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    """Say to the request at hand what the rules say, before the function; raise `RequestRefused` if it must not."""
    audit = current_audit()
    if rules.action is not None and audit.action is None:
        audit.action = rules.action
    if rules.query:
        audit.query_parameters = _joined(audit.query_parameters, rules.query)
    if rules.body:
        audit.want_body(_joined(audit.body_fields, rules.body))
    if rules.exemption is not None:
        audit.exemption = rules.exemption
    if rules.resource is not None and audit.resource is None:
        audit.resource = _filled(rules.resource, signature, arguments, named)
    if rules.on_failure is not None and audit.is_refused_by(rules.on_failure):
        raise RequestRefused(refusal.NOT_CARRIED_OUT)


def _joined(names: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Return both: a dependency and the view that it stands before may name some each."""
    return tuple(dict.fromkeys((*names, *more)))


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
        return kind, FIELD.sub(lambda field: str(values[field[1]]), template)
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
