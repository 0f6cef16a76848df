"""The project's own way to name a principal, ``AUDIT["IDENTIFY"]``, where Django's database connections belong."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.http import HttpRequest

from audit_integrations.django.loans import Loan
from audit_middleware.capture import Patience, identified, identified_async
from audit_middleware.capture.identify import called


class Identify:
    """A function that names the principal of a request; one that raises, or takes two seconds, is given up.

    A sync handler waits for it on another thread, which has the database connections of the request meanwhile. An
    async handler awaits a coroutine function, and lets Django's thread for sync code wait for any other likewise, which
    Django itself waits for when the request ends.
    """

    def __init__(self, function: Callable[[HttpRequest], object]) -> None:
        self._function = function
        self._patience = Patience()
        is_async = iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - an object whose __call__ is a coroutine function
        self._awaitable: Any = function if is_async else sync_to_async(partial(self._lent, called))

    def __call__(self, request: HttpRequest) -> object:
        """Return what it says; one that fails is logged and becomes an unknown principal."""
        return self._lent(partial(identified, patience=self._patience), request)

    async def asked(self, request: HttpRequest) -> object:
        """Do the same without blocking the event loop."""
        return await identified_async(self._awaitable, cast("Any", request), self._patience)

    def _lent(self, call: Callable[[Any, Any], object], request: HttpRequest) -> object:
        loan = Loan()
        try:
            return call(partial(loan.use, self._said), request)
        finally:
            loan.end()

    def _said(self, request: HttpRequest) -> object:
        said = self._function(request)
        return async_to_sync(_awaited)(said) if inspect.isawaitable(said) else said


async def _awaited(said: Awaitable[object]) -> object:
    return await said
