"""The database connections of a request, for a function on another thread that the request waits for, or gives up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from django.db import DatabaseError, connections
from django.http import HttpRequest

from audit_middleware.capture import FAILED

_OWN: Final = frozenset(
    {"client", "creation", "execute_wrappers", "features", "introspection", "ops", "settings_dict", "validation"}
)
"""What belongs to one of Django's connections itself; the rest of its public attributes is its state."""
_GUARDED: Final = ("connect", "close", "commit", "rollback", "set_autocommit")
_REVOKED: Final = "this function took too long to name the principal of a request, which goes on with its connection"


class Loan:
    """The open database connections of this thread, for another one while it is waited for.

    So a function called there sees what this request has not committed yet. One that is given up loses them, and this
    thread goes on with them as if nobody had been asked: a transaction of the request is never lost. A function that
    is inside the database just then, or in a transaction of its own, keeps a connection, closes it whenever it ends,
    and this thread opens a new one; unless that is in a transaction, when it waits until the database has answered.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_waited_for = True
        self._lent = [
            _Lent(each, self._changed)
            for each in connections.all(initialized_only=True)
            if each.connection is not None  # one that is not open has nothing to see
        ]

    def use(self, function: Callable[[HttpRequest], object], request: HttpRequest) -> object:
        """Call ``function``, on the other thread."""
        try:
            with self._changed:
                if not self._is_waited_for:
                    return FAILED
                for each in self._lent:
                    connections[each.alias] = each.begin()
            return function(request)
        finally:
            with self._changed:
                for each in self._lent:
                    each.give_back()
            for own in connections.all(initialized_only=True):
                with suppress(DatabaseError):
                    own.close()
                del connections[own.alias]

    def end(self) -> None:
        """Go on without the other thread, which may have ended or not."""
        with self._changed:
            self._is_waited_for = False
            for each in self._lent:
                self._changed.wait_for(each.can_be_ended)
                each.end()


class _Lent:
    """One connection: the other thread has an object of Django's of its own around what the driver opened."""

    def __init__(self, own: Any, changed: threading.Condition) -> None:  # noqa: ANN401 - of any database
        self.alias = own.alias
        self._own = own
        self._copy: Any = None
        self._changed = changed
        self._running = 0
        self._is_over = False
        self._is_revoked = False
        self._is_in_transaction = own.in_atomic_block or not own.autocommit

    def begin(self) -> Any:  # noqa: ANN401 - as above
        """Return the connection for this thread."""
        self._copy = copy = type(self._own)(self._own.settings_dict, self.alias)
        _move(self._own, copy)
        copy.execute_wrappers = [self._execute, *self._own.execute_wrappers]
        for name in _GUARDED:
            setattr(copy, name, partial(self._run, getattr(copy, name)))
        return copy

    def give_back(self) -> None:
        """The function ended: the request goes on where it left off, if it still waits."""
        if self._copy is not None and not self._is_over:
            self._is_over = True
            _move(self._copy, self._own)
            self._copy.connection = None

    def can_be_ended(self) -> bool:
        """Whether a transaction of the request is not just used by the other thread."""
        return not (self._is_in_transaction and self._running and not self._is_over)

    def end(self) -> None:
        """Take the connection from a function that was given up, or leave it to that."""
        copy, own = self._copy, self._own
        if copy is None or self._is_over:
            return
        self._is_over = True
        if self._is_in_transaction:
            own.closed_in_transaction, own.needs_rollback = copy.closed_in_transaction, copy.needs_rollback
        elif self._running or copy.connection is not own.connection or copy.in_atomic_block or not copy.autocommit:
            own.connection = None
            return
        self._is_revoked = True
        copy.connection = None

    def _execute(self, execute: Callable[..., object], *arguments: object) -> object:
        return self._run(execute, *arguments)

    def _run(self, method: Callable[..., object], *arguments: object, **named: object) -> object:
        """Run what uses the driver's connection, which nobody else may do meanwhile."""
        with self._changed:
            if self._is_revoked:
                raise DatabaseError(_REVOKED)
            self._running += 1
        try:
            return method(*arguments, **named)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()


def _move(source: object, target: object) -> None:
    """Let ``target`` go on where ``source`` is."""
    for name, value in vars(source).items():
        is_method = callable(value) and name != "connection"  # of somebody's own, around one of this object
        if name not in _OWN and name[0] != "_" and not is_method:
            setattr(target, name, value.copy() if type(value) is list else value)
