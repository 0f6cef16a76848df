"""The sync server: `AuditServerInterceptor`, the first of its interceptors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from audit_integrations.grpc.serving import Noting, Served
from audit_middleware import Pipeline
from audit_middleware.capture import Observer, identified, refusal

Behaviour = Callable[[Any, Any], Any]


class AuditServerInterceptor(grpc.ServerInterceptor):
    """Record every call that a server serves: ``grpc.server(pool, interceptors=[AuditServerInterceptor()])``.

    ``identify`` is called with gRPC's context when the handler has run, and names the principal when nobody else did;
    settings are those of the middleware. Methods that nobody serves are on record too. Every method counts as unsafe.
    """

    def __init__(
        self,
        *,
        identify: Callable[[Any], object] | None = None,
        pipeline: Pipeline | None = None,
        **settings: Any,  # noqa: ANN401 - settings of any type
    ) -> None:
        self._observer = Observer(pipeline, identify, settings)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """Put the record around the handler that gRPC found."""
        return audited_handler(self._observer, continuation(handler_call_details), handler_call_details.method)


def audited_handler(observer: Observer, handler: Any, method: str) -> Any:  # noqa: ANN401 - gRPC's own
    """Return a handler that records what this one, or nobody, serves."""
    if handler is None:
        return grpc.stream_stream_rpc_method_handler(_unserved(observer, method))
    make, behaviour = shape(handler)
    around = _streaming if handler.response_streaming else _single
    return make(around(observer, behaviour, method), handler.request_deserializer, handler.response_serializer)


def shape(handler: Any) -> tuple[Callable[..., Any], Behaviour]:  # noqa: ANN401 - gRPC's own
    """Return how a handler of this shape is made, and the function that it calls."""
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler, handler.stream_stream
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler, handler.stream_unary
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler, handler.unary_stream
    return grpc.unary_unary_rpc_method_handler, handler.unary_unary


def taken(served: Served, request: Any) -> Any:  # noqa: ANN401 - a message, or a stream of them
    """Count what comes; a stream is counted while the handler reads it."""
    if isinstance(request, Iterator):
        return _counted(served, request)
    served.took(request)
    return request


def _counted(served: Served, requests: Iterable[Any]) -> Iterator[Any]:
    for request in requests:
        served.took(request)
        yield request


def _single(observer: Observer, behaviour: Behaviour, method: str) -> Behaviour:
    def serve(request: Any, context: Any) -> Any:  # noqa: ANN401 - gRPC's own
        served = _begun(observer, method, context)
        _admit(served, behaviour)
        try:
            with served.current():
                response = behaviour(taken(served, request), served.context)
        except BaseException:
            _concluded(served)
            _refuse(served)
            raise
        served.gave(response)
        if not _concluded(served):
            context.abort(grpc.StatusCode.UNAVAILABLE, refusal.NOT_ON_RECORD)
        return response

    return serve


def _streaming(observer: Observer, behaviour: Behaviour, method: str) -> Behaviour:
    def serve(request: Any, context: Any) -> Iterator[Any]:  # noqa: ANN401 - gRPC's own
        served = _begun(observer, method, context)
        _admit(served, behaviour)
        try:
            with served.current():
                responses = iter(behaviour(taken(served, request), served.context))
            while True:
                try:
                    with served.current():
                        response = next(responses)
                except StopIteration:
                    break
                served.gave(response)
                yield response
        except GeneratorExit:
            served.abandoned()
            _concluded(served)
            raise
        except BaseException:
            _concluded(served)
            _refuse(served)
            raise
        if not _concluded(served):
            context.abort(grpc.StatusCode.UNAVAILABLE, refusal.NOT_ON_RECORD)

    return serve


def _unserved(observer: Observer, method: str) -> Behaviour:
    def serve(request: Any, context: Any) -> Iterator[Any]:  # noqa: ANN401, ARG001 - gRPC's own
        served = Served(observer, method, context)
        served.unserved()
        _concluded(served)
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")  # what gRPC itself says
        yield  # abort raises

    return serve


def _begun(observer: Observer, method: str, context: Any) -> Served:  # noqa: ANN401 - gRPC's own
    served = Served(observer, method, context)
    if not hasattr(context, "code"):
        served.context = Noting(context, lambda: _concluded(served))
    return served


def _admit(served: Served, behaviour: Behaviour) -> None:
    if not served.admits(behaviour):
        served.raw.abort(grpc.StatusCode.UNAVAILABLE, refusal.NOT_CARRIED_OUT)


def _refuse(served: Served) -> None:
    if served.exchange.is_refused:
        served.raw.abort(grpc.StatusCode.UNAVAILABLE, refusal.NOT_CARRIED_OUT)


def _concluded(served: Served) -> bool:
    if served.exchange.is_closed:
        return True
    served.end()
    identify, exchange = served.observer.identify, served.exchange
    if identify is not None and exchange.principal is None:
        exchange.user = identified(identify, served.context, served.observer.patience)
    return served.pipeline.conclude(exchange)
