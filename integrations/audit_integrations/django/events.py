"""Django's signals as records: signed in, signed out, not let in; and what nobody handled."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.signals import got_request_exception
from django.http import HttpRequest

from audit_integrations.django.conf import OBSERVER
from audit_integrations.django.users import described
from audit_middleware import AuditError
from audit_middleware.capture import MARK, Exchange

LOGGER: Final = logging.getLogger("audit_middleware")
SIGN_IN: Final = "auth.sign_in"
SIGN_OUT: Final = "auth.sign_out"


def connect() -> None:
    """Listen to the signals; a second call changes nothing."""
    user_logged_in.connect(signed_in, dispatch_uid="audit")
    user_logged_out.connect(signed_out, dispatch_uid="audit")
    user_login_failed.connect(not_signed_in, dispatch_uid="audit")
    got_request_exception.connect(not_handled, dispatch_uid="audit")


def signed_in(sender: object, request: HttpRequest | None = None, user: Any = None, **_: object) -> None:  # noqa: ANN401, ARG001 - Django's signature
    """Record that somebody signed in."""
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


def not_handled(sender: object, request: HttpRequest | None = None, **_: object) -> None:  # noqa: ARG001 - Django's signature
    """Note on the record of the request that nobody handled this exception."""
    exchange = request.META.get(MARK) if request is not None else None
    error = sys.exc_info()[1]
    if exchange is not None and error is not None:
        exchange.failed(error)


def _record(request: HttpRequest | None, action: str, user: Any, name: object, *, denied: bool = False) -> None:  # noqa: ANN401 - any user model
    """Append an event; whatever goes wrong is logged and counted, and must not keep anybody from signing in."""
    try:
        pipeline = OBSERVER.pipeline()
        exchange = request.META.get(MARK) if request is not None else None
        if exchange is None:
            exchange = Exchange(pipeline.service, pipeline.recorder.new_request_id(), "", "", 0)
        principal = described(request, user) if request is not None and user is not None else _name(user)
        outcome: Any = "denied" if denied else "success"
        pipeline.event(exchange.event(action, principal=principal, resource=("user", name), outcome=outcome))
    except AuditError as error:
        LOGGER.error("audit: %s is not on record: %s", action, error)  # noqa: TRY400 - the message says it all
    except Exception:
        LOGGER.exception("audit: %s is not on record", action)


def _name(user: Any) -> object:  # noqa: ANN401 - any user model
    return user.get_username() if user is not None else None
