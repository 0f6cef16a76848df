"""What both servers share: a call of a method, as an exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import unquote

import grpc

from audit_middleware import Pipeline
from audit_middleware.capture import HEADERS, Exchange, Observer, enter, leave

_STATUS: Final[Mapping[int, int]] = {
    0: 200, 1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501,
    13: 500, 14: 503, 15: 500, 16: 401,
}  # fmt: skip
"""HTTP's status for each of gRPC's codes: google/rpc/code.proto."""
_OUTSIDE: Final = 404
"""Of a method that nobody serves, which is UNIMPLEMENTED as well."""
NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}
UNKNOWN: Final = grpc.StatusCode.UNKNOWN.value[0]
CANCELLED: Final = grpc.StatusCode.CANCELLED.value[0]


class Served:
    """One call while it is served; ``context`` is what gRPC gives to the handler."""

    def __init__(self, observer: Observer, method: str, context: Any) -> None:  # noqa: ANN401 - sync or aio
        self.observer = observer
        self.context = context
        self.raw = context
        """The context without anything of ours around it."""
        self.pipeline: Pipeline = observer.pipeline_of(lambda: None)
        seen = _seen(context.invocation_metadata())
        self.exchange: Exchange = observer.begin(self.pipeline, "POST", method, seen, _peer(context.peer()))
        self.exchange.route = method

    def admits(self, handler: Callable[..., Any]) -> bool:
        """Append the attempt; say whether the handler may run."""
        return self.observer.admits(self.pipeline, self.exchange, lambda: handler)

    def took(self, message: object) -> None:
        """Count a message that came."""
        self.exchange.request_bytes += _size(message)

    def gave(self, message: object) -> None:
        """Count a message that goes."""
        self.exchange.response_bytes += _size(message)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the exchange current for a step of the handler; note what that raises."""
        token = enter(self.exchange)
        try:
            yield
        except (StopIteration, StopAsyncIteration):
            raise
        except BaseException as error:
            self._note(error)
            raise
        finally:
            leave(token)

    def abandoned(self) -> None:
        """Note that the client went away, or gave up waiting."""
        self.exchange.ended = "disconnected"
        self._end(CANCELLED)

    def end(self) -> None:
        """Note the code that the handler ended with, if nothing was noted before."""
        if self.exchange.status is None:
            self._end(code_of(self.context))

    def unserved(self) -> None:
        """Note that nobody serves this method."""
        self.exchange.route, self.exchange.status = None, _OUTSIDE
        self.exchange.reason = grpc.StatusCode.UNIMPLEMENTED.name

    def _note(self, error: BaseException) -> None:
        if self.exchange.is_refused:
            self.exchange.note_refusal()
            return
        code = code_of(self.context)
        if code:  # abort() raises when it has set its code: that is an answer
            self._end(code)
        else:
            self.exchange.failed(error)
            self._end(UNKNOWN)

    def _end(self, code: int) -> None:
        exchange = self.exchange
        exchange.status = _STATUS.get(code, 500)
        if code and exchange.reason is None:
            exchange.reason = NAMES.get(code, str(code))


class Noting:
    """The context of ``grpc.aio`` as a handler gets it: ``abort`` sends the answer there, and the record comes before.

    That of a handler on a thread does not say either what code was set.
    """

    def __init__(self, context: Any, conclude: Callable[[], Any]) -> None:  # noqa: ANN401 - gRPC's own
        self._context = context
        self._conclude = conclude
        self._code: grpc.StatusCode | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the context has
        return getattr(self._context, name)

    def code(self) -> grpc.StatusCode | None:
        """Return the code that was set."""
        return self._code

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the code."""
        self._code = code
        self._context.set_code(code)

    def abort(self, code: grpc.StatusCode, *rest: Any, **named: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """End the call, when it is on record; raises."""
        self._code = code
        self._conclude()
        return self._context.abort(code, *rest, **named)


class AsyncNoting(Noting):
    """The same for handlers in the event loop."""

    async def abort(self, code: grpc.StatusCode, *rest: Any, **named: Any) -> Any:  # noqa: ANN401 - gRPC's own
        """End the call, when it is on record; raises."""
        self._code = code
        await self._conclude()
        return await self._context.abort(code, *rest, **named)


def code_of(context: Any) -> int:  # noqa: ANN401 - sync or aio
    """Return the code that a handler has set; 0 while there is none."""
    code = context.code()
    if code is None:
        return 0
    return code if isinstance(code, int) else int(code.value[0])


def _seen(metadata: Any) -> dict[str, bytes]:  # noqa: ANN401 - pairs, of either kind of server
    seen: dict[str, bytes] = {}
    for name, value in metadata or ():
        known = HEADERS.get(name.encode())
        if known is not None:
            seen[known] = value if isinstance(value, bytes) else value.encode("latin-1", "replace")
    return seen


def _peer(peer: str) -> tuple[str | None, int | None]:
    """Read ``ipv4:127.0.0.1:50001`` and ``ipv6:%5B::1%5D:50001``; a socket of this machine has no address."""
    scheme, _, rest = unquote(peer).partition(":")
    if scheme not in {"ipv4", "ipv6"}:
        return None, None
    host, _, port = rest.rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else None


def _size(message: object) -> int:
    if isinstance(message, bytes):
        return len(message)
    size = getattr(message, "ByteSize", None)
    return int(size()) if callable(size) else 0
