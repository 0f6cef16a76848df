"""The monitor with its threads inside a real collector, and its findings over HTTP."""

import json
import logging
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from audit_middleware.collector.app import create_app
from audit_middleware.collector.auth import TokenSetting
from audit_middleware.collector.catchup import rebuild_index
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.monitor import patroller, watcher
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.problems import Problem
from audit_middleware.errors import StorageError, StoreFull
from tests.collector.kit import App, own_lines, settings_for
from tests.collector.test_http import assert_problem, bearer

QUICK = MonitorSettings(silence_seconds=1.5, settle_seconds=0.5, unclosed_seconds=3, patrol_bytes=10_000_000)
READER, CLERK, ADMIN, INGEST = (f"{name}-token-0123456789" for name in ("reader", "clerk", "admin", "ingest"))
TOKENS = [
    TokenSetting(name="app", services=["*"], token=INGEST),
    TokenSetting(name="reader", services=["*"], roles=["reader"], token=READER),
    TokenSetting(name="clerk", services=["billing"], roles=["reader", "admin"], token=CLERK),
    TokenSetting(name="chief", services=["*"], roles=["reader", "admin"], token=ADMIN),
]


def wait_for(say, seconds=5.0):
    """What ``say`` returns once it is true; fails after five seconds, which is the monitor's promise."""
    until = time.monotonic() + seconds
    while not (found := say()):
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def found(collector, kind, state="open"):
    return next((each for each in ready(collector) if each.kind == kind and each.state == state), None)


def ready(collector):
    try:
        return collector.findings()
    except Problem:
        return ()


@contextmanager
def opened(folder, monitor=QUICK, **changes):
    with Collector(settings_for(folder, monitor=monitor, **changes)) as collector:
        wait_for(lambda: collector.monitoring.watcher.is_ready)
        yield collector


def gap_in(app, count=3):
    """The lines of an application without the one before the last."""
    app.requests(count)
    return [*app.lines[:-2], app.lines[-1]]


def bundle_of(folder):
    """The first bundle; partial ones that a wider one took the place of count for nothing."""
    return next((folder / "data/log").glob("*/*/tile/entries/000"))


def alter(path, at=400):
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_finding_reaches_a_subscriber_within_seconds_and_its_end_too(tmp_path):
    heard = []
    with opened(tmp_path) as collector:
        collector.subscribe(lambda transition: heard.append((transition.change, transition.finding.kind)))
        app = App()
        collector.deliver(gap_in(app))
        wait_for(lambda: ("opened", "gap") in heard)
        collector.deliver(app.lines)
        wait_for(lambda: ("resolved", "gap") in heard)


def test_a_subscriber_that_fails_ends_nothing(tmp_path, caplog):
    def fails(_transition):
        raise RuntimeError("no network")

    with opened(tmp_path) as collector:
        collector.subscribe(fails)
        collector.deliver(gap_in(App()))
        wait_for(lambda: found(collector, "gap"))
    assert "a sink failed" in caplog.text
    assert "no network" in caplog.text


@pytest.mark.parametrize(
    ("error", "has_room_later"), [(StoreFull("no space left"), True), (StorageError("I/O"), False)]
)
def test_a_collector_that_can_keep_nothing_is_a_finding_although_its_store_can_be_read(
    tmp_path, monkeypatch, error, has_room_later
):
    def fails(*_):
        raise error

    with opened(tmp_path) as collector:
        collector.deliver(App().lines)
        with monkeypatch.context() as broken:
            broken.setattr(Ledger, "append", fails)
            broken.setattr(Ledger, "_recover", fails)
            with pytest.raises(Problem):
                collector.deliver(App().lines)
            store = wait_for(lambda: found(collector, "store"))
            assert (store.severity, store.evidence["path"]) == ("critical", "commits")
            assert str(error) in store.evidence["message"]
        if has_room_later:
            wait_for(lambda: found(collector, "store", "resolved"), 10)
            assert wait_for(lambda: any(line["rec"]["kind"] == "store" for line in reviews(collector)))


def test_a_tampered_bundle_is_found_and_the_collector_goes_on(tmp_path):
    with opened(tmp_path) as collector:
        app = App()
        app.requests(300)
        collector.deliver(app.lines)
        alter(bundle_of(tmp_path))
        tampering = wait_for(lambda: found(collector, "tampering"))
        assert tampering.evidence["path"].startswith("tile/entries/000")
        assert tampering.evidence["log"] == collector.logs.current(time.time()).origin
        assert collector.deliver([app.request()]).accepted == 1
        wait_for(lambda: any(line["rec"]["kind"] == "tampering" for line in reviews(collector, skip=256)))


def reviews(collector, skip=0):
    """The review records behind the first entries, which may be damaged."""
    ledger = collector.logs.current(time.time()).ledger
    lines = [json.loads(line) for line in ledger.entries(skip)] if ledger.size > skip else []
    return [line for line in lines if line["type"] == "review"]


def test_a_checkpoint_that_is_put_back_is_found(tmp_path):
    with opened(tmp_path) as collector:
        app = App()
        path = next((tmp_path / "data/log").glob("*/*/checkpoint"))
        collector.deliver(app.lines)
        old = path.read_bytes()
        collector.deliver(app.requests(3))
        path.write_bytes(old)
        assert wait_for(lambda: found(collector, "rollback")).evidence["path"] == "checkpoint"


def test_acknowledging_is_on_record_and_outlives_restart_rebuild_and_the_loss_of_all_memory(tmp_path):
    with opened(tmp_path) as collector:
        collector.deliver(gap_in(App()))
        gap = wait_for(lambda: found(collector, "gap"))
        decided = collector.decide(gap.id, "acknowledged", "alice", "known").result(5)
        assert (decided.state, decided.acknowledged_by, decided.note) == ("acknowledged", "alice", "known")
        (review,) = reviews(collector)
        assert (review["rec"]["by"], review["rec"]["state"], review["rec"]["finding"]) == (
            "alice",
            "acknowledged",
            gap.id,
        )
    with opened(tmp_path) as collector:
        assert found(collector, "gap", "acknowledged").acknowledged_by == "alice"
    rebuild_index(settings_for(tmp_path))
    (tmp_path / "data/monitor.json").unlink()
    with opened(tmp_path) as collector:
        assert found(collector, "gap", "acknowledged").note == "known"
        assert len(reviews(collector)) == 1


def test_a_memory_that_somebody_changed_is_not_believed(tmp_path, caplog):
    with opened(tmp_path) as collector:
        collector.deliver(gap_in(App()))
        wait_for(lambda: found(collector, "gap"))
    file = tmp_path / "data/monitor.json"
    file.write_bytes(file.read_bytes().replace(b'"state":"open"', b'"state":"resolved"'))
    with opened(tmp_path) as collector:
        assert found(collector, "gap")
    assert "was changed by somebody else" in caplog.text


def test_a_collector_that_was_killed_knows_its_findings_and_says_each_state_once(tmp_path):
    with opened(tmp_path) as collector:
        collector.deliver(App().lines)
        wait_for(lambda: found(collector, "silence"))
        wait_for(lambda: len(reviews(collector)) >= 1)
        memory = (tmp_path / "data/monitor.json").read_bytes() if (tmp_path / "data/monitor.json").exists() else None
    if memory is None:
        (tmp_path / "data/monitor.json").unlink()  # as if it had never come to writing it
    with opened(tmp_path) as collector:
        wait_for(lambda: found(collector, "silence") or found(collector, "unclosed"))
        said = [
            (line["rec"]["finding"], line["rec"]["occurrence"], line["rec"]["state"]) for line in reviews(collector)
        ]
        assert len(said) == len(set(said))


def test_commits_that_the_watcher_had_no_room_for_are_read_from_the_ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(watcher, "MAX_WAITING", 0)
    with opened(tmp_path) as collector:
        collector.deliver(gap_in(App()))
        wait_for(lambda: found(collector, "gap"))


def test_a_fault_of_the_monitor_stops_neither_it_nor_the_collector(tmp_path, caplog):
    with opened(tmp_path) as collector:
        watch = collector.monitoring.watcher._watching
        hear = watch.hear
        watch.hear = lambda *_: 1 / 0
        app = App()
        assert collector.deliver(app.lines).accepted == 1
        wait_for(lambda: "the monitor failed" in caplog.text)
        watch.hear = hear
        collector.deliver(gap_in(App()))
        wait_for(lambda: found(collector, "gap"))


def test_without_its_monitor_a_collector_takes_records_and_says_that_it_has_none(tmp_path):
    settings = settings_for(tmp_path, monitor=MonitorSettings(enabled=False))
    with TestClient(create_app(Collector(settings))) as client:
        assert client.post("/v1/records", content=App().lines[0]).status_code == 200
        assert_problem(client.get("/v1/findings"), 404, "monitor-off")
        assert set(client.get("/v1/status").json()) == {"state", "logs"}
        assert b"audit_patrol" not in client.get("/metrics").content
    assert not (tmp_path / "data/monitor.json").exists()


# ------------------------------------------------------------------ over HTTP


@pytest.fixture
def client(tmp_path):
    collector = Collector(settings_for(tmp_path, monitor=QUICK, tokens=TOKENS))
    with TestClient(create_app(collector)) as client:
        wait_for(lambda: collector.monitoring.watcher.is_ready)
        for service in ("orders", "billing"):
            body = b"\n".join(gap_in(App(service=service)))
            assert client.post("/v1/records", content=body, headers=bearer(INGEST)).status_code == 200
        wait_for(lambda: len([each for each in collector.findings() if each.kind == "gap"]) == 2)
        yield client


def listed(client, token, **parameters):
    answer = client.get("/v1/findings", params=parameters, headers=bearer(token))
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["findings"]


def test_findings_have_the_shape_of_the_wire_format(client):
    finding = listed(client, READER, kind="gap", service="orders")[0]
    members = {"id", "kind", "severity", "state", "service", "stream", "first_seen", "last_seen", "evidence"}
    assert members <= set(finding)
    assert (finding["kind"], finding["severity"], finding["state"]) == ("gap", "critical", "open")
    assert finding["evidence"]["lines"] == 1
    assert finding["remedy"]


def test_findings_are_filtered(client):
    assert {each["service"] for each in listed(client, READER, kind="gap")} == {"orders", "billing"}
    assert listed(client, READER, kind="gap", state="resolved") == []
    assert len(listed(client, READER, kind="gap", severity="critical", limit=1)) == 1


def test_a_reader_of_some_services_sees_their_findings_only(client):
    assert {each["service"] for each in listed(client, CLERK)} == {"billing"}
    assert_problem(client.get("/v1/findings?service=orders", headers=bearer(CLERK)), 403, "service-missing")


@pytest.mark.parametrize(
    "query",
    [
        "state=closed",
        "kind=nonsense",
        "severity=high",
        "limit=0",
        "limit=x",
        "limit=10001",
        "page=2",
        "kind=gap&kind=gap",
    ],
)
def test_a_wrong_parameter_is_named(client, query):
    answer = client.get(f"/v1/findings?{query}", headers=bearer(READER))
    assert_problem(answer, 400, "bad-parameter")
    assert query.split("=")[0] in answer.json()["detail"]


def test_a_finding_is_acknowledged_and_resolved_in_the_name_of_the_token(client):
    id_ = listed(client, ADMIN, kind="gap", service="orders")[0]["id"]
    url = f"/v1/findings/{id_}"
    answer = client.post(url, json={"state": "acknowledged", "note": "on it"}, headers=bearer(ADMIN))
    assert (answer.status_code, answer.json()["acknowledged_by"], answer.json()["note"]) == (200, "chief", "on it")
    assert listed(client, ADMIN, kind="gap", service="orders")[0]["state"] == "acknowledged"
    answer = client.post(url, json={"state": "resolved", "note": "restored"}, headers=bearer(ADMIN))
    assert (answer.json()["state"], answer.json()["resolved_by"]) == ("resolved", "chief")
    assert_problem(client.post(url, json={"state": "acknowledged"}, headers=bearer(ADMIN)), 409, "finding-state")
    found = client.get("/v1/records?type=review", headers=bearer(ADMIN)).json()["records"]
    assert [item["record"]["rec"]["state"] for item in found if item["record"]["rec"]["finding"] == id_] == [
        "resolved",
        "acknowledged",
    ]


def test_deciding_needs_the_role_and_the_service(client):
    orders = listed(client, ADMIN, kind="gap", service="orders")[0]["id"]
    url, body = f"/v1/findings/{orders}", {"state": "resolved"}
    assert_problem(client.post(url, json=body), 401, "unauthorized")
    assert_problem(client.post(url, json=body, headers=bearer(READER)), 403, "role-missing")
    assert_problem(client.post(url, json=body, headers=bearer(INGEST)), 403, "role-missing")
    assert_problem(client.post(url, json=body, headers=bearer(CLERK)), 404, "finding-unknown")
    assert_problem(client.post("/v1/findings/0000", json=body, headers=bearer(ADMIN)), 404, "finding-unknown")
    assert_problem(client.get("/v1/findings", headers=bearer(INGEST)), 403, "role-missing")
    assert_problem(client.get("/v1/status", headers=bearer(INGEST)), 403, "role-missing")
    assert listed(client, ADMIN, kind="gap", service="orders")[0]["state"] == "open"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"state":"open"}', b'{"state":"resolved","who":"x"}', b'{"state":"resolved","note":7}', b"\xff",
     b'{"state":"resolved","note":"%b"}' % (b"x" * 2001)],
)  # fmt: skip
def test_a_wrong_decision_is_refused(client, body):
    id_ = listed(client, ADMIN, kind="gap")[0]["id"]
    answer = client.post(f"/v1/findings/{id_}", content=body, headers=bearer(ADMIN))
    assert_problem(answer, 400, "bad-decision")


def test_a_decision_that_is_too_large_is_not_read(client):
    answer = client.post("/v1/findings/0000", content=b"x" * 20_000, headers=bearer(ADMIN))
    assert_problem(answer, 413, "body-too-large")


def test_status_shows_patrol_services_and_how_much_is_open(client):
    wait_for(lambda: client.get("/v1/status", headers=bearer(READER)).json()["services"])
    seen = client.get("/v1/status", headers=bearer(READER)).json()
    assert seen["state"] == "ready"
    assert {each["service"] for each in seen["services"]} == {"orders", "billing"}
    assert seen["findings"]["critical"] >= 2
    wait_for(lambda: client.get("/v1/status", headers=bearer(READER)).json()["monitor"]["patrol"].get("last_full_pass"))
    clerk = client.get("/v1/status", headers=bearer(CLERK)).json()
    assert {each["service"] for each in clerk["services"]} == {"billing"}


def test_metrics_count_findings_by_kind_severity_and_state(client):
    text = client.get("/metrics").text
    assert 'audit_findings{kind="gap",severity="critical",state="open"} 2.0' in text
    assert 'audit_findings{kind="worm",severity="critical",state="open"} 0.0' in text
    assert 'audit_finding_transitions_total{change="opened",kind="gap"} 2.0' in text
    assert "audit_findings_overflowed 0.0" in text
    documented = (Path(__file__).parents[3] / "docs/findings.md").read_text()
    ours = {
        line.split()[2] for line in text.splitlines() if line.startswith(("# TYPE audit_find", "# TYPE audit_patrol"))
    }
    assert len(ours) >= 6
    assert all(name in documented for name in ours if not name.endswith("_created"))


def test_findings_are_said_in_the_log_of_the_collector(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with opened(tmp_path) as collector:
        collector.deliver(gap_in(App()))
        wait_for(lambda: found(collector, "gap"))
        assert own_lines(collector, "gap")
    assert "opened: critical gap (orders)" in caplog.text


def test_a_file_that_is_put_back_is_noted_and_left_to_a_person(tmp_path, monkeypatch):
    monkeypatch.setattr(patroller, "PAUSE_SECONDS", 0.1)
    with opened(tmp_path) as collector:
        app = App()
        app.requests(300)
        collector.deliver(app.lines)
        path = bundle_of(tmp_path)
        good = path.read_bytes()
        alter(path)
        tampering = wait_for(lambda: found(collector, "tampering"))
        path.write_bytes(good)
        wait_for(lambda: "over" in found(collector, "tampering").evidence)
        decided = collector.decide(tampering.id, "resolved", "alice", "restored from the copy").result(5)
        assert decided.state == "resolved"
        alter(path)
        assert wait_for(lambda: found(collector, "tampering")).occurrence == 2
