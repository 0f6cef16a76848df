"""aiohttp's client against a real server: one record for each request that leaves."""

import asyncio
import json

import aiohttp
import pytest

from audit_integrations.aiohttp import audit_aiohttp, audit_calls
from audit_middleware.capture import call_route
from tests.calls.conftest import CONTEXT, TRACEPARENT
from tests.capture.kit import records


@pytest.fixture
def everybody():
    original = aiohttp.ClientSession._request
    undo = audit_aiohttp()
    yield undo
    undo()
    assert aiohttp.ClientSession._request is original


def ask(method, url, middlewares=(audit_calls,), times=1, **given):
    async def run():
        async with aiohttp.ClientSession(middlewares=middlewares) as session:
            for _ in range(times):
                async with session.request(method, url, **given) as response:
                    text = await response.text()
            return response, text

    return asyncio.run(run())


def test_a_call_is_on_record_without_path_query_and_body(server, exchange, tmp_path):
    with call_route("/invoices/{id}"):
        response, text = ask("POST", f"{server.home}/invoices/7?token=secret", json={"card": "4111"})
    assert json.loads(text)["size"] == len(server.seen[0][2]) > 0
    assert CONTEXT not in response.request_info.headers
    (record,) = records(tmp_path, "call")
    assert record["call"] | {"duration_us": 0} == {
        "kind": "http", "method": "POST", "host": "localhost", "route": "/invoices/{id}", "status": 200,
        "duration_us": 0, "ended": "complete", "carried": True,
    }  # fmt: skip
    assert not any(secret in json.dumps(record) for secret in ("secret", "4111", "/invoices/7"))


def test_each_hop_is_a_call_and_no_stranger_is_told(server, calls):
    ask("GET", f"{server.home}/away", headers={"X-Mine": "1"})
    ask("GET", server.strange, headers={"Audit-Context": "v1.stolen"})
    assert [(host, status) for _, host, status, _ in calls()] == [
        ("localhost", 302), ("127.0.0.1", 200), ("127.0.0.1", 200),
    ]  # fmt: skip
    seen = [(CONTEXT in each, TRACEPARENT in each) for _, each, _ in server.seen]
    assert seen == [(True, True), (False, False), (False, False)]


def test_each_attempt_of_a_middleware_around_is_a_call_of_its_own(server, exchange, tmp_path):
    async def retrying(request, handler):
        response = await handler(request)
        while response.status == 503:
            response = await handler(request)
        return response

    ask("GET", f"{server.home}/flaky", middlewares=(retrying, audit_calls))
    found = records(tmp_path, "call")
    assert [each["call"]["status"] for each in found] == [503, 503, 200]
    assert len({each[CONTEXT] for _, each, _ in server.seen}) == 3
    assert [each[TRACEPARENT].split("-")[2] for _, each, _ in server.seen] == [
        each["trace"]["span_id"] for each in found
    ]


def test_the_traceparent_of_others_is_kept(server, exchange):
    given = f"00-{'a' * 32}-{'b' * 16}-01"
    ask("GET", server.home, headers={"traceparent": given})
    assert server.seen[0][1][TRACEPARENT] == given


def test_what_fails_is_a_failure_with_its_class_and_is_raised_as_it_is(server, exchange, tmp_path):
    with pytest.raises(TimeoutError):
        ask("GET", f"{server.home}/slow", timeout=aiohttp.ClientTimeout(0.2))
    with pytest.raises(aiohttp.ClientConnectorError):
        ask("GET", "http://localhost:1/")
    said = [(each["outcome"], each["reason"], each["call"]["ended"]) for each in records(tmp_path, "call")]
    assert said == [("failure", "TimeoutError", "exception"), ("failure", "ClientConnectorError", "exception")]


def test_one_line_is_for_every_session_and_counts_once(server, calls, everybody):
    audit_aiohttp()
    ask("GET", server.home, middlewares=())
    ask("GET", server.home)
    assert len(calls()) == 2

    async def given_for_one_request():
        async with aiohttp.ClientSession() as session, session.get(server.home, middlewares=()):
            pass

    asyncio.run(given_for_one_request())
    assert len(calls()) == 3
