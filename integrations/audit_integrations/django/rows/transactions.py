"""Changes that are rolled back, to a savepoint or as a whole: for each connection, what is on record since it began."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper

from audit_middleware.capture import DataTrail, Rows, Transaction
from audit_middleware.pipeline import LOGGER

_ATTRIBUTE: Final = "_audit_transaction"
Method = Callable[..., Any]


def remember(connection: Any, rows: Rows) -> None:  # noqa: ANN401 - any backend's
    """Keep a change in mind until the transaction of ``connection`` ends; without one it is there to stay."""
    if connection.in_atomic_block or not connection.autocommit:
        vars(connection).setdefault(_ATTRIBUTE, Transaction()).add(rows)


def hooks(trail: DataTrail) -> list[tuple[type, str, Callable[[Method], Method]]]:
    """Return what is wrapped to see transactions end: owner, name, and what goes around."""

    def undone(connection: Any) -> None:  # noqa: ANN401 - any backend's
        trail.rolled_back(vars(connection).pop(_ATTRIBUTE, Transaction()).end())

    def set_autocommit(connection: Any) -> None:  # noqa: ANN401 - as above
        if connection.autocommit and not connection.in_atomic_block:
            committed(connection)

    ends = {"commit": committed, "rollback": undone, "close": undone, "set_autocommit": set_autocommit}
    return [
        *((BaseDatabaseWrapper, name, _then(function)) for name, function in ends.items()),
        (BaseDatabaseWrapper, "savepoint", _marking),
        (BaseDatabaseWrapper, "savepoint_rollback", _going_back(trail)),
    ]


def committed(connection: Any) -> None:  # noqa: ANN401 - any backend's
    """Forget what lasts."""
    vars(connection).pop(_ATTRIBUTE, None)


def _then(after: Callable[[Any], None]) -> Callable[[Method], Method]:
    def around(original: Method) -> Method:
        def method(connection: Any, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - Django's signature
            answer = original(connection, *arguments, **named)
            if _ATTRIBUTE in vars(connection):
                _contained(after, connection)
            return answer

        return method

    return around


def _marking(original: Method) -> Method:
    def savepoint(connection: Any) -> Any:  # noqa: ANN401 - Django's signature
        name = original(connection)
        found = vars(connection).get(_ATTRIBUTE)
        if found is not None and name is not None:
            found.mark(name)
        return name

    return savepoint


def _going_back(trail: DataTrail) -> Callable[[Method], Method]:
    def around(original: Method) -> Method:
        def savepoint_rollback(connection: Any, sid: str) -> None:  # noqa: ANN401 - Django's signature
            original(connection, sid)
            found = vars(connection).get(_ATTRIBUTE)
            if found is not None and connection._savepoint_allowed():  # noqa: SLF001 - what Django asks before it does anything
                _contained(lambda _: trail.rolled_back(found.back_to(sid)), connection)

        return savepoint_rollback

    return around


def _contained(function: Callable[[Any], None], connection: Any) -> None:  # noqa: ANN401 - any backend's
    try:
        function(connection)
    except Exception:  # noqa: BLE001 - containment: a fault of ours must not fail the end of a transaction
        LOGGER.exception("audit: whether changes of declared models lasted is not on record")
