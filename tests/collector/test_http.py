import gzip
import json
import zlib

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from audit_middleware.collector.app import create_app
from audit_middleware.collector.auth import OPEN_DOOR, TokenSetting
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.limits import Limits
from audit_middleware.tlog.checkpoint import open_checkpoint
from audit_middleware.tlog.note import Verifier
from audit_middleware.tlog.reader import LogReader
from tests.collector.kit import PERIOD, App, name_of, settings_for, token_digest

INGEST, READER, BOTH = "ingest-token-0123456789", "reader-token-0123456789", "both-token-0123456789"
TOKENS = [
    TokenSetting(name="app", services=["orders"], token=INGEST),
    TokenSetting(name="auditor", services=["*"], roles=["reader"], sha256=token_digest(READER)),
    TokenSetting(name="clerk", services=["billing"], roles=["reader"], token="clerk-token-0123456789"),
    TokenSetting(name="both", services=["*"], roles=["ingest", "reader"], token=BOTH),
]


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def assert_problem(response, status, kind):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["audit-collector"] == "1"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail"}
    assert (body["status"], body["type"]) == (status, f"urn:audit-ready:problem:{kind}")
    assert "Traceback" not in response.text


@pytest.fixture
def client(settings):
    with TestClient(create_app(Collector(settings))) as client:
        yield client


@pytest.fixture
def guarded(tmp_path):
    with TestClient(create_app(Collector(settings_for(tmp_path, tokens=TOKENS)))) as client:
        yield client


def body_of(app):
    return b"".join(line + b"\n" for line in app.lines)


def test_a_batch_over_http_is_durable_and_found(client):
    app = App()
    app.requests(3)
    response = client.post("/v1/records", content=body_of(app))
    assert response.status_code == 200
    assert response.headers["audit-collector"] == "1"
    answer = response.json()
    assert answer["acks"] == {app.stream: {"seq": 3, "leaf": name_of(app.lines[-1])}}
    assert set(answer) == {"accepted", "duplicates", "quarantined", "acks", "logs"}
    assert set(answer["logs"][0]) == {"origin", "first", "last", "checkpoint"}
    found = client.get("/v1/records", params={"principal": "alice"}).json()
    assert [item["record"] for item in found["records"]] == [json.loads(line) for line in app.lines[:0:-1]]


def test_tree_sizes_in_headers_are_answered_with_consistency(client):
    app = App()
    told = client.post("/v1/records", content=body_of(app)).json()["logs"][0]
    size = told["checkpoint"].split("\n")[1]
    app.requests(3)
    headers = [("Audit-Tree-Size", f"another.log {size}"), ("Audit-Tree-Size", f"x 1, {told['origin']} {size}")]
    answer = client.post("/v1/records", content=body_of(app), headers=headers).json()
    assert answer["logs"][0]["consistency"]
    assert client.post("/v1/records", content=body_of(app), headers={"Audit-Tree-Size": "rubbish"}).status_code == 200


@pytest.mark.parametrize("pack", [gzip.compress, lambda body: gzip.compress(body[:100]) + gzip.compress(body[100:])])
def test_gzip_is_taken(client, pack):
    app = App()
    app.requests(10)
    response = client.post("/v1/records", content=pack(body_of(app)), headers={"Content-Encoding": "gzip"})
    assert response.json()["accepted"] == 11


def test_a_decompression_bomb_is_cut_at_the_limit(client):
    bomb = gzip.compress(b"x" * 50_000_000)
    assert_problem(
        client.post("/v1/records", content=bomb, headers={"Content-Encoding": "gzip"}), 413, "batch-too-large"
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"rubbish", gzip.compress(b"x\n")[:-4], gzip.compress(b"x\n") + b"trailing", gzip.compress(b"") * 40],
    ids=["nothing", "rubbish", "cut", "trailing", "forty"],
)
def test_what_is_no_gzip_is_a_problem_not_a_crash(client, body):
    response = client.post("/v1/records", content=body, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 400


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip"])
def test_other_encodings_are_415(client, encoding):
    response = client.post("/v1/records", content=zlib.compress(b"x"), headers={"Content-Encoding": encoding})
    assert_problem(response, 415, "unsupported-encoding")
    assert "gzip" in response.headers["accept-encoding"]


@pytest.mark.parametrize("body", [b"x" * (1024 * 1024 + 1), b"x\n" * 1001])
def test_a_batch_beyond_the_limits_is_to_be_split(client, body):
    assert_problem(client.post("/v1/records", content=body), 413, "batch-too-large")


def test_a_thousand_lines_are_not_too_many(client):
    app = App()
    app.requests(999)
    assert client.post("/v1/records", content=body_of(app)).json()["accepted"] == 1000


def test_a_body_of_unknown_length_is_limited_too(client):
    def chunks():
        for _ in range(20):
            yield b"x" * 100_000

    assert_problem(client.post("/v1/records", content=chunks()), 413, "batch-too-large")


def test_an_empty_body_is_a_problem(client):
    assert_problem(client.post("/v1/records", content=b""), 400, "empty-batch")


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=2000), encoding=st.sampled_from(["", "gzip", "identity"]))
def test_any_body_gets_an_answer(client, body, encoding):
    headers = {"Content-Encoding": encoding} if encoding else {}
    assert client.post("/v1/records", content=body, headers=headers).status_code in {200, 400}
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/v1/records/", 404, "not-found"),
        ("PUT", "/v1/records", 405, "method-not-allowed"),
        ("POST", "/readyz", 405, "method-not-allowed"),
    ],
)
def test_unknown_routes_and_methods_are_problems(client, method, path, status, kind):
    assert_problem(client.request(method, path), status, kind)


def test_an_error_nobody_foresaw_is_a_problem_without_a_trace(settings):
    with TestClient(create_app(Collector(settings)), raise_server_exceptions=False) as client:
        client.app.state.collector._open.reader = None
        assert_problem(client.get("/v1/records"), 500, "internal-error")


def test_health_and_metrics(client):
    app = App()
    client.post("/v1/records", content=body_of(app) + b"rubbish\n")
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {
        "status": "ready",
        "store": "files, read-only; not WORM",
        "worm": False,
    }
    text = client.get("/metrics").text
    for line in (
        "audit_records_accepted_total 1.0",
        'audit_records_quarantined_total{reason="header"} 1.0',
        f'audit_ledger_size{{origin="audit.test/default/{PERIOD}"}} 4.0',
        "audit_batches_total 1.0",
        "audit_gaps_open 0.0",
        "audit_streams 2.0",
    ):
        assert line in text
    assert "audit_commit_seconds_bucket" in text


def test_no_token_no_entry(guarded):
    for response in (
        guarded.post("/v1/records", content=b"x"),
        guarded.post("/v1/records", content=b"x", headers=bearer("wrong-token-0123456789")),
        guarded.post("/v1/records", content=b"x", headers={"Authorization": f"Basic {INGEST}"}),
        guarded.get("/v1/records"),
        guarded.get(f"/log/default/{PERIOD}/checkpoint"),
        guarded.get("/log.vkey"),
    ):
        assert_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert guarded.get("/healthz").status_code == 200


def test_a_token_without_the_role_is_told_which(guarded):
    assert_problem(guarded.get("/v1/records", headers=bearer(INGEST)), 403, "role-missing")
    response = guarded.post("/v1/records", content=b"x", headers=bearer(READER))
    assert_problem(response, 403, "role-missing")
    assert "'ingest'" in response.json()["detail"]


def test_a_token_with_the_role_may(guarded):
    app = App()
    answer = guarded.post("/v1/records", content=body_of(app), headers=bearer(INGEST)).json()
    assert answer["accepted"] == 1
    assert len(guarded.get("/v1/records?service=orders", headers=bearer(READER)).json()["records"]) == 1
    assert guarded.get("/v1/records", headers=bearer(BOTH)).status_code == 200


def test_a_public_log_needs_no_token(tmp_path):
    settings = settings_for(tmp_path, tokens=TOKENS, public_log=True)
    with TestClient(create_app(Collector(settings))) as client:
        assert client.get(f"/log/default/{PERIOD}/checkpoint").status_code == 200
        assert client.get("/v1/records").status_code == 401


def test_the_log_can_be_verified_over_http_by_its_files(client):
    app = App()
    app.requests(600)
    client.post("/v1/records", content=body_of(app))
    verifier = Verifier.parse(client.get("/log.vkey").text)

    def read(key):
        response = client.get(f"/log/default/{PERIOD}/{key}")
        return response.content if response.status_code == 200 else None

    reader = LogReader(read, verifier)
    reader.check_tiles()
    assert [line for _, line in reader.entries()][1:-1] == app.lines


def test_static_files_are_cached_for_ever_and_the_checkpoint_never(client):
    client.post("/v1/records", content=body_of(App()))
    note = client.get(f"/log/default/{PERIOD}/checkpoint")
    assert note.headers["cache-control"] == "no-cache"
    assert note.headers["content-type"] == "text/plain; charset=utf-8"
    size = open_checkpoint(note.content, Verifier.parse(client.get("/log.vkey").text)).size
    for kind in ("0", "entries"):
        tile = client.get(f"/log/default/{PERIOD}/tile/{kind}/000.p/{size}")
        assert tile.status_code == 200
        assert tile.headers["content-type"] == "application/octet-stream"
        assert "immutable" in tile.headers["cache-control"]
    assert client.head(f"/log/default/{PERIOD}/checkpoint").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"/log/default/{PERIOD}/tile/%2e%2e/checkpoint",
        f"/log/default/{PERIOD}/tile/%2e%2e/%2e%2e/%2e%2e/%2e%2e/log.key",
        f"/log/default/{PERIOD}/tile/0/..%2f..%2f..%2flog.key",
        f"/log/default/{PERIOD}/tile/entries/%2e%2e%2f%2e%2e%2f.write-ahead",
        "/log/%2e%2e/%2e%2e/checkpoint",
        "/log/default/%2e%2e/checkpoint",
        f"/log/default/{PERIOD}/checkpoints/..%2f.write-ahead",
        f"/log/default/{PERIOD}/checkpoints/%2e%2e",
        f"/log/default/{PERIOD}/tile/0/000",
        f"/log/default/{PERIOD}/tile/0/0",
        f"/log/default/{PERIOD}/tile/0/000.p/1/",
        f"/log/default/{PERIOD}/tile//0/000.p/1",
        f"/log/default/{PERIOD}/.write-ahead",
        f"/log/default/{PERIOD}/.lock",
        "/log.key",
        "/log/default/2031h1/checkpoint",
    ],
)
def test_no_path_leads_out_of_the_log(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_while_the_index_is_rebuilt_the_collector_is_red(settings):
    with TestClient(create_app(Collector(settings))) as client:
        opened = client.app.state.collector._open
        opened.committer.state, opened.committer.reason = "starting", "the collector is starting"
        assert_problem(client.post("/v1/records", content=b"x"), 503, "collector-starting")
        response = client.get("/v1/records")
        assert_problem(response, 503, "collector-starting")
        assert response.headers["retry-after"] == "1"
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200


def test_a_full_queue_asks_to_come_back(tmp_path):
    import threading

    settings = settings_for(tmp_path, limits=Limits(queue_bytes=10))
    held = threading.Event()
    with Collector(settings) as collector:
        work = collector._open.committer._work
        commit = work.commit
        work.commit = lambda batches: (held.wait(5), commit(batches))
        apps = [App() for _ in range(3)]
        first = collector.submit(apps[0].lines, OPEN_DOOR, {})
        import time

        while collector._open.committer.queue_bytes:
            time.sleep(0.001)
        second = collector.submit(apps[1].lines, OPEN_DOOR, {})
        with pytest.raises(Exception, match="waiting") as refused:
            collector.submit(apps[2].lines, OPEN_DOOR, {})
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
        held.set()
        assert first.result().accepted + second.result().accepted == 2


def test_a_body_that_does_not_arrive_is_given_up(tmp_path):
    import asyncio

    collector = Collector(settings_for(tmp_path, limits=Limits(read_seconds=0.05)))
    sent = []

    async def receive():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/records", "query_string": b"", "headers": []}
    with collector:
        asyncio.run(create_app(collector)(scope, receive, send))
    assert sent[0]["status"] == 408


def test_a_reader_of_some_services_sees_those_only(guarded):
    clerk = bearer("clerk-token-0123456789")
    for service in ("orders", "billing"):
        app = App(service=service)
        app.requests(2)
        assert guarded.post("/v1/records", content=body_of(app), headers=bearer(BOTH)).status_code == 200
    found = guarded.get("/v1/records", headers=clerk).json()["records"]
    assert {item["record"]["rec"]["service"] for item in found} == {"billing"}
    assert len(found) == 3
    assert len(guarded.get("/v1/records?service=billing", headers=clerk).json()["records"]) == 3
    assert_problem(guarded.get("/v1/records?service=orders", headers=clerk), 403, "service-missing")
    path = f"/log/default/{PERIOD}/checkpoint"
    assert_problem(guarded.get(path, headers=clerk), 403, "service-missing")
    assert guarded.get(path, headers=bearer(READER)).status_code == 200


def test_a_method_that_a_route_has_not_is_told_all_it_has(client):
    for method in ("PUT", "DELETE", "PATCH"):
        response = client.request(method, "/v1/records")
        assert_problem(response, 405, "method-not-allowed")
        assert {item.strip() for item in response.headers["allow"].split(",")} == {"GET", "HEAD", "POST"}
