"""requests and urllib3 against a real server: each attempt that leaves is one record, whichever of the two is asked."""

import json

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import HTTPDigestAuth

from audit_integrations.requests import AuditAdapter, audit_requests
from audit_integrations.urllib3 import audit_urllib3
from audit_middleware.capture import call_route
from tests.calls.conftest import CONTEXT, TRACEPARENT
from tests.capture.kit import records


@pytest.fixture
def session():
    with requests.Session() as found:
        found.mount("http://", AuditAdapter())
        found.trust_env = False
        yield found


@pytest.fixture
def everybody():
    undo = audit_urllib3()
    yield undo
    undo()


@pytest.fixture
def pool():
    with urllib3.PoolManager() as found:
        yield found


def test_a_call_of_requests_is_on_record_without_path_query_and_body(server, session, exchange, tmp_path):
    with call_route("/invoices/{id}"):
        response = session.post(f"{server.home}/invoices/7?token=secret", json={"card": "4111"})
    assert response.json()["size"] == len(server.seen[0][2]) > 0
    assert CONTEXT not in response.request.headers
    (record,) = records(tmp_path, "call")
    assert record["call"] | {"duration_us": 0} == {
        "kind": "http", "method": "POST", "host": "localhost", "route": "/invoices/{id}", "status": 200,
        "duration_us": 0, "ended": "complete", "carried": True,
    }  # fmt: skip
    assert not any(secret in json.dumps(record) for secret in ("secret", "4111", "/invoices/7"))


def test_each_hop_of_requests_is_a_call_and_no_stranger_is_told(server, session, calls):
    session.get(f"{server.home}/away")
    session.get(f"{server.home}/protected", auth=HTTPDigestAuth("alice", "secret"))
    assert [(host, status) for _, host, status, _ in calls()] == [
        ("localhost", 302), ("127.0.0.1", 200), ("localhost", 401), ("localhost", 200),
    ]  # fmt: skip
    seen = [(CONTEXT in each, TRACEPARENT in each) for _, each, _ in server.seen]
    assert seen == [(True, True), (False, False), (True, True), (True, True)]


def test_every_retry_is_a_call_with_a_context_of_its_own(server, exchange, calls):
    retries = urllib3.Retry(5, status_forcelist=[503], backoff_factor=0)
    with requests.Session() as session:
        session.mount("http://", AuditAdapter(max_retries=retries))
        assert session.get(f"{server.home}/flaky").status_code == 200
    assert [status for _, _, status, _ in calls()] == [503, 503, 200]
    assert len({each[CONTEXT] for _, each, _ in server.seen}) == 3


def test_what_fails_in_requests_is_a_failure_and_raised_as_it_is(server, session, exchange, tmp_path):
    with pytest.raises(requests.ReadTimeout):
        session.get(f"{server.home}/slow", timeout=0.1)
    with pytest.raises(requests.ConnectionError):
        session.get("http://localhost:1/")
    said = [(each["outcome"], each["reason"], each["call"]["ended"]) for each in records(tmp_path, "call")]
    assert said == [("failure", "ReadTimeoutError", "exception"), ("failure", "NewConnectionError", "exception")]


def test_a_session_with_the_adapter_says_nothing_of_others(server, session, calls, pool):
    session.get(server.home)
    requests.get(server.home)
    pool.request("GET", server.home)
    assert len(calls()) == 1


def test_one_line_is_for_every_session_and_counts_once(server, session, calls, everybody):
    send = HTTPAdapter.send
    undo = audit_requests()
    audit_requests()
    try:
        requests.get(server.home)
        assert len(calls()) == 1
        session.get(server.home)
        assert len(calls()) == 2
    finally:
        undo()
        everybody()
    assert HTTPAdapter.send is send
    requests.get(server.home)
    assert len(calls()) == 2


def test_requests_alone_is_not_urllib3(server, calls, pool):
    undo = audit_requests()
    pool.request("GET", server.home)
    assert calls() == []
    undo()


def test_every_attempt_of_urllib3_is_a_call_and_no_stranger_is_told(server, calls, everybody, pool):
    audit_urllib3()
    retries = urllib3.Retry(5, status_forcelist=[503], backoff_factor=0)
    assert pool.request("GET", f"{server.home}/flaky", retries=retries).status == 200
    assert pool.request("GET", f"{server.home}/away", headers={"X-Mine": "1"}).status == 200
    assert [(host, status) for _, host, status, _ in calls()] == [
        ("localhost", 503), ("localhost", 503), ("localhost", 200), ("localhost", 302), ("127.0.0.1", 200),
    ]  # fmt: skip
    assert [CONTEXT in each for _, each, _ in server.seen] == [True, True, True, True, False]
    assert server.seen[4][1]["x-mine"] == "1"


def test_headers_that_urllib3_was_given_are_kept_and_not_changed(server, exchange, everybody, pool):
    given = urllib3.HTTPHeaderDict(
        {"X-Mine": "1", "Audit-Context": "v1.stolen", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    )
    before = dict(given)
    pool.request("POST", server.home, body=iter([b"a", b"b"]), headers=given)
    pool.request("POST", server.strange, body=b"ab", headers={**given})
    (_, first, _), (_, second, _) = server.seen
    assert (dict(given), first["x-mine"], first[TRACEPARENT]) == (before, "1", given["traceparent"])
    assert first[CONTEXT].startswith("v1.test.")
    assert CONTEXT not in second


def test_a_stream_of_urllib3_stays_one_and_what_fails_is_raised(server, calls, everybody, pool):
    response = pool.request("GET", f"{server.home}/broken", preload_content=False)
    assert calls() == [("GET", "localhost", 200, "complete")]
    with pytest.raises(urllib3.exceptions.ProtocolError):
        response.read()
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        pool.request("GET", f"{server.home}/slow", timeout=0.1, retries=False)
    assert calls()[1:] == [("GET", "localhost", None, "exception")]
