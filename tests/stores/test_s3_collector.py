"""A collector whose tiles are in a bucket: every fault of the bucket costs time, and no line."""

import json
import random
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from starlette.testclient import TestClient

from audit_middleware.collector import committer
from audit_middleware.collector.app import create_app
from audit_middleware.collector.catchup import rebuild_index
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.limits import Limits
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.retention.policy import RetentionSetting
from audit_middleware.collector.storage import stores
from audit_middleware.collector_record import Held
from audit_middleware.errors import ConfigurationError, StorageError
from audit_middleware.tlog.reader import LogReader
from tests.collector.kit import PERIOD, App, admitted, own_lines, settings_for
from tests.stores.gateway import EVERYTHING
from tests.stores.kit import s3_settings

LOG = f"ledgers/audit.test/default/{PERIOD}/"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(committer, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(committer, "LONGEST_PAUSE", 0.02)


def settings(tmp_path, gateway, *, limits=None, **store):
    return settings_for(tmp_path, store=s3_settings(gateway.endpoint, **store), limits=limits or Limits())


def wait_until(is_so, within=20):
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def deliver_until_taken(collector, lines, tries=200):
    """As a shipper does: whatever was not confirmed is sent again."""
    for _ in range(tries):
        try:
            return collector.deliver(lines)
        except Problem as problem:
            if problem.status != 503:
                raise
            time.sleep(0.02)
    raise AssertionError("never taken")


def check(collector):
    """Verify every log as an auditor would, entry by entry and tile by tile."""
    for log in collector.logs:
        LogReader(log.store.get, log.verifier, checkpoint=log.checkpoint()).check_tiles()


def test_lines_are_in_the_bucket_and_a_restart_goes_on(tmp_path, gateway):
    app = App()
    with Collector(settings(tmp_path, gateway)) as collector:
        assert collector.deliver(app.lines).accepted == 1
        assert collector.store == ("s3://audit/ledgers, WORM, COMPLIANCE for 400d", True)
    with Collector(settings(tmp_path, gateway)) as collector:
        app.requests(600)
        assert collector.deliver(app.lines).duplicates == 1
        assert admitted(collector, app.stream) == app.lines
        check(collector)
    assert not list((tmp_path / "data/log").glob("*/*/tile"))
    assert f"{LOG}tile/entries/001" in gateway.objects


def test_a_bucket_that_keeps_nothing_is_refused_unless_that_is_what_was_asked_for(tmp_path, gateway):
    gateway.ignores = EVERYTHING
    with pytest.raises(StorageError, match="is no WORM store: a key is given once: the server did it all the same"):
        Collector(settings(tmp_path, gateway)).open()
    with Collector(settings(tmp_path, gateway, worm=False)) as collector:
        collector.deliver(App().lines)
        assert collector.store == ("s3://audit/ledgers, not WORM", False)
        assert b"audit_store_worm 0.0" in collector.exposition()
        check(collector)


def test_readyz_and_metrics_say_whether_the_store_is_worm(tmp_path, gateway):
    with TestClient(create_app(Collector(settings(tmp_path, gateway)))) as client:
        assert client.get("/readyz").json() == {
            "status": "ready",
            "store": "s3://audit/ledgers, WORM, COMPLIANCE for 400d",
            "worm": True,
        }
        assert "audit_store_worm 1.0" in client.get("/metrics").text
        assert "audit_store_strange 0.0" in client.get("/metrics").text
        gateway.delete(f"{LOG}tile/0/000.p/1", None)
        gateway.put(f"{LOG}tile/0/000.p/1", b"forged" * 6, {})
        assert client.get(f"/log/default/{PERIOD}/tile/0/000.p/1").content != b"forged" * 6
        assert "audit_store_strange 1.0" in client.get("/metrics").text


@pytest.mark.parametrize("fault", ["500", "lost", "answer lost"])
def test_a_store_that_goes_away_ends_no_collector_and_loses_no_line(tmp_path, gateway, fault):
    app = App()
    with Collector(settings(tmp_path, gateway, attempts=1)) as collector:
        collector.deliver(app.lines)
        gateway.fault = fault
        app.requests(300)
        with pytest.raises(Problem, match="how far it came") as refused:
            collector.deliver(app.lines)
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "5"})
        wait_until(lambda: collector.state == "recovering")
        with pytest.raises(Problem, match="the store takes nothing now: cannot") as refused:
            collector.deliver(app.lines)
        assert refused.value.kind == "collector-recovering"
        gateway.fault = None
        wait_until(lambda: collector.state == "ready")
        answer = collector.deliver(app.lines)
        assert answer.accepted + answer.duplicates == len(app.lines)
        assert admitted(collector, app.stream) == app.lines
        check(collector)


def test_readers_hear_that_the_store_is_away_and_the_checkpoint_stays(tmp_path, gateway):
    with TestClient(create_app(Collector(settings(tmp_path, gateway, attempts=1)))) as client:
        gateway.fault = "500"
        answer = client.get(f"/log/default/{PERIOD}/tile/0/000.p/1")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:audit-ready:problem:store-unavailable")
        assert client.get(f"/log/default/{PERIOD}/checkpoint").status_code == 200
        assert client.get("/v1/records").status_code == 503
        gateway.fault = None
        assert client.get(f"/log/default/{PERIOD}/tile/0/000.p/1").status_code == 200


def test_a_beat_that_finds_the_store_away_is_not_the_end_either(tmp_path, gateway):
    limits = Limits(beat_seconds=0.05, idle_beat_seconds=0.05)
    with Collector(settings(tmp_path, gateway, limits=limits, attempts=1)) as collector:
        gateway.fault = "500"
        wait_until(lambda: collector.state == "recovering")
        gateway.fault = None
        wait_until(lambda: collector.state == "ready")
        wait_until(lambda: own_lines(collector, "beat"))


def test_closing_while_the_store_is_away_ends_in_time_and_the_next_start_goes_on(tmp_path, gateway):
    app = App()
    collector = Collector(settings(tmp_path, gateway, attempts=1)).open()
    gateway.fault = "500"
    with pytest.raises(Problem):
        collector.deliver(app.lines)
    wait_until(lambda: collector.state == "recovering")
    collector.close()
    with pytest.raises(StorageError, match="500 InternalError"):
        Collector(settings(tmp_path, gateway, attempts=1)).open()
    gateway.fault = None
    with Collector(settings(tmp_path, gateway)) as again:
        again.deliver(app.lines)
        assert admitted(again, app.stream) == app.lines


@pytest.mark.parametrize("seed", range(6))
def test_under_faults_at_any_request_each_line_is_there_once_and_everything_verifies(tmp_path, gateway, seed):
    chance = random.Random(seed)
    apps = [App() for _ in range(3)]
    with Collector(settings(tmp_path, gateway, attempts=1)) as collector:
        for _ in range(12):
            app = chance.choice(apps)
            app.requests(chance.randrange(1, 200))
            faults = ["500", "503", "lost", "answer lost", None, None, None, None]
            gateway.faults.extend(chance.choices(faults, k=chance.randrange(20)))
            deliver_until_taken(collector, app.lines[-250:] if chance.random() < 0.5 else app.lines)
        gateway.faults.clear()
        for app in apps:
            deliver_until_taken(collector, app.lines)
            assert admitted(collector, app.stream) == app.lines
        check(collector)
    assert all(len(versions) == 1 for versions in gateway.objects.values())
    with Collector(settings(tmp_path, gateway)) as again:
        check(again)


def test_other_bytes_under_a_key_that_comes_next_stop_the_collector_for_good(tmp_path, gateway):
    with Collector(settings(tmp_path, gateway)) as collector:
        gateway.put(f"{LOG}tile/entries/000.p/3", b"somebody was here first", {})
        with pytest.raises(Problem):
            collector.deliver(App().lines)
        wait_until(lambda: collector.state == "failed")
        assert "holds other bytes, and is never replaced" in collector.reason


def test_what_an_insider_removed_is_named_and_stops_a_recovery(tmp_path, gateway):
    with Collector(settings(tmp_path, gateway, attempts=1)) as collector:
        app = App()
        app.requests(20)
        collector.deliver(app.lines)
        size = next(iter(collector.logs)).ledger.size
        gateway.objects.pop(f"{LOG}tile/0/000.p/{size}")
        gateway.faults.append("500")
        with pytest.raises(Problem):
            collector.deliver([app.request()])
        wait_until(lambda: collector.state == "failed")
        assert f"tile/0/000.p/{size}: is missing" in collector.reason


def test_the_last_partial_tiles_get_the_whole_retention_when_a_ledger_is_closed_opened_or_ended(tmp_path, gateway):
    def years(path):
        return {key: versions[0].until.year for key, versions in gateway.objects.items() if f"/{path}/tile" in key}

    soon = time.gmtime(time.time() + 2 * 86_400).tm_year
    with Collector(settings(tmp_path, gateway, retain="20y")) as collector:
        collector.deliver(App().lines)
        assert set(years(PERIOD).values()) == {soon}
        collector._open.desk.clock = lambda: time.time() + 80 * 366 * 86_400
        collector.deliver(App().lines)
        ended = {key.rpartition("/")[2]: year for key, year in years(PERIOD).items() if "/0/" in key}
        assert max(ended, key=int) in {name for name, year in ended.items() if year >= soon + 19}
        assert min(ended.values()) == soon
        (new,) = {log.path for log in collector.logs} - {f"default/{PERIOD}"}
        assert set(years(new.partition("/")[2]).values()) == {soon}
    after = years(new.partition("/")[2])
    newest = max((key for key in after if "/0/000.p/" in key), key=lambda key: int(key.rpartition("/")[2]))
    assert after[newest] >= soon + 19


def test_only_what_is_superseded_is_tagged_so_that_a_lifecycle_rule_takes_nothing_that_is_needed(tmp_path, gateway):
    app = App()
    with Collector(settings(tmp_path, gateway)) as collector:
        for _ in range(12):
            app.requests(70)
            collector.deliver(app.lines)
        path = next(iter(collector.logs)).path
    passing = [key for key, versions in gateway.objects.items() if versions[0].tags and path in key]
    assert len(passing) > 10
    assert all(".p/" in key for key in passing)
    for key in passing:  # as the rule does once their locks have passed
        del gateway.objects[key]
    with Collector(settings(tmp_path, gateway)) as again:
        check(again)
        assert admitted(again, app.stream) == app.lines


def test_a_log_does_not_move(tmp_path, gateway):
    with Collector(settings_for(tmp_path / "files")):
        pass
    with pytest.raises(ConfigurationError, match="in that folder, \\[store\\] names s3://audit/ledgers"):
        Collector(settings(tmp_path / "files", gateway)).open()
    with Collector(settings(tmp_path / "s3", gateway)):
        pass
    with pytest.raises(ConfigurationError, match="are in s3://audit/ledgers"):
        Collector(settings_for(tmp_path / "s3")).open()
    with pytest.raises(ConfigurationError, match="names s3://other/ledgers"):
        Collector(settings(tmp_path / "s3", gateway, bucket="other")).open()


@pytest.mark.parametrize("command", [["verify", "{data}"], ["search", "--data", "{data}"]])
def test_reading_the_folder_says_where_the_tiles_are_instead_of_calling_them_missing(tmp_path, gateway, command):
    with Collector(settings(tmp_path, gateway)):
        pass
    words = [word.format(data=tmp_path / "data") for word in command]
    done = subprocess.run([sys.executable, "-m", "audit_middleware", *words, "--json"], capture_output=True, text=True)
    assert done.returncode == 2, done.stdout
    assert "are in s3://audit/ledgers/audit.test/default/" in json.loads(done.stdout)["error"]


def test_the_index_is_made_again_from_the_bucket(tmp_path, gateway):
    app = App()
    app.requests(300)
    given = settings(tmp_path, gateway)
    with Collector(given) as collector:
        collector.deliver(app.lines)
        size = next(iter(collector.logs)).ledger.size
    done = []
    rebuild_index(given, lambda count, _total: done.append(count))
    assert done[-1] == size + 1  # and the record that it closed
    with Collector(given) as collector:
        assert collector.deliver(app.lines).duplicates == len(app.lines)


def test_a_log_is_locked_until_its_class_expires_and_goes_with_its_lock(tmp_path, gateway):
    """What has expired is tagged; a rule of the bucket takes it once the lock has passed, and a restart finds it so."""
    rules = [RetentionSetting(keep="2y"), RetentionSetting(keep="9y", class_="money", services=["billing"])]
    given = settings_for(tmp_path, store=s3_settings(gateway.endpoint, retain="1d"), retention=rules)
    apps = [App(), App(service="billing")]
    for app in apps:
        app.requests(300)

    def deliver(collector, day, part):
        desk = collector._open.desk
        desk.clock = lambda: datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
        collector.deliver([line for app in apps for line in app.lines[part]])
        desk.clock = time.time

    with Collector(given) as collector:
        deliver(collector, "2023-05-01", slice(0, 280))
        deliver(collector, "2026-11-01", slice(280, None))
        expires = collector.settings.policy.expires("money", "2023h1")
        assert gateway.latest("ledgers/audit.test/money/2023h1/tile/entries/000").until == expires
        retention = collector.retention
        gone = retention.apply(retention.plan().id, "ann")
        assert [item.origin for item in gone] == ["audit.test/default/2023h1"]
    prefix = "ledgers/audit.test/default/2023h1/tile/"
    tags = {key: gateway.latest(key).tags for key in gateway.objects if key.startswith(prefix)}
    assert tags[f"{prefix}entries/000"] == tags[f"{prefix}0/000"] == "audit-ready=expired"
    tagged = [key for key, tag in tags.items() if tag in {"audit-ready=expired", "audit-ready=passing"}]
    for key in tagged:
        del gateway.objects[key]
    with Collector(given) as collector:
        check(collector)
        assert [log.path for log in collector.logs.finished.values()] == ["default/2023h1"]
        with TestClient(create_app(collector)) as client:
            assert client.get("/log/default/2023h1/expired").status_code == 200


def test_a_bucket_that_stops_being_worm_is_a_finding(tmp_path, gateway, monkeypatch):
    monkeypatch.setattr(stores, "ASK_SECONDS", 0.0)
    with Collector(settings(tmp_path, gateway)) as collector:
        collector.deliver(App().lines)
        log = collector.logs.by_origin(f"audit.test/default/{PERIOD}")
        assert log.store.worm_failure() is None
        gateway.ignores = EVERYTHING
        assert "is no WORM store" in log.store.worm_failure()
        gateway.fault = "500"
        assert "is no WORM store" in log.store.worm_failure()  # no answer is no change
        gateway.fault, gateway.ignores = None, frozenset()
        assert log.store.worm_failure() is None
        collector.monitoring.patroller._ask_stores()
        gateway.ignores = EVERYTHING
        collector.monitoring.patroller._ask_stores()
        wait_until(lambda: [each.kind for each in collector.findings() if each.kind == "worm"])
        gateway.ignores = frozenset()
        collector.monitoring.patroller._ask_stores()
        wait_until(lambda: [each.state for each in collector.findings() if each.kind == "worm"] == ["resolved"])


def test_what_is_held_is_held_by_the_bucket_too(tmp_path, gateway):
    given = settings_for(tmp_path, store=s3_settings(gateway.endpoint, retain="1d"))
    held = Held("audit-collector", "c-1", "placed", "litigation", "ann", services=["orders"])
    app = App()
    app.requests(5)

    def states(path):
        return {
            each[-1].is_held for key, each in gateway.objects.items() if key.startswith(f"ledgers/audit.test/{path}")
        }

    with Collector(given) as collector:
        collector.deliver(app.lines[:3])
        collector.retention.place(held)
        assert states("default/") == {True}
        collector.deliver(app.lines[3:])
        assert states("default/") == {True}  # what came after the hold, too
    with Collector(given) as collector:
        wait_until(lambda: collector.retention._mirrored.get(f"default/{PERIOD}"))
        collector.deliver(App().lines)
        assert states("default/") == {True}
        collector.retention.release("c-1", "ann", "settled")
        assert states("default/") == {True}
        collector.retention.release("c-1", "bob", "settled")
        assert states("default/") == {False}
