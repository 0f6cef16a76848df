"""What one middleware was told, whatever its protocol: its settings, its pipeline, and how an exchange begins."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from audit_middleware import config
from audit_middleware.capture.carrying import CALL_AGE, Replays, believe, call_purpose
from audit_middleware.capture.client_address import AddressResolver
from audit_middleware.capture.current import exchange_at_hand
from audit_middleware.capture.declared import Declaration
from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.identify import Patience
from audit_middleware.capture.routing import is_written, view_in, wsgi_route, wsgi_view
from audit_middleware.capture.rules import rules_for
from audit_middleware.capture.trace_ids import trace_ids
from audit_middleware.config import Settings
from audit_middleware.errors import ConfigurationError
from audit_middleware.pipeline import Pipeline, shared_pipeline
from audit_middleware.sealing.keys import Keyring

MARK: Final = "audit_middleware.exchange"
"""Where the exchange lies in an ASGI scope or a WSGI environ: whoever finds one there is observed already."""
LOGGER: Final = logging.getLogger("audit_middleware")
HEADERS: Final = {
    b"user-agent": "HTTP_USER_AGENT",
    b"x-request-id": "HTTP_X_REQUEST_ID",
    b"traceparent": "HTTP_TRACEPARENT",
    b"authorization": "HTTP_AUTHORIZATION",
    b"x-api-key": "HTTP_X_API_KEY",
    b"x-forwarded-for": "HTTP_X_FORWARDED_FOR",
    b"forwarded": "HTTP_FORWARDED",
    b"audit-context": "HTTP_AUDIT_CONTEXT",
}
"""The request headers that are looked at: their name on the wire, and in a CGI environment (RFC 3875, 4.1.18)."""
_CGI_HEADERS: Final = tuple(HEADERS.values())
_PROXY_FIX: Final = "werkzeug.proxy_fix.orig"  # where Werkzeug's ProxyFix keeps what the server had said
MAX_PORT: Final = 65535  # RFC 9293, section 3.1; uvicorn takes what stands behind the colon of X-Forwarded-For
_MAX_DIGITS: Final = 15  # of a number that a record can hold exactly


class Observer:
    """One middleware's settings and pipeline.

    ``settings`` are those of `audit_middleware.config.Settings`; with a ``pipeline`` its settings hold instead.
    Raises `ConfigurationError` for settings that are wrong or contradict each other.
    """

    def __init__(
        self, pipeline: Pipeline | None, identify: Callable[[Any], object] | None, settings: Mapping[str, Any]
    ) -> None:
        self._keyring: Keyring | None = None
        if pipeline is not None:
            self.settings = pipeline.settings
        else:
            self.settings, self._keyring = _configured(settings)
        self.pipeline = pipeline
        self.identify = identify
        self.patience = Patience()
        self.query_parameters = self.settings.query_parameters
        self.request_id_header = self.settings.request_id_header
        self.header_name = self.request_id_header.lower().encode()
        """The same as ASGI spells it."""
        self._declarations: list[Declaration] = []
        self._replays = Replays()
        self._addresses = AddressResolver(self.settings.trusted_proxies, self.settings.forwarded_header)

    def pipeline_of(self, title: Callable[[], str | None]) -> Pipeline:
        """Return the pipeline, made with the first exchange because only that knows the ``title`` of the app."""
        if self.pipeline is None:
            service = self.settings.service or title() or os.path.basename(os.getcwd()) or "unknown"
            self.pipeline = shared_pipeline(self.settings, service, self._keyring)
            for declaration in self._declarations:
                self.pipeline.take(declaration)
        return self.pipeline

    def declare(self, declaration: Declaration) -> None:
        """Declare what can be called here, for as long as this observer lives; nothing is opened or started."""
        self._declarations.append(declaration)
        if self.pipeline is not None:
            self.pipeline.take(declaration)

    def admits(self, pipeline: Pipeline, exchange: Exchange, view: Callable[[], object]) -> bool:
        """Append the attempt record; say whether the application may run.

        ``view`` finds what the framework would call. It is asked only when the record cannot be kept and the policy
        of the settings denies: the view's own may allow.
        """
        if pipeline.admit(exchange):
            return True
        try:
            rules = rules_for(view(), exchange.method)
        except Exception as error:  # noqa: BLE001 - a framework's router may raise anything
            pipeline.no_view(error)
            return False
        if rules is None or rules.on_failure != "allow":
            return False
        exchange.on_failure = rules.on_failure
        return True

    def begin(
        self,
        pipeline: Pipeline,
        method: str,
        path: str,
        seen: Mapping[str, bytes],
        client: tuple[str | None, int | None],
    ) -> Exchange:
        """Begin an exchange; ``seen`` holds raw values of `HEADERS` by their CGI names, ``client`` address and port."""
        exchange = Exchange(pipeline.service, pipeline.recorder.new_request_id(), method, path, time.perf_counter_ns())
        get = seen.get
        exchange.gate = pipeline
        exchange.user_agent = get("HTTP_USER_AGENT")
        exchange.client_request_id = get("HTTP_X_REQUEST_ID")
        exchange.auth = get("HTTP_AUTHORIZATION") or (b"api-key" if "HTTP_X_API_KEY" in seen else None)
        exchange.trace = trace_ids(get("HTTP_TRACEPARENT"))
        sealed = get("HTTP_AUDIT_CONTEXT")
        if sealed is not None:
            self._believe(pipeline, exchange, sealed)
        peer, port = client
        exchange.source_port = port or None
        exchange.source = self._addresses.source(
            peer, port, forwarded_for=get("HTTP_X_FORWARDED_FOR"), forwarded=get("HTTP_FORWARDED")
        )
        return exchange

    def _believe(self, pipeline: Pipeline, exchange: Exchange, sealed: bytes) -> None:
        believe(
            exchange,
            sealed.decode("latin-1"),
            pipeline.recorder.keyring,
            purpose=call_purpose(exchange.method),
            max_age=CALL_AGE,
            replays=self._replays,
        )


def _configured(given: Mapping[str, Any]) -> tuple[Settings, Keyring]:
    """Load and check settings, and read the keys: a key file that goes bad later must not fail requests.

    What is wrong is also logged: a server that takes an app without a lifespan for one that failed in it, as uvicorn
    does by default, would never show the exception.
    """
    try:
        settings = config.load(**given)
        config.check(settings)
        return settings, settings.keyring()
    except ConfigurationError as error:
        LOGGER.critical("audit: the application is not served, its audit trail is misconfigured: %s", error)
        raise


def around(environ: dict[str, Any], path: str | None = None) -> Exchange | None:
    """Return the exchange of an ASGI middleware around the bridge that made this environment; None if there is none.

    Bridges translate a scope, once, and pass on nothing of ours but the context. Another request in it, as a view makes
    one with a test client, is not the same, be it to the same path. ``path`` is as for `begin_cgi`.
    """
    outer = exchange_at_hand()
    scope = outer.scope if outer is not None else None
    if outer is None or scope is None or outer.is_closed or outer.method != environ.get("REQUEST_METHOD"):
        return None
    agent = environ.get("HTTP_USER_AGENT")
    if is_written(view_in(scope)):
        return None
    if outer.path != (path or _path_of(environ)) or outer.user_agent != (raw(agent) if agent is not None else None):
        return None
    environ[MARK], outer.scope = outer, None
    return outer


def tell(outer: Exchange, environ: Mapping[str, Any]) -> None:
    """Tell the exchange around a bridge which route and view were found behind it."""
    route, params = wsgi_route(environ)
    if route is not None and not outer.is_closed:
        outer.below, outer.path_params, outer.view = route, params, wsgi_view(environ)


def begin_cgi(observer: Observer, pipeline: Pipeline, environ: dict[str, Any], path: str | None = None) -> Exchange:
    """Begin the exchange of a CGI environment: WSGI's, or what Django keeps as ``request.META``.

    ``path`` is the one that was asked for, if it is known as text: the environment of WSGI shows bytes as latin-1.
    """
    seen = {name: raw(environ[name]) for name in _CGI_HEADERS if name in environ}
    if path is None:
        path = _path_of(environ)
    port = declared(environ.get("REMOTE_PORT"))
    peer = environ.get("REMOTE_ADDR") or None
    if _PROXY_FIX in environ:
        peer = environ[_PROXY_FIX].get("REMOTE_ADDR") or peer
    client = peer, port if 0 < port <= MAX_PORT else None
    exchange = observer.begin(pipeline, environ.get("REQUEST_METHOD", ""), path or "/", seen, client)
    exchange.request_bytes = declared(environ.get("CONTENT_LENGTH"))
    environ[MARK] = exchange
    return exchange


def _path_of(environ: Mapping[str, Any]) -> str:
    path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    return path if path.isascii() else raw(path).decode("utf-8", "replace")


def raw(text: str) -> bytes:
    """Return the bytes that WSGI shows as latin-1 text; what cannot have come from bytes becomes ``?``."""
    return text.encode("latin-1", "replace")


def declared(length: object) -> int:
    """Return a number that a header or the server declares, as a length; 0 for none, or for what is no number."""
    if type(length) is int:
        return max(0, length)
    if not isinstance(length, str):
        return 0
    return int(length) if length and length.isascii() and length.isdecimal() and len(length) <= _MAX_DIGITS else 0
