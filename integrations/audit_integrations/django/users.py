"""Who a request of Django belongs to: ``django.contrib.auth``, Django REST framework, impersonation."""

from __future__ import annotations

import logging
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from audit_middleware.capture import FAILED

LOGGER: Final = logging.getLogger("audit_middleware")


def principal_of(request: HttpRequest) -> object:
    """Return who acted, or None for nobody; a user that cannot be read is a defect of the record.

    A user that nobody asked for is looked up only if the request brought a session. Django REST framework
    authenticates inside the view and leaves its user in ``request.user``.
    """
    if not _is_worth_asking(request):
        return None
    try:
        return described(request, request.user)
    except Exception:
        LOGGER.exception("audit: the user of the request cannot be read")
        return FAILED


async def principal_of_async(request: HttpRequest) -> object:
    """Do the same in the event loop: the session is asked without a thread of ours."""
    if not _is_worth_asking(request):
        return None
    try:
        is_lazy = isinstance(request.__dict__.get("user"), SimpleLazyObject) and not hasattr(request, "_cached_user")
        return described(request, await request.auser() if is_lazy else request.user)
    except Exception:
        LOGGER.exception("audit: the user of the request cannot be read")
        return FAILED


def described(request: HttpRequest, user: Any) -> object:  # noqa: ANN401 - any user model
    """Return a user as the principal of ``request``: the one who really acts, and on whose behalf."""
    if user is None or not user.is_authenticated:
        return None
    real = getattr(request, "real_user", None)  # as django-impersonate leaves it
    hijacker = _hijacker(request)
    if real is not None and real != user:
        return {**_described(request, real), "on_behalf_of": user.get_username()}
    if hijacker is not None:
        return {"id": hijacker, "auth": "session", "on_behalf_of": user.get_username()}
    return _described(request, user)


def _described(request: HttpRequest, user: Any) -> dict[str, object]:  # noqa: ANN401 - any user model
    in_session = "HTTP_AUTHORIZATION" not in request.META and _has_session(request)
    return {
        "id": user.get_username(),
        "auth": "session" if in_session else None,
        "privileged": True if getattr(user, "is_superuser", False) else None,
    }


def _hijacker(request: HttpRequest) -> str | None:
    """Return the primary key of who hijacked the session, as django-hijack leaves it there."""
    if not _has_session(request) or not hasattr(request, "session"):
        return None
    history = request.session.get("hijack_history")
    return str(history[0]) if history else None


def _has_session(request: HttpRequest) -> bool:
    return settings.SESSION_COOKIE_NAME in request.COOKIES


def _is_worth_asking(request: HttpRequest) -> bool:
    user = request.__dict__.get("user")
    if user is None:
        return False
    if not isinstance(user, SimpleLazyObject):
        return True
    return hasattr(request, "_cached_user") or hasattr(request, "_acached_user") or _has_session(request)
