"""Run a collector under uvicorn, in this process, until SIGINT or SIGTERM, or until SIGHUP asks to begin anew."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Final

import uvicorn

from audit_middleware.collector.access import NOBODY
from audit_middleware.collector.app import START_WAIT, create_app
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.connections import Doorkeeper, notice_refusals
from audit_middleware.collector.settings import CollectorSettings, TLSSettings
from audit_middleware.errors import ConfigurationError

GRACE: Final = 2  # seconds open requests get after SIGTERM
BACKLOG: Final = 1024
ACCEPTED_AT_ONCE: Final = 16
GC_THRESHOLD: Final = (50_000, 20, 20)  # records are no cycles: at 700 the collector of garbage takes 7 % of ingest

Announce = Callable[[Collector, str], None]
"""Called with the open collector and its URL before the first request."""

_log: Final = logging.getLogger(__name__)


def serve(
    settings: CollectorSettings,
    announce: Announce = lambda _collector, _url: None,
    *,
    require_settings: Callable[[], object] = lambda: None,
) -> bool:
    """Serve until a signal comes; returns when everything is committed and closed: whether to begin anew.

    ``require_settings`` is called at SIGHUP and raises `ConfigurationError` when a new beginning would not work: then
    this says so and goes on with what it has.

    Raises `ConfigurationError` for an address that cannot be had, and what `Collector` raises.
    """
    gc.set_threshold(*GC_THRESHOLD)
    signals = _Signals(require_settings)
    with bind(settings.host, settings.port) as listener, Collector(settings).open(wait=START_WAIT) as collector:
        server = _Server(_config(collector))
        signals.server = server
        announce(collector, url_of(listener, settings.tls))
        server.should_exit = signals.has_come
        server.run(sockets=[listener])
    return signals.is_anew


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise `ConfigurationError` with the reason."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    listener.set_inheritable(False)
    # connections inherit it; asyncio sets it only for sockets made with the protocol's number, which this one is not
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket, tls: TLSSettings | None = None) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls is not None else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class _Signals:
    """SIGINT and SIGTERM end the server in peace, whenever they come; SIGHUP too, if what it would begin with is sound.

    uvicorn raises the signal again once everything is closed; here it then means nothing.
    """

    def __init__(self, require_settings: Callable[[], object]) -> None:
        self.has_come = False
        self.is_anew = False
        self.server: uvicorn.Server | None = None
        self._require_settings = require_settings
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._stop)
            signal.signal(signal.SIGHUP, self._begin_anew)

    def _begin_anew(self, *_: object) -> None:
        try:
            self._require_settings()
        except ConfigurationError as error:
            _log.error("the configuration is not taken, what runs goes on as it is: %s", error)
            return
        self.is_anew = not self.has_come
        self._stop()

    def _stop(self, *_: object) -> None:
        self.has_come = True
        if self.server is not None:
            self.server.should_exit = True


class _Server(uvicorn.Server):
    """Takes new connections a few at a time."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Let more connections wait in the kernel than are accepted in one turn of the loop."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(BACKLOG)


def _config(collector: Collector) -> uvicorn.Config:
    tls = collector.settings.tls
    secure: dict[str, Any] = {}
    if tls is not None:
        asks = ssl.CERT_OPTIONAL if tls.client_ca else ssl.CERT_NONE  # a token is enough where none is bound to one
        secure = {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key, "ssl_ca_certs": tls.client_ca}
        secure["ssl_cert_reqs"] = asks
    config = uvicorn.Config(
        create_app(collector),
        http=Doorkeeper(collector.settings.limits).protocol(),
        ws="none",
        backlog=ACCEPTED_AT_ONCE,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=GRACE,
        log_level="warning",
        **secure,
    )
    if tls is not None:
        config.load()
        assert config.ssl is not None
        notice_refusals(
            config.ssl, lambda why: collector.note_access(NOBODY, "denied", f"TLS handshake: {why}", NOBODY)
        )
    return config
