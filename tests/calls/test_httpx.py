"""httpx against a real server: one record for each request that leaves, and the context where it may go."""

import asyncio
import json
import threading

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider

from audit_integrations.httpx import AsyncAuditTransport, AuditTransport, audit_httpx
from audit_middleware import AuditMiddleware
from audit_middleware.capture import call_route
from audit_middleware.testing import FaultyFiles
from tests.calls.conftest import CONTEXT, TRACEPARENT
from tests.capture.kit import journal_lines, make_pipeline, records

ORIGINALS = httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request


@pytest.fixture
def everybody():
    undo = audit_httpx()
    yield undo
    undo()
    assert (httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request) == ORIGINALS


def one_by_one(transport=None, **client):
    """Both clients behind one face."""

    def sync(method, url, **given):
        with httpx.Client(transport=AuditTransport(transport or httpx.HTTPTransport()), **client) as found:
            return found.request(method, url, **given)

    def run(method, url, **given):
        async def ask():
            inner = AsyncAuditTransport(httpx.AsyncHTTPTransport())
            async with httpx.AsyncClient(transport=inner, **client) as found:
                return await found.request(method, url, **given)

        return asyncio.run(ask())

    return [sync, run]


@pytest.mark.parametrize("which", [0, 1], ids=["sync", "async"])
def test_a_call_is_on_record_without_path_query_and_body(server, exchange, tmp_path, which):
    ask = one_by_one()[which]
    extensions = {"audit_route": "/invoices/{id}"}
    response = ask("POST", f"{server.home}/invoices/7?token=secret", json={"card": "4111"}, extensions=extensions)
    assert response.json()["size"] == len(server.seen[0][2]) > 0
    assert CONTEXT not in response.request.headers
    (record,) = records(tmp_path, "call")
    assert record["call"] | {"duration_us": 0} == {
        "kind": "http", "method": "POST", "host": "localhost", "route": "/invoices/{id}", "status": 200,
        "duration_us": 0, "ended": "complete", "carried": True,
    }  # fmt: skip
    assert (record["principal"]["id"], record["outcome"]) == ("alice", "success")
    text = json.dumps(record)
    assert not any(secret in text for secret in ("secret", "4111", "/invoices/7"))


def test_the_service_that_is_called_records_the_caller_and_for_whom(exchange, pipeline, tmp_path):
    app = FastAPI()
    callee = tmp_path / "callee"
    callee.mkdir()
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(callee))
    app.post("/invoices")(lambda: None)
    inner = httpx.ASGITransport(app)

    async def ask():
        async with httpx.AsyncClient(transport=AsyncAuditTransport(inner)) as client:
            await client.post("http://localhost/invoices")

    asyncio.run(ask())
    (made,), (served,) = records(tmp_path, "call"), records(callee)
    assert served["principal"] == {"id": "orders", "type": "service", "auth": "context", "on_behalf_of": "alice"}
    assert served["cause"]["span_id"] == made["trace"]["span_id"] == served["trace"]["parent_span_id"]


@pytest.mark.parametrize("which", [0, 1], ids=["sync", "async"])
def test_each_hop_is_a_call_and_the_context_follows_no_redirect_to_a_stranger(server, calls, which):
    ask = one_by_one(follow_redirects=True)[which]
    response = ask("GET", f"{server.home}/away")
    assert calls() == [("GET", "localhost", 302, "complete"), ("GET", "127.0.0.1", 200, "complete")]
    (_, first, _), (_, second, _) = server.seen
    assert CONTEXT in first
    assert TRACEPARENT in first
    assert CONTEXT not in second
    assert TRACEPARENT not in second
    assert [CONTEXT in each.request.headers for each in (response, *response.history)] == [False, False]


def test_a_redirect_between_our_own_hosts_has_a_context_of_its_own_and_no_foreign_route(server, exchange, tmp_path):
    one_by_one(follow_redirects=True)[0](
        "GET", f"{server.strange}/home/1", extensions={"audit_route": "/home/{number}"}
    )
    assert CONTEXT not in server.seen[0][1]
    assert CONTEXT in server.seen[1][1]
    assert [each["call"].get("route") for each in records(tmp_path, "call")] == ["/home/{number}", None]


def test_an_authentication_flow_is_two_calls_with_two_contexts(server, calls):
    one_by_one()[0]("GET", f"{server.home}/protected", auth=httpx.DigestAuth("alice", "secret"))
    assert [status for _, _, status, _ in calls()] == [401, 200]
    assert server.seen[0][1][CONTEXT] != server.seen[1][1][CONTEXT]


def test_a_context_that_the_application_passes_on_itself_goes_nowhere(server, exchange):
    for url in (server.home, server.strange):
        one_by_one()[0]("GET", url, headers={"Audit-Context": "v1.stolen"})
    assert server.seen[0][1][CONTEXT].startswith("v1.test.")
    assert CONTEXT not in server.seen[1][1]


@pytest.mark.parametrize("which", [0, 1], ids=["sync", "async"])
def test_what_fails_is_a_failure_with_its_class_and_is_raised_as_it_is(server, exchange, tmp_path, which):
    ask = one_by_one(timeout=0.1)[which]
    with pytest.raises(httpx.ReadTimeout):
        ask("GET", f"{server.home}/slow")
    with pytest.raises(httpx.ConnectError):
        ask("GET", "http://localhost:1/")
    said = [(each["outcome"], each["reason"], each["call"]["ended"]) for each in records(tmp_path, "call")]
    assert said == [("failure", "ReadTimeout", "exception"), ("failure", "ConnectError", "exception")]


def test_refusals_and_errors_of_the_other_side_are_outcomes(server, exchange, tmp_path):
    for status in (403, 404, 500):
        one_by_one()[0]("GET", f"{server.home}/status/{status}")
    assert [each["outcome"] for each in records(tmp_path, "call")] == ["denied", "failure", "failure"]


def test_a_cancelled_call_has_ended_in_an_exception(server, exchange, tmp_path):
    async def ask():
        async with httpx.AsyncClient(transport=AsyncAuditTransport(httpx.AsyncHTTPTransport())) as client:
            task = asyncio.create_task(client.get(f"{server.home}/slow"))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(ask())
    (record,) = records(tmp_path, "call")
    assert (record["reason"], record["call"]["ended"], record["principal"]["id"]) == (
        "CancelledError", "exception", "alice",
    )  # fmt: skip


def test_a_call_whose_event_loop_ends_before_it_is_on_record_all_the_same(server, exchange, tmp_path):
    class Endless(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            await asyncio.sleep(60)

    request = httpx.Request("GET", server.home)
    coroutine = AsyncAuditTransport(Endless()).handle_async_request(request)
    loop = asyncio.new_event_loop()

    async def start():
        future = coroutine.send(None)
        future.cancel()

    loop.run_until_complete(start())
    loop.close()
    thread = threading.Thread(target=coroutine.close)  # another context than the one that it began in
    thread.start()
    thread.join()
    (record,) = records(tmp_path, "call")
    assert (record["reason"], record["call"]["ended"]) == ("GeneratorExit", "exception")


def test_a_stream_is_on_record_when_its_headers_are_there_and_stays_a_stream(server, calls):
    with (
        httpx.Client(transport=AuditTransport(httpx.HTTPTransport())) as client,
        client.stream("GET", f"{server.home}/broken") as response,
    ):
        assert calls() == [("GET", "localhost", 200, "complete")]
        assert not response.is_closed
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
    assert len(calls()) == 1


def test_a_body_that_is_generated_is_sent_as_it_is(server, calls):
    with httpx.Client(transport=AuditTransport(httpx.HTTPTransport())) as client:
        client.post(server.home, content=iter([b"a", b"b"]), headers={"Content-Length": "2"})
    assert server.seen[0][2] == b"ab"
    assert len(calls()) == 1


def test_one_line_is_for_everybody_and_counts_once(server, calls, everybody):
    audit_httpx()

    class Retrying(httpx.HTTPTransport):
        def handle_request(self, request):
            response = super().handle_request(request)
            while response.status_code == 503:
                response = super().handle_request(request)
            return response

    with httpx.Client(transport=Retrying()) as client:
        assert client.get(f"{server.home}/flaky").status_code == 200
    assert [status for _, _, status, _ in calls()] == [503, 503, 200]
    assert len({seen[CONTEXT] for _, seen, _ in server.seen}) == 3
    one_by_one()[0]("GET", server.home)  # a transport of ours around one that is instrumented
    asyncio.run(async_get(server.home))
    assert len(calls()) == 5


async def async_get(url):
    async with httpx.AsyncClient() as client:
        return await client.get(url)


def test_what_was_one_line_is_undone_even_inside_of_somebody_elses(server, calls):
    undo = audit_httpx()
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider())
    try:
        httpx.get(server.home)
        undo()
        httpx.get(server.home)
        assert len(calls()) == 1
        audit_httpx()
        httpx.get(server.home)
        assert len(calls()) == 2
    finally:
        instrumentor.uninstrument()
        audit_httpx()()
    assert httpx.HTTPTransport.handle_request is ORIGINALS[0]


def test_the_traceparent_of_others_is_kept(server, exchange, tmp_path, everybody):
    """Theirs is outside of ours here; the span that the callee will see as its parent is the call's own."""
    given = f"00-{'a' * 32}-{'b' * 16}-01"
    httpx.get(server.home, headers={"traceparent": given})
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider())
    try:
        httpx.get(server.home)
    finally:
        instrumentor.uninstrument()
    sent = [seen[TRACEPARENT] for _, seen, _ in server.seen]
    assert sent[0] == given
    for text, record in zip(sent, records(tmp_path, "call"), strict=True):
        assert text.split("-")[1:3] == [record["trace"]["trace_id"], record["trace"]["span_id"]]


def test_the_traceparent_of_somebody_inside_of_ours_is_kept_too(server, exchange, tmp_path):
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=TracerProvider())
    try:
        one_by_one()[0]("GET", server.home)
    finally:
        instrumentor.uninstrument()
    assert CONTEXT in server.seen[0][1]
    assert TRACEPARENT in server.seen[0][1]
    assert len(records(tmp_path, "call")) == 1


def test_a_block_may_say_the_route(server, exchange, tmp_path, everybody):
    with call_route("/invoices/{id}"):
        httpx.get(f"{server.home}/api/invoices/7")
        httpx.get(f"{server.home}/other")
    assert [each["call"].get("route") for each in records(tmp_path, "call")] == ["/invoices/{id}", None]


def test_a_full_disk_and_wrong_settings_fail_no_call(server, tmp_path, monkeypatch, everybody):
    files = FaultyFiles()
    files.room = 0
    pipeline = make_pipeline(tmp_path / "full", files=files, internal_hosts="localhost")
    assert httpx.get(server.home).status_code == 200
    pipeline.close()
    monkeypatch.setattr("audit_middleware.pipeline._newest", None)
    monkeypatch.setenv("AUDIT_DURABILITY", "nonsense")
    assert httpx.get(server.home, headers={"x": "y"}).status_code == 200


def test_delivering_records_makes_none(server, tmp_path, everybody):
    pipeline = make_pipeline(tmp_path, collector_url=server.strange, token="t" * 32)
    httpx.get(server.home)
    pipeline.close()
    assert any(path in {"/log.vkey", "/v1/records"} for path, _, _ in server.seen)
    assert [line["type"] for line in journal_lines(tmp_path)].count("call") == 1
