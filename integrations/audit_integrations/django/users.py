"""Who a request of Django belongs to: ``django.contrib.auth``, Django REST framework, impersonation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.core.exceptions import ObjectDoesNotExist
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject, empty

from audit_middleware.capture import FAILED
from audit_middleware.quiet import asking

LOGGER: Final = logging.getLogger("audit_middleware")
_UNREADABLE: Final = "audit: the user of the request cannot be read"
_SIGNED_OUT: Final = "_audit_signed_out"
_HISTORY: Final = "hijack_history"  # where django-hijack leaves the primary keys of who hijacked the session


def principal_of(request: HttpRequest) -> object:
    """Return who acted, or None for nobody; a user that cannot be read is a defect of the record.

    A user that nobody asked for is looked up only if the request brought a session. Django REST framework
    authenticates inside the view and leaves its user in ``request.user``. Who signed out acted.
    """
    if not _is_worth_asking(request):
        return None
    try:
        with asking():
            return described(request, request.user) or _signed_out(request)
    except Exception:
        LOGGER.exception(_UNREADABLE)
        return FAILED


async def principal_of_async(request: HttpRequest) -> object:
    """Do the same in the event loop: the session is asked without a thread of ours."""
    if not _is_worth_asking(request):
        return None
    try:
        with asking():
            user = await request.auser() if _is_unread(request) else request.user
            return await _described_async(request, user) or _signed_out(request)
    except Exception:
        LOGGER.exception(_UNREADABLE)
        return FAILED


def principal_at_hand(request: HttpRequest) -> object:
    """Return the same without asking anybody, for a task that ends now; a user that was not read is a defect."""
    user = request.__dict__.get("user")
    if user is None or _is_unread(request):
        user = getattr(request, "_acached_user", None)
    if user is None and not _has_session(request):
        return None
    if user is None or _may_be_hijacked(request):
        return FAILED
    try:
        return described(request, user) or _signed_out(request)
    except Exception:
        LOGGER.exception(_UNREADABLE)
        return FAILED


def principal_now(request: HttpRequest) -> object:
    """Return the same while the view runs; raises what reading a session that was taken over raises.

    Whoever asked for the user has read its session too, so that this changes nothing about the answer to be given.
    """
    user = request.__dict__.get("user")
    if user is None or _is_unread(request):
        user = getattr(request, "_acached_user", None)
    if user is not None and _may_be_hijacked(request) and request.session.accessed:
        return described(request, user) or _signed_out(request)
    return principal_at_hand(request)


def described(request: HttpRequest, user: Any) -> object:  # noqa: ANN401 - any user model
    """Return a user as the principal of ``request``: the one who really acts, and on whose behalf."""
    if user is None or not user.is_authenticated:
        return None
    real = getattr(request, "real_user", None)  # as django-impersonate leaves it
    if real is not None or not _may_be_hijacked(request):
        return _acting(request, user, real)
    session = request.session
    key = _hijacker(user, session.get(SESSION_KEY), session.get(_HISTORY))
    try:
        with asking():
            real = _users().get(pk=key) if key is not None else None
    except ObjectDoesNotExist:
        real = key
    return _acting(request, user, real)


async def _described_async(request: HttpRequest, user: Any) -> object:  # noqa: ANN401 - any user model
    if user is None or not user.is_authenticated:
        return None
    real = getattr(request, "real_user", None)  # as django-impersonate leaves it
    if _is_untouched(real):
        await sync_to_async(bool)(real)  # reads it, where the database may be asked
    if real is not None or not _may_be_hijacked(request):
        return _acting(request, user, real)
    session = request.session
    key = _hijacker(user, await session.aget(SESSION_KEY), await session.aget(_HISTORY))
    try:
        real = await _users().aget(pk=key) if key is not None else None
    except ObjectDoesNotExist:
        real = key
    return _acting(request, user, real)


def note_signed_out(request: HttpRequest, principal: object) -> None:
    """Remember who signed out: the request is theirs, though nobody is signed in when it ends."""
    setattr(request, _SIGNED_OUT, principal)


def _signed_out(request: HttpRequest) -> object:
    return getattr(request, _SIGNED_OUT, None)


def _acting(request: HttpRequest, user: Any, real: Any) -> dict[str, object]:  # noqa: ANN401 - any user model
    """Describe ``user``, or ``real`` if that is somebody else: a user, or the primary key of one who is gone."""
    if real is None or real == user:
        return named(request, user)
    said = {"id": real, "auth": "session"} if isinstance(real, str) else named(request, real)
    return {**said, "on_behalf_of": user.get_username()}


def named(request: HttpRequest, user: Any) -> dict[str, object]:  # noqa: ANN401 - any user model
    """Return a user as the principal of ``request``, on nobody's behalf."""
    in_session = "HTTP_AUTHORIZATION" not in request.META and _has_session(request)
    return {
        "id": user.get_username(),
        "auth": "session" if in_session else None,
        "privileged": True if getattr(user, "is_superuser", False) else None,
    }


def _may_be_hijacked(request: HttpRequest) -> bool:
    return _has_session(request) and apps.is_installed("hijack") and hasattr(request, "session")


def _hijacker(user: Any, owner: object, history: Sequence[object] | None) -> str | None:  # noqa: ANN401 - any user model
    """Return the primary key of who first hijacked the session; None if ``user`` did not come from the session."""
    is_of_session = owner is not None and str(owner) == user._meta.pk.value_to_string(user)  # noqa: SLF001 - as documented
    return str(history[0]) if history and is_of_session else None


def _users() -> Any:  # noqa: ANN401 - the manager of any user model
    return get_user_model()._base_manager  # noqa: SLF001 - documented, and without the filters of an app


def _has_session(request: HttpRequest) -> bool:
    return settings.SESSION_COOKIE_NAME in request.COOKIES


def _is_unread(request: HttpRequest) -> bool:
    """Whether nobody has asked for the user yet: reading it would ask the database."""
    return _is_untouched(request.__dict__.get("user")) and not hasattr(request, "_cached_user")


def _is_untouched(user: object) -> bool:
    """Whether ``user`` is a lazy object, Django's or that of a middleware of the project, which nobody looked at."""
    return isinstance(user, SimpleLazyObject) and user.__dict__.get("_wrapped") is empty


def _is_worth_asking(request: HttpRequest) -> bool:
    user = request.__dict__.get("user")
    if user is None:
        return False
    return not _is_unread(request) or hasattr(request, "_acached_user") or _has_session(request)
