"""What of a request's query and body may be recorded: the parts that allow-lists let through."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from audit_middleware.capture.body import KeptBody, is_asked
from audit_middleware.capture.redaction import allowed_parameters
from audit_middleware.capture.said import CurrentAudit, union


class AllowedParts(CurrentAudit):
    """Takes query parameters and body fields; what should have been looked at and could not be read is noted."""

    request_bytes = 0
    is_undeclared = False
    """Whether the body is counted as it is read, because its length was not declared."""
    parameters: dict[str, Any] | None = None
    """What allow-lists let through, by where it stood: ``query``, ``body``."""
    unread: tuple[str, ...] = ()
    """Where something should have been looked at and could not be read."""
    body: KeptBody | None = None
    read_body: Callable[[], bytes | None] | None = None
    """How to get the body for a framework that has read it, or will, where no adapter sees it."""

    def take_query(self, query: bytes, names: Collection[str]) -> None:
        """Take the query parameters that the allow-list ``names``; a query that cannot be read is a defect."""
        try:
            found = allowed_parameters(query, names)
        except ValueError:
            self.unread += ("query",)
        else:
            self._take("query", found)

    def want_body(self, names: tuple[str, ...]) -> None:
        """Say which fields of the request's body may be recorded; call it before the body is read."""
        self.body_fields = union(self.body_fields, names)
        content = self.read_body() if self.read_body is not None and self.body is None else None
        if content:
            self.keep_body(content)

    def keep_body(self, chunk: bytes) -> None:
        """Keep a chunk of the body until the record is made; count it if nobody declared how long the body is."""
        if self.is_undeclared:
            self.request_bytes += len(chunk)
        if not is_asked():
            return
        self.body = self.body or KeptBody()
        self.body.add(chunk)

    def take_body(self, content_type: str, *, is_expected: bool) -> None:
        """Take the fields of the body that the allow-list names; one that cannot be read, or was not, is a defect."""
        try:
            if self.body is not None:
                self._take("body", self.body.fields(content_type, self.body_fields))
        except ValueError:
            self.unread += ("body",)
        else:
            self.unread += ("body",) if is_expected and self.body is None else ()

    def _take(self, where: str, found: dict[str, Any] | None) -> None:
        if found:
            self.parameters = {**(self.parameters or {}), where: found}
