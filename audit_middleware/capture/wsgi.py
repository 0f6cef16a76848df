"""The WSGI adapter (PEP 3333): translates requests into exchanges, and nothing else.

The record of a response is in the journal before its last byte is handed to the server: when a declared
``Content-Length`` is reached, when the iterable is exhausted, or at once when the whole body is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from audit_middleware.capture.answer import Answer, Environ, StartResponse
from audit_middleware.capture.exchange import Exchange, enter, leave
from audit_middleware.capture.observer import HEADERS, Observer
from audit_middleware.pipeline import Pipeline

WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]

MARK: Final = "audit_middleware.exchange"
_HEADERS: Final = tuple(HEADERS.values())
_MAX_DIGITS: Final = 15  # of a number that a record can hold exactly


class AuditWSGIMiddleware:
    """Record every request of a WSGI app.

    ``identify`` is called with the environ after the app ran and names the principal when the app did not; ``title``
    names the service when no setting does. Everything else are settings (`audit_middleware.config.Settings`), for
    what the environment should not decide. Raises `ConfigurationError` for settings that are wrong or contradict each
    other.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        identify: Callable[[Environ], object] | None = None,
        title: str | None = None,
        pipeline: Pipeline | None = None,
        **settings: Any,  # noqa: ANN401 - settings of any type
    ) -> None:
        self.app = app
        self._title = title
        self._observer = Observer(pipeline, identify, settings)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Observe one request."""
        if MARK in environ:  # an outer AuditWSGIMiddleware observes this one
            return self.app(environ, start_response)
        observer = self._observer
        pipeline = observer.pipeline or observer.pipeline_of(lambda: self._title)
        exchange = begin(observer, pipeline, environ)
        answer = Answer(observer, pipeline, exchange, environ, start_response)
        if not pipeline.admit(exchange):
            return answer.refuse()
        token = enter(exchange)
        try:
            return answer.of(self.app(environ, answer.start_response))
        except BaseException as error:
            answer.fail(error)
            raise
        finally:
            leave(token)


def begin(observer: Observer, pipeline: Pipeline, environ: Environ) -> Exchange:
    """Begin the exchange of a CGI environment: WSGI's, or what Django keeps as ``request.META``."""
    seen = {name: raw(environ[name]) for name in _HEADERS if name in environ}
    path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    if not path.isascii():  # PEP 3333: bytes, shown as latin-1
        path = raw(path).decode("utf-8", "replace")
    port = environ.get("REMOTE_PORT")
    client = environ.get("REMOTE_ADDR") or None, int(port) if port is not None and declared(str(port)) else None
    exchange = observer.begin(pipeline, environ.get("REQUEST_METHOD", ""), path or "/", seen, client)
    exchange.request_bytes = declared(environ.get("CONTENT_LENGTH"))
    environ[MARK] = exchange
    return exchange


def raw(text: str) -> bytes:
    """Return the bytes that WSGI shows as latin-1 text; what cannot have come from bytes becomes ``?``."""
    return text.encode("latin-1", "replace")


def declared(length: str | None) -> int:
    """Return a declared body length; 0 for none, or one that is no number."""
    return int(length) if length and length.isascii() and length.isdecimal() and len(length) <= _MAX_DIGITS else 0
