"""How a message leaves the house: the `Sender` of each kind, and one careful HTTP request.

Requests go through httpx's transport and not its client: no redirect is followed, no proxy of the environment is used,
and no URL, which may be a secret, is logged.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from audit_middleware._version import __version__
from audit_middleware.collector.alerts.message import Message, plain
from audit_middleware.errors import DeliveryError

if TYPE_CHECKING:
    import ssl

    import httpx

MAX_ANSWER: Final = 65_536
LONGEST_HELD: Final = 300.0


class AlertFailed(DeliveryError):
    """A sink did not confirm a message, which may have arrived; ``retry_after`` is what it asked for, in seconds."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Sender(Protocol):
    """One receiver. Called by one thread at a time; a message may come again, with the same id and the same news."""

    def send(self, message: Message) -> str:
        """Deliver, and return in words what came back; raise `AlertFailed` unless it was confirmed.

        Takes a bounded time. Neither the words nor the exception contain a secret.
        """

    def close(self) -> None:
        """Give back connections."""


class Reply(NamedTuple):
    """An answer to a request."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        """The beginning of the body, safe to show."""
        return plain(self.body[:200].decode("utf-8", "replace").strip())


class Door:
    """Sends requests to one URL. ``secrets`` are taken out of everything that is said about it."""

    def __init__(self, url: str, *, timeout: float, ca_file: str | None = None, secrets: tuple[str, ...] = ()) -> None:
        parts = urlsplit(url)
        self.url = url
        self.place = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        self._timeout = timeout
        self._ca_file = ca_file
        self._secrets = tuple(secret for secret in secrets if secret)
        self._transport: httpx.HTTPTransport | None = None

    def request(self, method: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Return the answer if it has status 2xx; raise `AlertFailed` for anything else."""
        import httpx

        given = {"user-agent": f"audit-ready/{__version__}", "connection": "close", **(headers or {})}
        timeout = httpx.Timeout(self._timeout).as_dict()
        try:
            request = httpx.Request(method, self.url, content=body, headers=given, extensions={"timeout": timeout})
            reply, retry_after = self._exchange(request)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            self.close()
            raise self.failed(f"{type(error).__name__}: {error}") from None
        if not 200 <= reply.status < 300:  # noqa: PLR2004 - HTTP status
            raise self.failed(f"answers {reply.status}: {reply.text or 'nothing'}", retry_after)
        return reply

    def failed(self, what: str, retry_after: float | None = None) -> AlertFailed:
        """Return the exception for what happened, without secrets."""
        for secret in self._secrets:
            what = what.replace(secret, "***")
        return AlertFailed(f"{self.place} {what}", retry_after=retry_after)

    def close(self) -> None:
        """Close the connections."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _exchange(self, request: httpx.Request) -> tuple[Reply, float | None]:
        deadline = time.monotonic() + 2 * self._timeout
        response = self._opened().handle_request(request)
        try:
            content = b""
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > MAX_ANSWER or time.monotonic() > deadline:
                    break
            return Reply(response.status_code, content), _seconds(response.headers.get("retry-after"))
        finally:
            response.close()

    def _opened(self) -> httpx.HTTPTransport:
        if self._transport is None:
            import httpx

            self._transport = httpx.HTTPTransport(verify=self._authorities(), trust_env=False)
        return self._transport

    def _authorities(self) -> ssl.SSLContext | bool:
        """None are loaded, which takes 80 ms, for a URL that is not https."""
        import ssl

        if not self.url.startswith("https://"):
            return False
        return ssl.create_default_context(cafile=self._ca_file)


def _seconds(value: str | None) -> float | None:
    """Return a Retry-After in seconds, bounded; a date is not one."""
    text = (value or "").strip()
    return min(float(text), LONGEST_HELD) if text.isascii() and text.isdigit() else None
