"""gRPC, both sides, sync and aio, over loopback: what is called is a request, what calls is a call, and they join."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest

from audit_integrations.grpc import (
    AsyncAuditServerInterceptor,
    AuditServerInterceptor,
    aio_interceptors,
    audit_channel,
)
from audit_integrations.grpc.outgoing import host_of
from audit_middleware import audited, current_audit
from audit_middleware.testing import FaultyFiles
from tests.calls.conftest import CONTEXT
from tests.capture.kit import journal_lines, make_pipeline, records

SERVICE = "shop.Billing"
WAIT = threading.Event()


class Handlers:
    """One service with a method of each shape; messages are bytes."""

    def __init__(self):
        self.seen = []

    def charge(self, request, context):
        self.seen.append(dict(context.invocation_metadata()))
        current_audit().details["lines"] = 1
        return request + b"!"

    def walk(self, request, context):
        for number in range(3):
            current_audit().details["steps"] = number + 1
            yield b"%d" % number

    def collect(self, requests, context):
        return b"".join(requests)

    def echo(self, requests, context):
        yield from requests

    def deny(self, request, context):
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "secret")

    def missing(self, request, context):
        context.set_code(grpc.StatusCode.NOT_FOUND)
        return b""

    def taken(self, request, context):
        context.abort(grpc.StatusCode.ALREADY_EXISTS, "secret")

    def breaks(self, request, context):
        raise LookupError("secret")

    @audited("billing.refund", on_failure="deny", resource="invoice:7")
    def refund(self, request, context):
        self.seen.append("ran")
        return b""

    def endless(self, request, context):
        yield b"1"
        WAIT.wait(5)
        yield b"2"

    def slow(self, request, context):
        WAIT.wait(5)
        return b""


class AsyncHandlers(Handlers):
    async def charge(self, request, context):
        return Handlers.charge(self, request, context)

    async def walk(self, request, context):
        for each in Handlers.walk(self, request, context):
            yield each

    async def collect(self, requests, context):
        return b"".join([each async for each in requests])

    async def echo(self, requests, context):
        async for each in requests:
            yield each

    async def deny(self, request, context):
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "secret")

    async def missing(self, request, context):
        return Handlers.missing(self, request, context)

    async def endless(self, request, context):
        yield b"1"
        await asyncio.sleep(5)
        yield b"2"

    async def slow(self, request, context):
        await asyncio.sleep(5)

    # taken, breaks and refund stay functions, which grpc.aio runs on threads


def handler_of(handlers):
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    methods = {
        name.capitalize(): unary(getattr(handlers, name))
        for name in ("charge", "deny", "missing", "breaks", "refund", "slow", "taken")
    }
    methods |= {name.capitalize(): stream(getattr(handlers, name)) for name in ("walk", "endless")}
    methods["Collect"] = grpc.stream_unary_rpc_method_handler(handlers.collect)
    methods["Echo"] = grpc.stream_stream_rpc_method_handler(handlers.echo)
    return grpc.method_handlers_generic_handler(SERVICE, methods)


class Running:
    def __init__(self, port, handlers, folder):
        self.home, self.strange = f"localhost:{port}", f"127.0.0.1:{port}"
        self.handlers = handlers
        self.folder = folder

    @property
    def requests(self):
        return records(self.folder)


def sync_server(folder, **settings):
    handlers = Handlers()
    interceptor = AuditServerInterceptor(pipeline=make_pipeline(folder, **settings), identify=identify)
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[interceptor])
    server.add_generic_rpc_handlers((handler_of(handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return Running(port, handlers, folder), lambda: server.stop(None).wait()


def async_server(folder, **settings):
    """grpc.aio on an event loop of its own thread."""
    handlers, ready, end = AsyncHandlers(), threading.Event(), []

    async def serve():
        interceptor = AsyncAuditServerInterceptor(pipeline=make_pipeline(folder, **settings), identify=identify)
        server = grpc.aio.server(ThreadPoolExecutor(4), interceptors=[interceptor])
        server.add_generic_rpc_handlers((handler_of(handlers),))
        port, stop = server.add_insecure_port("127.0.0.1:0"), asyncio.Event()
        await server.start()
        loop = asyncio.get_running_loop()
        end.extend([port, lambda: loop.call_soon_threadsafe(stop.set)])
        ready.set()
        await stop.wait()
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait(10)

    def stop():
        end[1]()
        thread.join()

    return Running(end[0], handlers, folder), stop


def identify(context):
    return dict(context.invocation_metadata()).get("x-user")


@pytest.fixture(params=[sync_server, async_server], ids=["sync", "aio"])
def serve(request, tmp_path):
    """Start a server with a journal of its own."""
    stops = []

    def start(**settings):
        folder = tmp_path / "callee"
        folder.mkdir()
        running, stop = request.param(folder, **settings)
        stops.append(stop)
        return running

    WAIT.clear()
    yield start
    WAIT.set()
    for stop in stops:
        stop()


def sync_call(target, kind, method, request, timeout=10, **given):
    with audit_channel(grpc.insecure_channel(target), target) as channel:
        answer = getattr(channel, kind)(f"/{SERVICE}/{method}")(request, timeout=timeout, **given)
        return answer if isinstance(answer, bytes) else list(answer)


def async_call(target, kind, method, request, timeout=10, **given):
    async def call():
        async with grpc.aio.insecure_channel(target, interceptors=aio_interceptors(target)) as channel:
            answer = getattr(channel, kind)(f"/{SERVICE}/{method}")(request, timeout=timeout, **given)
            return [each async for each in answer] if kind.endswith("stream") else await answer

    return asyncio.run(call())


@pytest.fixture(params=[sync_call, async_call], ids=["sync-client", "aio-client"])
def call(request):
    return request.param


def eventually(condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.02)


def test_a_call_and_the_request_that_it_is_are_joined(serve, call, exchange, tmp_path):
    server = serve()
    assert call(server.home, "unary_unary", "Charge", b"card 4111") == b"card 4111!"
    (made,), (served,) = records(tmp_path, "call"), server.requests
    assert made["call"] | {"duration_us": 0} == {
        "kind": "grpc", "method": "POST", "host": "localhost", "route": "/shop.Billing/Charge", "status": 0,
        "duration_us": 0, "ended": "complete", "carried": True,
    }  # fmt: skip
    assert served["principal"] == {"id": "orders", "type": "service", "auth": "context", "on_behalf_of": "alice"}
    assert served["cause"]["span_id"] == made["trace"]["span_id"] == served["trace"]["parent_span_id"]
    assert served["cause"]["request_id"] == exchange.request_id == made["trace"]["request_id"]
    assert served["http"] | {"duration_us": 0} == {
        "method": "POST", "route": "/shop.Billing/Charge", "path": "/shop.Billing/Charge", "status": 200,
        "duration_us": 0, "request_bytes": 9, "response_bytes": 10, "ended": "complete",
    }  # fmt: skip
    assert (served["details"], served["source"]["ip"], served["source"]["verdict"]) == (
        {"lines": 1},
        "127.0.0.1",
        "peer",
    )
    assert "4111" not in json.dumps([made, served])
    assert [line["type"] for line in journal_lines(server.folder)][1:] == ["attempt", "request"]
    assert "defects" not in served


def test_every_shape_of_call_comes_back_as_it_is_and_is_on_record_once(serve, call, exchange, tmp_path):
    server = serve()
    assert call(server.home, "unary_stream", "Walk", b"") == [b"0", b"1", b"2"]
    assert call(server.home, "stream_unary", "Collect", iter([b"a", b"b"])) == b"ab"
    assert call(server.home, "stream_stream", "Echo", iter([b"a", b"b"])) == [b"a", b"b"]
    eventually(lambda: len(records(tmp_path, "call")) == 3)  # gRPC's own thread tells of the end of a stream
    assert [each["call"]["status"] for each in records(tmp_path, "call")] == [0, 0, 0]
    walk, collect, echo = server.requests
    assert (walk["details"], walk["http"]["response_bytes"]) == ({"steps": 3}, 3)
    assert (collect["http"]["request_bytes"], collect["http"]["response_bytes"]) == (2, 2)
    assert (echo["http"]["request_bytes"], echo["http"]["response_bytes"]) == (2, 2)


@pytest.mark.parametrize(
    ("method", "code", "status", "outcome", "ended", "reason"),
    [
        ("Deny", "PERMISSION_DENIED", 403, "denied", "complete", "PERMISSION_DENIED"),
        ("Missing", "NOT_FOUND", 404, "failure", "complete", "NOT_FOUND"),
        ("Taken", "ALREADY_EXISTS", 409, "failure", "complete", "ALREADY_EXISTS"),
        ("Breaks", "UNKNOWN", 500, "failure", "exception", "LookupError"),
        ("Nowhere", "UNIMPLEMENTED", 404, "failure", "complete", "UNIMPLEMENTED"),
    ],
)
def test_codes_are_outcomes_on_both_sides(
    serve, call, exchange, tmp_path, method, code, status, outcome, ended, reason
):
    server = serve()
    with pytest.raises(grpc.RpcError) as raised:
        call(server.home, "unary_unary", method, b"")
    assert raised.value.code().name == code
    (made,), (served,) = records(tmp_path, "call"), server.requests
    assert (served["http"]["status"], served["outcome"], served["http"]["ended"]) == (status, outcome, ended)
    assert (served["reason"], served["http"]["route"]) == (
        reason,
        "none" if method == "Nowhere" else f"/{SERVICE}/{method}",
    )
    assert (made["call"]["status"], made["outcome"], made["reason"]) == (raised.value.code().value[0], outcome, code)
    assert "secret" not in json.dumps([made, served])
    assert served.get("defects") is None


def test_strangers_are_told_nothing_and_a_context_of_the_applications_goes_nowhere(serve, call, exchange):
    server = serve()
    given = (("audit-context", "v1.stolen"), ("x-mine", "1"))
    call(server.strange, "unary_unary", "Charge", b"", metadata=given)
    call(server.home, "unary_unary", "Charge", b"", metadata=given)
    strange, home = server.handlers.seen
    assert (CONTEXT in strange, "traceparent" in strange, strange["x-mine"]) == (False, False, "1")
    assert home[CONTEXT].startswith("v1.test.")
    assert server.requests[0]["principal"]["type"] == "anonymous"


def test_who_the_server_signs_in_acts_on_behalf_of_the_caller(serve, call, exchange):
    server = serve()
    call(
        server.home,
        "unary_unary",
        "Charge",
        b"",
        metadata=(("x-user", "bob"), ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01")),
    )
    (served,) = server.requests
    assert (served["principal"]["id"], served["principal"]["on_behalf_of"]) == ("bob", "alice")
    assert (served["trace"]["trace_id"], served["trace"]["parent_span_id"]) == ("a" * 32, "b" * 16)


def test_nobody_there_and_a_deadline_are_failures_without_an_answer(serve, call, exchange, tmp_path):
    server = serve()
    with pytest.raises(grpc.RpcError):
        call("localhost:1", "unary_unary", "Charge", b"")
    with pytest.raises(grpc.RpcError):
        call(server.home, "unary_unary", "Slow", b"", timeout=0.3)
    said = [(each["reason"], each["outcome"], each["call"]["ended"]) for each in records(tmp_path, "call")]
    assert said == [("UNAVAILABLE", "failure", "exception"), ("DEADLINE_EXCEEDED", "failure", "exception")]


def test_a_cancelled_call_is_on_record(serve, exchange, tmp_path):
    server = serve()

    async def cancel():
        async with grpc.aio.insecure_channel(server.home, interceptors=aio_interceptors(server.home)) as channel:
            task = asyncio.ensure_future(ask(channel))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def ask(channel):
        return await channel.unary_unary(f"/{SERVICE}/Slow")(b"")

    asyncio.run(cancel())
    (made,) = records(tmp_path, "call")
    assert (made["call"]["ended"], made["outcome"]) == ("exception", "failure")


def test_a_client_that_goes_away_in_a_stream_is_on_record(serve, exchange, tmp_path):
    server = serve()
    with audit_channel(grpc.insecure_channel(server.home), server.home) as channel:
        answer = channel.unary_stream(f"/{SERVICE}/Endless")(b"")
        assert next(answer) == b"1"
        answer.cancel()
    WAIT.set()
    eventually(lambda: server.requests and records(tmp_path, "call"))
    (served,), (made,) = server.requests, records(tmp_path, "call")
    assert (served["http"]["ended"], served["http"]["status"]) == ("disconnected", 499)
    assert (made["reason"], made["call"]["ended"]) == ("CANCELLED", "exception")


def test_a_full_disk_refuses_before_the_method_runs(serve, call, exchange):
    files = FaultyFiles()
    files.room = 0
    server = serve(files=files)
    with pytest.raises(grpc.RpcError) as raised:
        call(server.home, "unary_unary", "Charge", b"")
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.handlers.seen == []


def test_a_method_may_hold_to_a_policy_of_its_own(serve, call, exchange):
    files = FaultyFiles()
    files.room = 0
    server = serve(files=files, on_failure="allow")
    call(server.home, "unary_unary", "Charge", b"")
    with pytest.raises(grpc.RpcError) as raised:
        call(server.home, "unary_unary", "Refund", b"")
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "ran" not in server.handlers.seen


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("billing.internal:443", "billing.internal"),
        ("billing.internal", "billing.internal"),
        ("dns:billing.internal:443", "billing.internal"),
        ("dns:///billing.internal:443", "billing.internal"),
        ("dns://10.0.0.53/billing.internal:443", "billing.internal"),
        ("ipv4:10.0.0.9:443,10.0.0.10:443", "10.0.0.9"),
        ("ipv6:%5B2001:db8::1%5D:443", "2001:db8::1"),
        ("[::1]:443", "::1"),
        ("unix:///run/billing.sock", "unix"),
    ],
)
def test_the_host_of_a_target_is_what_it_names(target, host):
    assert host_of(target) == host
