"""The sync client: one interceptor for a channel, which records a call when its status is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from audit_integrations.grpc.outgoing import Metadata, finish, host_of, outgoing


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Metadata
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class AuditClientInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Records the calls of a channel to ``target``, which an interceptor is not told: the same text, or a host.

    A stream is on record when it ends, because gRPC's status is the last thing to come; a thread of gRPC's tells that.
    """

    def __init__(self, target: str) -> None:
        self._host = host_of(target)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """Make a call with one request and one answer."""
        return self._made(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """Make a call whose answer is a stream."""
        return self._made(continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """Make a call whose request is a stream."""
        return self._made(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """Make a call with two streams."""
        return self._made(continuation, client_call_details, request_iterator)

    def _made(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:  # noqa: ANN401 - gRPC's own
        call, metadata = outgoing(self._host, details.method, details.metadata)
        sent = _Details(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            getattr(details, "wait_for_ready", None),
            getattr(details, "compression", None),
        )
        try:
            answer = continuation(sent, request)
        except BaseException as error:
            call.finish(error=error)
            raise
        answer.add_done_callback(lambda done: finish(call, done.code()))
        return answer


def audit_channel(channel: grpc.Channel, target: str) -> grpc.Channel:
    """Return a channel that records its calls: ``audit_channel(grpc.insecure_channel(target), target)``."""
    return grpc.intercept_channel(channel, AuditClientInterceptor(target))
