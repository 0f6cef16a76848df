"""What application code may say about the request at hand."""

from __future__ import annotations

from typing import Any, Literal

from audit_middleware.capture.exemption import Exemption
from audit_middleware.capture.meaning import plain_principal
from audit_middleware.record import Outcome, Resource

OnFailure = Literal["deny", "allow"]
"""What becomes of a request whose record cannot be kept."""


def union(names: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of both, each once."""
    return tuple(dict.fromkeys((*names, *more))) if names else more


class CurrentAudit:
    """What application code may say about the request at hand; whatever it leaves unset is observed.

    ``principal`` takes a `Principal`, a user name, or a user object; ``resource`` a `Resource`, ``(type, id)`` or
    ``"type:id"``; ``outcome`` one of success, denied, failure; ``details`` is a dictionary of plain values; ``route``
    is the template of the route, for frameworks that do not leave it where an adapter can see it.
    What is said after the last byte of the answer was handed to the server is not on record.
    """

    _who: Any = None
    action: str | None = None
    resource: Resource | tuple[str, object] | str | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    route: str | None = None
    exemption: Exemption | None = None
    query_parameters: tuple[str, ...] = ()
    body_fields: tuple[str, ...] = ()
    on_failure: OnFailure | None = None

    def __init__(self, request_id: str = "") -> None:
        self.request_id = request_id
        self.details: dict[str, Any] = {}

    @property
    def principal(self) -> Any:  # noqa: ANN401 - what an application calls a user
        """Who acts; a user object is read when it is said, because its session may be closed at the end."""
        return self._who

    @principal.setter
    def principal(self, said: object) -> None:
        self._who = said if type(said) is str else plain_principal(said)

    def want_body(self, names: tuple[str, ...]) -> None:
        """Say which fields of the request's body may be recorded; call it before the body is read."""

    def is_refused_by(self, on_failure: OnFailure) -> bool:  # noqa: ARG002 - nothing is recorded here, nothing missing
        """Hold the request to a policy of its own; say whether it must not be carried out under that."""
        return False

    def failed(self, error: BaseException) -> None:
        """Say that nobody handled ``error``, for a framework that answers it before an adapter can see it."""


class NoAudit(CurrentAudit):
    """What `current_audit` gives outside a request: everything can be said to it, nothing is recorded."""
