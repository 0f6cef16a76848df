"""The project's own way to name a principal, ``AUDIT["IDENTIFY"]``, where Django's database connections belong."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.db import connections
from django.http import HttpRequest

from audit_middleware.capture import FAILED, identified_async
from audit_middleware.capture.identify import identified


class Identify:
    """A function that names the principal of a request; one that raises, or takes two seconds, is given up.

    A sync handler waits for it on another thread, which has the database connections of the request meanwhile. An
    async handler awaits a coroutine function, and calls any other in Django's thread for sync code.
    """

    def __init__(self, function: Callable[[HttpRequest], object]) -> None:
        self._function = function
        is_async = iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - an object whose __call__ is a coroutine function
        self._awaitable: Any = function if is_async else sync_to_async(function)

    def __call__(self, request: HttpRequest) -> object:
        """Return what it says; one that fails is logged and becomes an unknown principal."""
        loan = Loan()
        try:
            return identified(cast("Any", partial(loan.use, self._said)), request)
        finally:
            loan.end()

    async def asked(self, request: HttpRequest) -> object:
        """Do the same without blocking the event loop."""
        return await identified_async(self._awaitable, cast("Any", request))

    def _said(self, request: HttpRequest) -> object:
        said = self._function(request)
        return async_to_sync(_awaited)(said) if inspect.isawaitable(said) else said


class Loan:
    """The database connections of this thread, for another one while it is waited for.

    So a function called there sees what this request has not committed yet. Two threads never have them at once: what
    is given up keeps them and closes them whenever it ends, and this thread opens new ones.
    """

    def __init__(self) -> None:
        self._lent = connections.all(initialized_only=True)
        self._lock = threading.Lock()
        self._is_waited_for = True
        self._is_in_use = False
        for each in self._lent:
            each.inc_thread_sharing()

    def use(self, function: Callable[[HttpRequest], object], request: HttpRequest) -> object:
        """Call ``function``, on the other thread."""
        with self._lock:
            if not self._is_waited_for:
                return FAILED
            self._is_in_use = True
        for each in self._lent:
            connections[each.alias] = each
        try:
            return function(request)
        finally:
            with self._lock:
                self._is_in_use = False
                is_given_up = not self._is_waited_for
            for each in connections.all(initialized_only=True):
                if is_given_up or each not in self._lent:
                    each.close()
                del connections[each.alias]

    def end(self) -> None:
        """Take the connections back, or leave them to what does not end."""
        with self._lock:
            self._is_waited_for = False
            is_kept = self._is_in_use
        for each in self._lent:
            if is_kept:
                del connections[each.alias]
            else:
                each.dec_thread_sharing()


async def _awaited(said: Awaitable[object]) -> object:
    return await said
