"""Django's signals as records: signed in, signed out, not let in, sessions taken over; and what nobody handled.

Users, their rights and the admin have modules of their own: `accounts`, `memberships`, `administration`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.signals import got_request_exception
from django.http import HttpRequest

from audit_integrations.django import accounts, administration, hijacking, memberships
from audit_integrations.django.conf import OBSERVER
from audit_integrations.django.exchanges import exchange_at_hand, exchange_of
from audit_integrations.django.telling import contained
from audit_integrations.django.users import described, named, note_signed_out
from audit_middleware import AuditError, Pipeline
from audit_middleware.capture import Exchange
from audit_middleware.events import SIGN_IN, SIGN_OUT

LOGGER: Final = logging.getLogger("audit_middleware")
HIJACK: Final = "auth.hijack"
RELEASE: Final = "auth.release"


def connect() -> None:
    """Listen to the signals; a second call changes nothing."""
    user_logged_in.connect(signed_in, dispatch_uid="audit")
    user_logged_out.connect(signed_out, dispatch_uid="audit")
    user_login_failed.connect(not_signed_in, dispatch_uid="audit")
    got_request_exception.connect(not_handled, dispatch_uid="audit")
    hijacking.connect(hijacked, released)
    for each in (accounts, memberships, administration):
        contained(each.connect)()


def signed_in(sender: object, request: HttpRequest | None = None, user: Any = None, **_: object) -> None:  # noqa: ANN401, ARG001 - Django's signature
    """Record that somebody signed in; whom django-hijack signs in did not."""
    if request is None or not hijacking.is_swap(request):
        _record(request, SIGN_IN, user, _name(user))


def signed_out(sender: object, request: HttpRequest | None = None, user: Any = None, **_: object) -> None:  # noqa: ANN401, ARG001 - Django's signature
    """Record that somebody signed out; nobody did if nobody was signed in."""
    if user is not None:
        _record(request, SIGN_OUT, user, _name(user))


def not_signed_in(
    sender: object,  # noqa: ARG001 - Django's signature
    credentials: Mapping[str, object] | None = None,
    request: HttpRequest | None = None,
    **_: object,
) -> None:
    """Record that somebody was not let in; whom they said to be is the resource, Django has cleaned the rest."""
    said = credentials or {}
    _record(request, SIGN_IN, None, said.get("username") or said.get("email") or "unknown", denied=True)


def hijacked(sender: object, request: HttpRequest, hijacker: Any, hijacked: Any, **_: object) -> None:  # noqa: ANN401, ARG001 - django-hijack's signature
    """Record that ``hijacker`` acts as ``hijacked`` from now on."""
    _record(request, HIJACK, hijacker, _name(hijacked))


def released(sender: object, request: HttpRequest, hijacker: Any, hijacked: Any, **_: object) -> None:  # noqa: ANN401, ARG001 - django-hijack's signature
    """Record that ``hijacker`` does not act as ``hijacked`` any more."""
    _record(request, RELEASE, hijacker, _name(hijacked))


def not_handled(sender: object, request: HttpRequest | None = None, **_: object) -> None:  # noqa: ARG001 - Django's signature
    """Note on the record of the request that nobody handled this exception."""
    exchange = exchange_of(request) if request is not None else None
    error = sys.exc_info()[1]
    if exchange is not None and error is not None:
        exchange.failed(error)


def _record(request: HttpRequest | None, action: str, user: Any, name: object, *, denied: bool = False) -> None:  # noqa: ANN401 - any user model
    """Append an event; whatever goes wrong is logged and counted, and must not keep anybody from signing in.

    It belongs to the request at hand, and into the journal of whoever observes that. ``authenticate()`` does not have
    to be given a request, and outside one there is none.
    """
    try:
        exchange = exchange_at_hand(request)
        pipeline = exchange.gate if exchange is not None else None
        if not isinstance(pipeline, Pipeline):
            pipeline = OBSERVER.pipeline()
        if exchange is None:
            exchange = Exchange(pipeline.service, pipeline.recorder.new_request_id(), "", "", 0)
        outcome: Any = "denied" if denied else "success"
        principal = _principal(request, action, user)
        pipeline.event(exchange.event(action, principal=principal, resource=("user", name), outcome=outcome))
    except AuditError as error:
        LOGGER.error("audit: %s is not on record: %s", action, error)  # noqa: TRY400 - the message says it all
    except Exception:
        LOGGER.exception("audit: %s is not on record", action)


def _principal(request: HttpRequest | None, action: str, user: Any) -> object:  # noqa: ANN401 - any user model
    if request is None or user is None:
        return _name(user)
    if action in {HIJACK, RELEASE}:  # the session is somebody else's by now: the signal says who acts
        return named(request, user)
    principal = described(request, user)
    if action == SIGN_OUT:
        note_signed_out(request, principal)
    return principal


def _name(user: Any) -> object:  # noqa: ANN401 - any user model
    return user.get_username() if user is not None else None
