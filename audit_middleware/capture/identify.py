"""An application's own way to name the principal of a request, contained: it may raise or never come back."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from audit_middleware.record import UNKNOWN, Principal

Identify = Callable[[MutableMapping[str, Any]], object | Awaitable[object]]
IDENTIFY_TIMEOUT_S: Final = 2.0
LOGGER: Final = logging.getLogger("audit_middleware")
FAILED: Final = {"id": None, "type": UNKNOWN, "auth": UNKNOWN}


async def identified(identify: Identify, scope: MutableMapping[str, Any]) -> object:
    """Return what ``identify`` says of ``scope``: a `Principal`, a name, a user object, or None for nobody.

    One that raises, or takes longer than `IDENTIFY_TIMEOUT_S` in a coroutine, is logged and becomes an unknown
    principal, which is a defect of the record and not an error of the request.
    """
    try:
        said = identify(scope)
        if inspect.isawaitable(said):
            return await asyncio.wait_for(said, IDENTIFY_TIMEOUT_S)
    except Exception:
        LOGGER.exception("audit: identify failed; the principal of this request is on record as unknown")
        return FAILED
    return said


__all__ = ["Identify", "Principal", "identified"]
