"""What auditors always ask for, one line each, with fixed names: ``events.role_changed("bob", before=..., after=...)``.

Each is an ``event`` record of the request or task at hand, with whoever acts in it; outside of any the service itself
acts. They never raise: what cannot be kept is logged. Values of passwords and settings have no place in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from audit_middleware.capture.current import exchange_at_hand
from audit_middleware.capture.work import Work
from audit_middleware.errors import AuditError
from audit_middleware.pipeline import LOGGER, Pipeline, pipeline_at_hand
from audit_middleware.plain import Plainer
from audit_middleware.record import Outcome, Resource

SIGN_IN: Final = "auth.sign_in"
SIGN_OUT: Final = "auth.sign_out"
USER_CREATE: Final = "auth.user_create"
USER_DELETE: Final = "auth.user_delete"
USER_ACTIVATE: Final = "auth.user_activate"
USER_DEACTIVATE: Final = "auth.user_deactivate"
PASSWORD_CHANGE: Final = "auth.password_change"  # noqa: S105 - the name of an action
ROLE_CHANGE: Final = "auth.role_change"
PERMISSION_CHANGE: Final = "auth.permission_change"
EXPORT: Final = "data.export"
ADMIN_ACCESS: Final = "admin.access"
CONFIGURATION_CHANGE: Final = "configuration.change"

Named = Resource | tuple[str, object] | str


def sign_in(user: str) -> None:
    """Record that ``user`` signed in."""
    _event(SIGN_IN, ("user", user), principal=user)


def sign_in_failed(user: str, *, reason: str) -> None:
    """Record that somebody who said to be ``user`` was not let in; nobody is known to have acted."""
    _event(SIGN_IN, ("user", user), outcome="denied", reason=reason, is_anonymous=True)


def sign_out(user: str) -> None:
    """Record that ``user`` signed out."""
    _event(SIGN_OUT, ("user", user), principal=user)


def user_created(user: str, *, roles: Iterable[str] = ()) -> None:
    """Record that ``user`` is one from now on, and which roles came with that."""
    _event(USER_CREATE, ("user", user), details={"roles": list(roles)})


def user_deleted(user: str) -> None:
    """Record that ``user`` is no user any more."""
    _event(USER_DELETE, ("user", user))


def user_activated(user: str) -> None:
    """Record that ``user`` may sign in again."""
    _event(USER_ACTIVATE, ("user", user))


def user_deactivated(user: str) -> None:
    """Record that ``user`` may not sign in any more."""
    _event(USER_DEACTIVATE, ("user", user))


def password_changed(user: str) -> None:
    """Record that the password of ``user`` was changed, or set anew."""
    _event(PASSWORD_CHANGE, ("user", user))


def role_changed(user: str, *, before: Iterable[str], after: Iterable[str]) -> None:
    """Record which roles ``user`` had and has."""
    _event(ROLE_CHANGE, ("user", user), details={"before": list(before), "after": list(after)})


def permission_changed(
    user: str | tuple[str, object], *, granted: Iterable[str] = (), revoked: Iterable[str] = ()
) -> None:
    """Record which permissions ``user``, or a ``("group", name)``, was given, and which were taken away."""
    whose = user if isinstance(user, tuple) else ("user", user)
    _event(PERMISSION_CHANGE, whose, details={"granted": list(granted), "revoked": list(revoked)})


def exported(resource: Named, *, rows: int, to: str) -> None:
    """Record that ``rows`` of a resource left the system, and as what or where ``to``: ``csv``, ``mail``."""
    _event(EXPORT, resource, details={"rows": rows, "to": to})


def admin_access(resource: Named, *, reason: str) -> None:
    """Record that somebody used the rights of an administrator on a resource, and why."""
    _event(ADMIN_ACCESS, resource, reason=reason)


def configuration_changed(name: str, *, reason: str) -> None:
    """Record that the setting ``name`` was changed, and why; never its value, which may be a secret."""
    _event(CONFIGURATION_CHANGE, ("setting", name), reason=reason)


def _event(
    action: str,
    resource: Named,
    *,
    principal: object = None,
    outcome: Outcome = "success",
    reason: str | None = None,
    details: Mapping[str, object] | None = None,
    is_anonymous: bool = False,
) -> None:
    try:
        before = exchange_at_hand()
        pipeline = before.gate if before is not None and isinstance(before.gate, Pipeline) else pipeline_at_hand()
        exchange = before if before is not None else Work(pipeline, action, "function")
        who = None if is_anonymous else principal or exchange.principal_now()
        record = exchange.event(action, principal=who, resource=resource, outcome=outcome, reason=reason)
        if details is not None:
            notes = Plainer()
            said = notes.value(details, "details")
            defects = [*(record.defects or ()), *notes.defects] or None
            record = msgspec.structs.replace(record, details=said, defects=defects)
        pipeline.event(record)
    except AuditError as error:
        LOGGER.error("audit: %s is not on record: %s", action, error)
    except Exception:  # noqa: BLE001 - containment: a fault of ours must not fail what happened
        LOGGER.exception("audit: %s is not on record", action)
