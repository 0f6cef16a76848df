"""Which request is being observed in this context."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.said import CurrentAudit, NoAudit

_current: ContextVar[Exchange | None] = ContextVar("audit_exchange", default=None)


def current_audit() -> CurrentAudit:
    """Return the request being observed; outside one an object that takes everything and records nothing."""
    return _current.get() or NoAudit()


def exchange_at_hand() -> Exchange | None:
    """Return the exchange of this context, which may be over; None where none ever was."""
    return _current.get()


enter: Final = _current.set
"""Make an exchange current in this context; returns the token for `leave`."""
leave: Final = _current.reset
"""Make current what was before `enter`."""
