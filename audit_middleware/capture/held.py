"""The ASGI scope of a request that runs without a record, as one view allows: no router leads it to another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audit_middleware.capture import refusal
from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.routing import is_written
from audit_middleware.capture.rules import is_out_of_policy
from audit_middleware.errors import RequestRefused


class HeldScope(dict[str, Any]):
    """Refuses the endpoint that a router puts in, if its policy is not that of the view that was asked before.

    Middleware may have changed the path in between. Where it hands on a copy of the scope, this sees nothing of it.
    """

    def __init__(self, scope: Mapping[str, Any], exchange: Exchange) -> None:
        super().__init__(scope)
        self._exchange = exchange

    def __setitem__(self, name: str, value: object) -> None:
        """Put one in."""
        self.update({name: value})

    def update(self, *found: Any, **named: object) -> None:  # noqa: ANN401 - as dict has it
        """Put several in, as Starlette does with what a route found."""
        given = dict(*found, **named)
        view, method = given.get("endpoint"), given.get("method", self.get("method", self._exchange.method))
        if is_written(view) and is_out_of_policy(self._exchange, view, method):
            raise RequestRefused(refusal.NOT_CARRIED_OUT)
        super().update(given)
