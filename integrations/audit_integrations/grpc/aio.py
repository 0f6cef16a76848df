"""``grpc.aio``: interceptors for its server and its client."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from audit_integrations.grpc.outgoing import finish, host_of, outgoing
from audit_integrations.grpc.server import Behaviour, audited_handler, shape
from audit_integrations.grpc.serving import AsyncNoting, Served
from audit_middleware import Pipeline
from audit_middleware.capture import Observer, identified_async, refusal


class AsyncAuditServerInterceptor(grpc.aio.ServerInterceptor):
    """Record every call that a ``grpc.aio`` server serves; the same as `AuditServerInterceptor`.

    What a handler sends with ``context.write`` is not counted in bytes.
    """

    def __init__(
        self,
        *,
        identify: Callable[[Any], object] | None = None,
        pipeline: Pipeline | None = None,
        **settings: Any,  # noqa: ANN401 - settings of any type
    ) -> None:
        self._observer = Observer(pipeline, identify, settings)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """Put the record around the handler that gRPC found."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None:
            return grpc.stream_stream_rpc_method_handler(_unserved(self._observer, method))
        make, behaviour = shape(handler)
        if inspect.isasyncgenfunction(behaviour):
            around = _streaming
        elif inspect.iscoroutinefunction(behaviour):
            around = _single
        else:  # one that gRPC runs on a thread
            return audited_handler(self._observer, handler, method)
        serve = around(self._observer, behaviour, method)
        return make(serve, handler.request_deserializer, handler.response_serializer)


def _single(observer: Observer, behaviour: Behaviour, method: str) -> Behaviour:
    """Wrap one that returns its answer, or writes it to the context."""

    async def serve(request: Any, context: Any) -> Any:  # noqa: ANN401 - gRPC's own
        served = Served(observer, method, context)
        served.context = AsyncNoting(context, lambda: _concluded(served))
        await _admit(served, behaviour)
        try:
            with served.current():
                response = await behaviour(_taken(served, request), served.context)
        except BaseException as error:
            await _failed(served, error)
            raise
        served.gave(response)
        await _conclude(served)
        return response

    return serve


def _streaming(observer: Observer, behaviour: Behaviour, method: str) -> Behaviour:
    async def serve(request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - gRPC's own
        served = Served(observer, method, context)
        served.context = AsyncNoting(context, lambda: _concluded(served))
        await _admit(served, behaviour)
        try:
            responses = behaviour(_taken(served, request), served.context)
            while True:
                try:
                    with served.current():
                        response = await anext(responses)
                except StopAsyncIteration:
                    break
                served.gave(response)
                yield response
        except BaseException as error:
            await _failed(served, error)
            raise
        await _conclude(served)

    return serve


def _unserved(observer: Observer, method: str) -> Behaviour:
    async def serve(request: Any, context: Any) -> None:  # noqa: ANN401, ARG001 - gRPC's own
        served = Served(observer, method, context)
        served.unserved()
        await _concluded(served)
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")  # what gRPC itself says

    return serve


def _taken(served: Served, request: Any) -> Any:  # noqa: ANN401 - a message, or a stream of them
    if hasattr(request, "__aiter__"):
        return _counted(served, request)
    served.took(request)
    return request


async def _counted(served: Served, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        served.took(request)
        yield request


async def _admit(served: Served, behaviour: Behaviour) -> None:
    if not served.admits(behaviour):
        await served.raw.abort(grpc.StatusCode.UNAVAILABLE, refusal.NOT_CARRIED_OUT)


async def _failed(served: Served, error: BaseException) -> None:
    """Conclude what raised; one that is cancelled, because the client is gone, must not wait for anything."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        if not served.exchange.is_closed:
            served.abandoned()
            served.pipeline.complete(served.exchange)
        return
    await _concluded(served)
    if served.exchange.is_refused:
        await served.raw.abort(grpc.StatusCode.UNAVAILABLE, refusal.NOT_CARRIED_OUT)


async def _conclude(served: Served) -> None:
    if not await _concluded(served):
        await served.raw.abort(grpc.StatusCode.UNAVAILABLE, refusal.NOT_ON_RECORD)


async def _concluded(served: Served) -> bool:
    if served.exchange.is_closed:
        return True
    served.end()
    identify, exchange = served.observer.identify, served.exchange
    if identify is not None and exchange.principal is None:
        exchange.user = await identified_async(identify, served.context, served.observer.patience)
    seq = served.pipeline.complete(exchange)
    return seq is not None and await served.pipeline.released(seq, exchange)


class _Made:
    """What the four kinds of interceptors of a client have in common."""

    def __init__(self, host: str) -> None:
        self._host = host

    async def made(self, continuation: Any, details: Any, request: Any) -> Any:  # noqa: ANN401 - gRPC's own
        call, metadata = outgoing(self._host, details.method, details.metadata)
        try:
            answer = await continuation(details._replace(metadata=grpc.aio.Metadata(*metadata)), request)
        except BaseException as error:
            call.finish(error=error)
            raise
        answer.add_done_callback(lambda done: finish(call, _code(done)))
        return answer


class _UnaryUnary(_Made, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:  # noqa: ANN401 - gRPC's own
        return await self.made(continuation, client_call_details, request)


class _UnaryStream(_Made, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:  # noqa: ANN401 - gRPC's own
        return await self.made(continuation, client_call_details, request)


class _StreamUnary(_Made, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:  # noqa: ANN401 - gRPC's own
        return await self.made(continuation, client_call_details, request_iterator)


class _StreamStream(_Made, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:  # noqa: ANN401 - gRPC's own
        return await self.made(continuation, client_call_details, request_iterator)


def aio_interceptors(target: str) -> list[grpc.aio.ClientInterceptor]:
    """Return what records a channel's calls: ``insecure_channel(target, interceptors=aio_interceptors(target))``.

    An interceptor is not told whom its channel leads to. gRPC takes one object for one kind of call, so these are four.
    """
    host = host_of(target)
    return [_UnaryUnary(host), _UnaryStream(host), _StreamUnary(host), _StreamStream(host)]


def _code(done: Any) -> grpc.StatusCode | None:  # noqa: ANN401 - a call of any kind
    """Return the code of a call that is over: the coroutine that tells it ends at its first step."""
    telling = done.code()
    try:
        telling.send(None)
    except StopIteration as told:
        code: grpc.StatusCode | None = told.value
        return code
    finally:
        telling.close()
    return None
