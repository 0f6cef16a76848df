"""How many connections may be open, and how long one may be silent: a file descriptor is what the ledger needs too."""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from audit_middleware.collector.limits import Limits
from audit_middleware.collector.routes import CERTIFICATE

RESERVED: Final = 160  # descriptors for ledger, index, quarantine, searches, and connections just accepted
FEWEST: Final = 8
_BODY: Final = (
    b'{"type":"urn:audit-ready:problem:too-many-connections","title":"Too many connections","status":503,'
    b'"detail":"all connections are taken: come back in a second"}'
)
BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nAudit-Collector: 1\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


def allowed_connections(limit: int) -> int:
    """Raise this process's limit of descriptors as far as it may; return how many connections fit below ``limit``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return limit if soft == resource.RLIM_INFINITY else max(FEWEST, min(limit, soft - RESERVED))


def names_of(connection: ssl.SSLObject | None) -> frozenset[str]:
    """Return the names in the certificate that a client showed and the handshake verified; none without one.

    DNS names and URIs of the subjectAltName (RFC 5280, 4.2.1.6), and common names of the subject.
    """
    shown: Any = connection.getpeercert() if connection is not None else None
    if not shown:
        return frozenset()
    alternative = {name for kind, name in shown.get("subjectAltName", ()) if kind in {"DNS", "URI"}}
    common = {value for part in shown.get("subject", ()) for kind, value in part if kind == "commonName"}
    return frozenset(alternative | common)


def notice_refusals(context: ssl.SSLContext, note: Callable[[str], None]) -> None:
    """Call ``note`` with the reason whenever a client's certificate is not accepted: asyncio says nothing of that.

    Whose it is cannot be told, and its address is not known where the handshake is.
    """

    class Noticed(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLCertVerificationError as error:
                note(error.verify_message)
                raise

    context.sslobject_class = Noticed


class Doorkeeper:
    """Counts connections and ends silent ones. One event loop owns it."""

    def __init__(self, limits: Limits) -> None:
        self.connections = allowed_connections(limits.connections)
        self.head_seconds = limits.head_seconds
        self._waiting: dict[GuardedProtocol, None] = {}  # for a request's head, the longest first

    def protocol(self) -> type[H11Protocol]:
        """Return the protocol class for uvicorn."""
        return type("GuardedProtocol", (GuardedProtocol,), {"keeper": self})

    def wait(self, connection: GuardedProtocol) -> None:
        """Note that a connection has no request under way from now on."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None

    def forget(self, connection: GuardedProtocol) -> None:
        """Note that a connection has a request under way, or is gone."""
        self._waiting.pop(connection, None)

    def admits(self, open_now: int) -> bool:
        """Say whether there is room for the newest connection; one that waits in silence makes room for it."""
        if open_now <= self.connections:
            return True
        silent = next(iter(self._waiting), None)
        if silent is None:
            return False
        self.forget(silent)
        silent.transport.abort()
        return True


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with a deadline for a request's head and a bound for connections."""

    keeper: Doorkeeper
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Take a connection, or refuse it in words; requests carry the names of the client's certificate."""
        super().connection_made(transport)
        names = names_of(transport.get_extra_info("ssl_object"))
        if names:
            inner = self.app

            async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's own types
                scope[CERTIFICATE] = names
                await inner(scope, receive, send)

            self.app = app
        if self.keeper.admits(len(self.connections)):
            self._wait_for_head()
        else:
            transport.write(BUSY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """A head that is complete ends the wait."""
        super().handle_events()
        if self._is_busy():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self.transport.is_closing() and not self._is_busy():
            self._wait_for_head()

    def _is_busy(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn declares it as if there always was one
        return cycle is not None and not cycle.response_complete

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self.keeper.wait(self)
        self._deadline = self.loop.call_later(self.keeper.head_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        self.keeper.forget(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self.keeper.forget(self)
        self.transport.close()
