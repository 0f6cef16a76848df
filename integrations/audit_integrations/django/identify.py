"""The project's own way to name a principal, ``AUDIT["IDENTIFY"]``, where Django's database connections belong."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.http import HttpRequest

from audit_middleware.capture import FAILED, identified_async

LOGGER: Final = logging.getLogger("audit_middleware")


class Identify:
    """A function that names the principal of a request, called where Django calls views of its kind.

    A sync handler calls it in the thread of the request, in which it cannot be timed out. An async handler awaits a
    coroutine function, and calls any other in Django's thread for sync code; there it is given up after two seconds.
    """

    def __init__(self, function: Callable[[HttpRequest], object]) -> None:
        self._function = function
        is_async = iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - an object whose __call__ is a coroutine function
        self._awaitable: Any = function if is_async else sync_to_async(function)

    def __call__(self, request: HttpRequest) -> object:
        """Return what it says; one that raises is logged and becomes an unknown principal."""
        try:
            said = self._function(request)
            return async_to_sync(_awaited)(said) if inspect.isawaitable(said) else said
        except (Exception, SystemExit):  # the project's own code; it must not end the worker, and the record with it
            LOGGER.exception("audit: IDENTIFY failed; the principal of this request is on record as unknown")
            return FAILED

    async def asked(self, request: HttpRequest) -> object:
        """Do the same without blocking the event loop."""
        return await identified_async(self._awaitable, cast("Any", request))


async def _awaited(said: Awaitable[object]) -> object:
    return await said
