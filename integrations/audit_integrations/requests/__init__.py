"""requests: one line records every request that leaves, `audit_requests`; or an adapter does for one session."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from audit_integrations.patching import Undo, patched
from audit_integrations.urllib3 import install, recording

try:
    import requests
    from requests.adapters import HTTPAdapter
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("requests is missing: pip install 'audit-ready[requests]'", name=error.name) from error

__all__ = ["AuditAdapter", "audit_requests"]


class AuditAdapter(HTTPAdapter):
    """Records what a session sends: ``session.mount("https://", AuditAdapter())``.

    Each request that urllib3 sends for it is one record: redirects, authentication and the adapter's own retries.
    """

    def send(self, request: requests.PreparedRequest, *arguments: Any, **named: Any) -> requests.Response:  # noqa: ANN401 - HTTPAdapter's own
        """Send one request; raises what `HTTPAdapter` raises."""
        install()
        with recording():
            return super().send(request, *arguments, **named)


def audit_requests() -> Undo:
    """Record every request of every session, present and future; a second time changes nothing.

    Returns what undoes it. What else is made of urllib3 in this process is not recorded: that is `audit_urllib3`.
    """
    install()
    return patched(HTTPAdapter, "send", _around)


def _around(original: Callable[..., requests.Response]) -> Any:  # noqa: ANN401 - a method
    @functools.wraps(original)
    def send(self: HTTPAdapter, *arguments: Any, **named: Any) -> requests.Response:  # noqa: ANN401 - HTTPAdapter's own
        with recording():
            return original(self, *arguments, **named)

    return send
