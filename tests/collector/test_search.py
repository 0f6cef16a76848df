import json
import shutil
import sqlite3
from random import Random

import pytest
from starlette.testclient import TestClient

from audit_middleware.collector.app import create_app
from audit_middleware.collector.catchup import rebuild_index
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.query import parse_query
from audit_middleware.errors import StorageError
from audit_middleware.sealing.seal import leaf_hash
from audit_middleware.tlog.proof import Proof, open_proof
from tests.collector.kit import App, own_lines, rec_of, settings_for


def search(collector, **parameters):
    return collector.reader.search(parse_query([(name.rstrip("_"), value) for name, value in parameters.items()]))


def lines_of(page):
    return [bytes(found.record) for found in page.records]


@pytest.fixture
def filled(collector):
    app = App()
    app.request(action="a.read", ts="2026-01-01T00:00:00.000000Z")
    app.request(
        principal={"id": "bob", "type": "user", "auth": "bearer"},
        source={"ip": "198.51.100.7", "verdict": "peer", "peer": "198.51.100.7"},
        action="a.write",
        outcome="denied",
        resource={"type": "invoice", "id": "7"},
        trace={"request_id": "req-1", "trace_id": "t" * 32},
        ts="2026-02-01T00:00:00.500000Z",
    )
    app.request(resource={"type": "urn", "id": "urn:x:9"}, ts="2026-03-01T00:00:00.000000Z")
    other = App(service="billing")
    other.request(ts="2026-04-01T00:00:00.000000Z")
    collector.deliver(app.lines + other.lines)
    collector.app, collector.other = app, other
    return collector


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"principal": "bob"}, [2]),
        ({"action": "a.write"}, [2]),
        ({"outcome": "denied"}, [2]),
        ({"ip": "198.51.100.7"}, [2]),
        ({"request_id": "req-1"}, [2]),
        ({"trace_id": "t" * 32}, [2]),
        ({"resource": "7"}, [2]),
        ({"resource": "invoice:7"}, [2]),
        ({"resource": "order:7"}, []),
        ({"resource": "urn:x:9"}, [3]),
        ({"resource": "urn:urn:x:9"}, [3]),
        ({"type": "request", "service": "orders"}, [3, 2, 1]),
        ({"type": "open", "service": "orders"}, [0]),
        ({"from_": "2026-02-01", "to": "2026-03-01", "service": "orders"}, [2]),
        ({"from_": "2026-02-01T00:00:00.500000Z", "to": "2026-02-01T00:00:00.500001+00:00"}, [2]),
        ({"from_": "2026-02-01T01:00:00.500+01:00", "to": "2026-02-28"}, [2]),
        ({"to": "2026-02-01T00:00:00.500000Z", "principal": "alice"}, [1]),
        ({"principal": "nobody"}, []),
        ({"principal": "alice' OR 1=1 --"}, []),
        ({"principal": "alice", "action": "a.read"}, [1]),
    ],
)
def test_every_filter(filled, parameters, expected):
    assert lines_of(search(filled, **parameters)) == [filled.app.lines[number] for number in expected]


def test_filter_by_stream_and_by_service(filled):
    assert sorted(lines_of(search(filled, stream=filled.other.stream))) == sorted(filled.other.lines)
    assert sorted(lines_of(search(filled, service="billing"))) == sorted(filled.other.lines)
    assert lines_of(search(filled, stream="A" * 22)) == []
    assert len(search(filled, service="audit-collector").records) == len(own_lines(filled))


@pytest.mark.parametrize(
    ("items", "named"),
    [
        ([("colour", "red")], "colour"),
        ([("principal", "a"), ("principal", "b")], "principal"),
        ([("principal", "")], "principal"),
        ([("principal", "x" * 5000)], "principal"),
        ([("limit", "0")], "limit"),
        ([("limit", "501")], "limit"),
        ([("limit", "٣")], "limit"),
        ([("from", "yesterday")], "from"),
        ([("to", "2026-13-01")], "to"),
        ([("cursor", "x")], "cursor"),
        ([("cursor", "1.99999999999999999999")], "cursor"),
        ([("cursor", "1.9999999999999999999")], "cursor"),
        ([("include", "everything")], "include"),
    ],
)
def test_a_bad_parameter_is_named_with_what_is_expected(items, named):
    with pytest.raises(Problem) as refused:
        parse_query(items)
    assert refused.value.status == 400
    assert refused.value.detail.startswith(f"{named}: ")


def test_pages_are_stable_while_records_arrive(collector):
    app = App()
    app.requests(25)
    collector.deliver(app.lines)
    seen, cursor = [], None
    while True:
        page = search(collector, principal="alice", limit="7", **({"cursor": cursor} if cursor else {}))
        seen += lines_of(page)
        collector.deliver([app.request()])
        cursor = page.next
        if cursor is None:
            break
    assert seen == app.lines[25:0:-1]


def test_the_last_page_has_no_next(collector):
    app = App()
    app.requests(4)
    collector.deliver(app.lines)
    page = search(collector, principal="alice", limit="4")
    assert (len(page.records), page.next) == (4, None)


def test_records_of_one_instant_are_paged_without_loss(collector):
    app = App()
    for _ in range(5):
        app.request(ts="2026-01-01T00:00:00.000000Z")
    collector.deliver(app.lines)
    first = search(collector, principal="alice", limit="2")
    second = search(collector, principal="alice", limit="9", cursor=first.next)
    assert lines_of(first) + lines_of(second) == app.lines[:0:-1]


def test_the_proof_in_an_answer_verifies(collector):
    app = App()
    app.requests(300)
    collector.deliver(app.lines)
    log = next(iter(collector.logs))
    for found in search(collector, principal="alice", include="line,proof", limit="20").records:
        open_proof(Proof.parse(found.proof.encode()), leaf_hash(found.line.encode()), log.verifier)
        assert found.line.encode() == bytes(found.record) == log.entry(found.index)


def test_line_and_proof_come_only_when_asked_for(settings):
    with TestClient(create_app(Collector(settings))) as client:
        client.post("/v1/records", content=b"\n".join(App().lines))
        (item,) = client.get("/v1/records?service=orders").json()["records"]
        assert set(item) == {"log", "index", "record"}
        (item,) = client.get("/v1/records?service=orders&include=line").json()["records"]
        assert json.loads(item["line"]) == item["record"]
        assert client.get("/v1/records?limit=1").json()["next"]


def test_a_record_is_found_as_soon_as_its_answer_came(collector):
    app = App()
    for _ in range(20):
        line = app.request(principal={"id": "carol", "type": "user", "auth": "bearer"})
        collector.deliver([line])
        assert lines_of(search(collector, principal="carol", limit="1")) == [line]


def drop_index(settings):
    for path in settings.data.glob("index.sqlite*"):
        path.unlink()


def everything(collector):
    page = search(collector, limit="500")
    return [
        (found.log, found.index, bytes(found.record))
        for found in page.records
        if b"audit-collector" not in bytes(found.record)
    ]


def fill(collector):
    app, broken = App(), App()
    app.requests(30)
    broken.requests(3)
    broken.say("request", {"not": "a record"})
    broken.requests(8)
    collector.deliver(app.lines[:10] + app.lines[20:])
    collector.deliver(app.lines[10:14] + broken.lines[:6])
    collector.deliver(broken.lines[8:])
    return app, broken


def test_a_lost_index_is_rebuilt_and_answers_the_same(settings):
    with Collector(settings) as collector:
        app, broken = fill(collector)
        before = everything(collector)
        gaps = collector._open.desk.streams.open_gaps
        states = {s: collector._open.index.load_stream(s)[2:] for s in (app.stream, broken.stream)}
    assert gaps == 2
    drop_index(settings)
    told = []
    with Collector(settings, progress=lambda done, total: told.append((done, total))) as collector:
        assert everything(collector) == before
        assert collector._open.desk.streams.open_gaps == gaps
        assert {s: collector._open.index.load_stream(s)[2:] for s in states} == states
        answer = collector.deliver(app.lines + broken.lines)
        assert (answer.accepted, [item.reason for item in answer.quarantined]) == (8, ["schema"])
        assert collector._open.desk.streams.open_gaps == 0
    assert told[-1][0] == told[-1][1] > 0


def test_an_index_older_than_the_ledger_is_completed(settings, tmp_path):
    """What a crash between ledger commit and index leaves."""
    with Collector(settings) as collector:
        app, _ = fill(collector)
    shutil.copy(settings.data / "index.sqlite", tmp_path / "older")
    with Collector(settings) as collector:
        more = App()
        more.requests(50)
        collector.deliver(app.lines + more.lines)
        before = everything(collector)
    drop_index(settings)
    shutil.copy(tmp_path / "older", settings.data / "index.sqlite")
    with Collector(settings) as collector:
        assert everything(collector) == before
        answer = collector.deliver(app.lines + more.lines)
        assert (answer.accepted, answer.duplicates) == (0, len(app.lines + more.lines))


def test_an_index_of_another_log_is_refused(tmp_path):
    one, two = settings_for(tmp_path / "one"), settings_for(tmp_path / "two")
    for settings in (one, two):
        with Collector(settings) as collector:
            fill(collector)
    drop_index(two)
    shutil.copy(one.data / "index.sqlite", two.data / "index.sqlite")
    with pytest.raises(StorageError, match="rebuild-index"):
        Collector(two).open()
    rebuild_index(two)
    with Collector(two) as collector:
        assert everything(collector)


def test_an_index_that_is_ahead_of_its_log_is_refused(tmp_path):
    settings = settings_for(tmp_path)
    with Collector(settings) as collector:
        pass
    with Collector(settings) as collector:
        fill(collector)
    shorter = settings_for(tmp_path / "short")
    with Collector(shorter) as collector:
        pass
    drop_index(shorter)
    shutil.copy(settings.data / "index.sqlite", shorter.data / "index.sqlite")
    with pytest.raises(StorageError, match="rebuild-index"):
        Collector(shorter).open()


@pytest.mark.parametrize("rubbish", [b"no database at all" * 100, b"SQLite format 3\0" + b"\1" * 5000])
def test_a_file_that_is_no_index_is_refused(settings, rubbish):
    settings.data.mkdir(parents=True)
    (settings.data / "index.sqlite").write_bytes(rubbish)
    with pytest.raises(StorageError, match="rebuild-index"):
        Collector(settings).open()


def test_rebuild_is_refused_while_a_collector_runs(settings, collector):
    with pytest.raises(StorageError, match="another collector"):
        rebuild_index(settings)


def test_rebuild_reports_progress(settings):
    with Collector(settings) as collector:
        app = App()
        app.requests(999)
        collector.deliver(app.lines)
        collector.deliver(app.requests(500))
    told = []
    rebuild_index(settings, lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1] == 1504


def test_a_search_that_cannot_use_the_index_is_a_503(collector):
    collector._open.index.failure = sqlite3.OperationalError("disk I/O error")
    with pytest.raises(Problem) as refused:
        search(collector)
    assert refused.value.status == 503


def test_a_broken_index_stops_accepting(collector):
    collector._open.index.failure = sqlite3.OperationalError("disk I/O error")
    with pytest.raises(Problem):
        collector.deliver(App().lines)
    assert collector.state == "failed"


def test_streams_beyond_memory_are_loaded_again(tmp_path):
    from audit_middleware.collector.limits import Limits

    with Collector(settings_for(tmp_path, limits=Limits(streams_in_memory=3))) as collector:
        apps = [App() for _ in range(12)]
        for app in apps:
            collector.deliver(app.lines)
        for app in apps:
            assert collector.deliver([app.request()]).accepted == 1
            assert collector.deliver(app.lines).duplicates == 2
        assert len(collector._open.desk.streams._streams) <= 4
        assert own_lines(collector, "gap") == []


def test_what_is_searched_is_what_the_strict_parse_gave(collector):
    app = App()
    app.request(details={"principal": {"id": "mallory"}}, reason='","principal":{"id":"mallory"}')
    collector.deliver(app.lines)
    assert search(collector, principal="mallory").records == []
    assert rec_of()["principal"]["id"] == "alice"


def test_a_search_that_takes_too_long_is_given_up(collector, monkeypatch):
    app = App()
    app.requests(50)
    collector.deliver(app.lines)
    monkeypatch.setattr("audit_middleware.collector.index_search.SEARCH_SECONDS", -1.0)
    monkeypatch.setattr("audit_middleware.collector.index_search.PROGRESS_STEPS", 10)
    with pytest.raises(Problem) as refused:
        search(collector, ip="10.9.9.9")
    assert (refused.value.status, refused.value.kind) == (503, "search-too-slow")


def test_many_parts_answer_like_one(settings, monkeypatch):
    monkeypatch.setattr("audit_middleware.collector.index.PART_BITS", 3)
    app, random = App(), Random(1)
    for _ in range(60):
        app.request(ts=f"2026-01-01T00:00:{random.randrange(60):02d}.000000Z")
    with Collector(settings) as collector:
        for start in range(0, 61, 7):
            collector.deliver(app.lines[start : start + 7])
        seen, cursor = [], None
        while cursor is not None or not seen:
            page = search(collector, principal="alice", limit="7", **({"cursor": cursor} if cursor else {}))
            seen += [(json.loads(line)["ts"], json.loads(line)["seq"]) for line in lines_of(page)]
            cursor = page.next
        assert seen == sorted(seen, reverse=True)
        assert len(seen) == 60
        assert collector.deliver(app.lines).duplicates == 61
    with Collector(settings) as collector:
        assert collector.deliver(app.lines).duplicates == 61


def test_a_page_ends_before_it_has_more_bytes_than_a_page_may(collector, monkeypatch):
    from audit_middleware.collector import query

    app = App()
    app.requests(9)
    collector.deliver(app.lines)
    monkeypatch.setattr(query, "PAGE_BYTES", 1500)
    seqs, cursor = [], None
    while True:
        items = [("stream", app.stream), ("include", "line"), *([("cursor", cursor)] if cursor else [])]
        page = collector.reader.search(query.parse_query(items))
        assert 1 <= len(page.records) <= 3
        seqs += [json.loads(found.line)["seq"] for found in page.records]
        cursor = page.next
        if cursor is None:
            break
    assert seqs == list(range(9, -1, -1))


def test_a_vanished_index_is_told_and_not_made_by_a_search(settings):
    with TestClient(create_app(Collector(settings))) as client:
        assert client.get("/readyz").status_code == 200
        for path in settings.data.glob("index.sqlite*"):
            path.unlink()
        assert client.get("/v1/records").status_code == 503
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "degraded")
        assert not (settings.data / "index.sqlite").exists()
        assert client.post("/v1/records", content=App().lines[0]).status_code == 200
    with TestClient(create_app(Collector(settings))) as client:
        assert len(client.get("/v1/records?service=orders").json()["records"]) == 1
