"""The WSGI adapter (PEP 3333): translates requests into exchanges, and nothing else.

The record of a response is in the journal before its last byte is handed to the server: when a declared
``Content-Length`` is reached, when the iterable is exhausted, or at once when the whole body is at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from audit_middleware.capture.answer import Answer, Environ, StartResponse
from audit_middleware.capture.exchange import enter, leave
from audit_middleware.capture.observer import MARK, Observer, begin_cgi
from audit_middleware.pipeline import Pipeline

WSGIApp = Callable[[Environ, Any], Iterable[bytes]]


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
        exchange = begin_cgi(observer, pipeline, environ)
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
