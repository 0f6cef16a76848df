"""The body of a request, for views that name fields of it to be recorded."""

from __future__ import annotations

import logging
from typing import Final

from django.http import HttpRequest

from audit_middleware.capture import Exchange
from audit_middleware.capture.body import MAX_BODY
from audit_middleware.capture.observer import declared

LOGGER: Final = logging.getLogger("audit_middleware")


def follow_body(request: HttpRequest, exchange: Exchange) -> None:
    """Let ``exchange`` get the body when a view asks for it.

    A multipart form is read at once: whatever parses it first, as the CSRF check does, leaves nothing to read again.
    """
    if request.content_type == "multipart/form-data":
        content = _body_of(request)
        if content is not None:
            exchange.keep_body(content)
    else:
        exchange.read_body = lambda: _body_of(request)


def _body_of(request: HttpRequest) -> bytes | None:
    """Return the body, which Django then keeps for everybody else; None when it is large or cannot be read."""
    if not 0 < declared(request.META.get("CONTENT_LENGTH")) <= MAX_BODY:
        return None
    try:
        return request.body
    except Exception:
        LOGGER.debug("audit: the body of a request cannot be read", exc_info=True)
        return None
