"""A collector that its store takes nothing from for a while lives on: it goes on with its own stream, on record."""

import errno
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

from audit_middleware.cli.ledgers import Trust, folder_target
from audit_middleware.collector import committer
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.limits import Limits
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.query import parse_query
from audit_middleware.collector.retention.policy import RetentionSetting
from audit_middleware.collector.storage.durable import Durable
from audit_middleware.errors import StoreFull
from audit_middleware.verify import verify_logs
from tests.collector.kit import KEYRING, App, admitted, own_lines, settings_for

CALLS = ("create", "write", "sync", "link", "rename", "sync_folder")
WATCHED = MonitorSettings(patrol_bytes=10_000_000)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(committer, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(committer, "LONGEST_PAUSE", 0.02)


def wait_until(is_so, within=20):
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def full_disk(monkeypatch, call, number, *, done):
    """From the ``number``-th ``call`` on there is no room: not carried out, or carried out and failed all the same."""
    real, asked = getattr(Durable, call), []

    def fails(self, *args):
        asked.append(call)
        if len(asked) < number:
            return real(self, *args)
        if done and len(asked) == number:
            real(self, *args)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(Durable, call, fails)
        yield


@contextmanager
def outage(monkeypatch):
    """Nothing is taken at all; what was being committed never began."""

    def fails(*_):
        raise StoreFull("no space left")

    with monkeypatch.context() as store:
        store.setattr(Ledger, "append", fails)
        yield


def suffer(collector, app):
    """Deliver what the store does not take, as a shipper does."""
    with pytest.raises(Problem) as refused:
        collector.deliver([app.request()])
    assert refused.value.status == 503
    wait_until(lambda: collector.state == "recovering")


def own_places(collector):
    return [(line["stream"], line["seq"]) for line in own_lines(collector)]


def require_one_own_stream(collector, lives=1):
    """Each number once and none left out, in one stream for each life of the process."""
    places = own_places(collector)
    streams = dict.fromkeys(stream for stream, _ in places)
    assert len(streams) == len(own_lines(collector, "open")) == lives
    for stream in streams:
        numbers = sorted(seq for name, seq in places if name == stream)
        assert numbers == list(range(len(numbers)))


def verify(settings):
    found = folder_target(settings.data, Trust.parse([], []), [])
    return verify_logs(found.logs, KEYRING, scope=found.scope)


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("call", CALLS)
def test_wherever_the_disk_was_full_the_stream_goes_on_and_each_number_is_there_once(
    tmp_path, monkeypatch, call, number, done
):
    settings, app = settings_for(tmp_path), App()
    with Collector(settings) as collector:
        collector.deliver(app.lines)
        with full_disk(monkeypatch, call, number, done=done):
            suffer(collector, app)
        wait_until(lambda: collector.state == "ready")
        answer = collector.deliver(app.lines)
        assert answer.accepted + answer.duplicates == len(app.lines)
        assert admitted(collector, app.stream) == app.lines
        require_one_own_stream(collector)
    report = verify(settings)
    assert (report.exit_code, {finding.rule for finding in report.findings}) == (0, {"unclosed"})
    assert {finding.stream for finding in report.findings} == {app.stream}


def test_outage_after_outage_is_no_finding_and_each_ends_with_a_beat_that_goes_on_counting(tmp_path, monkeypatch):
    app = App()
    with Collector(settings_for(tmp_path, monitor=WATCHED)) as collector:
        collector.deliver(app.lines)
        for number in range(3):
            with outage(monkeypatch):
                suffer(collector, app)
            wait_until(lambda: collector.state == "ready")
            assert len(own_lines(collector, "beat")) == number + 1
            collector.deliver(app.lines)
        require_one_own_stream(collector)
        beats = [line["rec"]["seen"] for line in own_lines(collector, "beat")]
        assert beats == [1, 3, 6]
        wait_until(lambda: collector.monitoring.watcher.is_ready)
        assert [each.kind for each in collector.findings() if each.kind == "unclosed"] == []


def test_a_collector_whose_first_line_was_not_taken_opens_its_stream_when_it_is(tmp_path, monkeypatch):
    settings = settings_for(tmp_path)
    with Collector(settings):
        pass
    with outage(monkeypatch):
        collector = Collector(settings).open()
        assert collector.state == "recovering"
    with collector:
        wait_until(lambda: collector.state == "ready")
        first, second = own_lines(collector, "open")
        assert second["rec"]["previous"]["stream"] == first["stream"]
        assert second["rec"]["previous"]["closed"]
    assert verify(settings).findings == []


def test_one_that_recovered_and_is_killed_then_is_named_by_its_next_life(tmp_path, monkeypatch):
    app = App()
    with Collector(settings_for(tmp_path / "first")) as collector:
        collector.deliver(app.lines)
        with outage(monkeypatch):
            suffer(collector, app)
        wait_until(lambda: collector.state == "ready")
        collector.deliver(app.lines)
        collector._open.index.flush()
        ((stream, reached),) = own_places(collector)[-1:]
        shutil.copytree(tmp_path / "first", tmp_path / "killed")  # what a kill leaves
    with Collector(settings_for(tmp_path / "killed", monitor=WATCHED)) as again:
        wait_until(lambda: again.monitoring.watcher.is_ready)

        def unclosed():
            return [each for each in again.findings() if each.kind == "unclosed"]

        wait_until(unclosed)
        (found,) = unclosed()
        assert (found.stream, found.evidence["reached"]) == (stream, reached)


def test_with_logs_of_several_classes_what_one_of_them_has_is_gone_on_from(tmp_path, monkeypatch):
    keeps = [
        RetentionSetting(class_="default", keep="1y"),
        RetentionSetting(class_="long", keep="10y", services=["billing"]),
    ]
    settings = settings_for(tmp_path, retention=keeps)
    apps = [App(service="orders"), App(service="billing")]
    with Collector(settings) as collector:
        for app in apps:
            collector.deliver(app.lines)
        append, taken = Ledger.append, []

        def second_fails(self, *args):
            if taken:
                raise StoreFull("no space left")
            taken.append(self.origin)
            return append(self, *args)

        with monkeypatch.context() as store:
            store.setattr(Ledger, "append", second_fails)
            with pytest.raises(Problem):
                collector.deliver([app.request() for app in apps])
            wait_until(lambda: collector.state == "recovering")
        wait_until(lambda: collector.state == "ready")
        collector.deliver([line for app in apps for line in app.lines])
        for app in apps:
            assert admitted(collector, app.stream) == app.lines
        require_one_own_stream(collector)
    assert verify(settings).exit_code == 0


@contextmanager
def no_room_for_the_index(collector):
    """SQLite's own limit: not a page more than there is."""
    index = collector._open.index
    index.flush()
    index._writer.execute("PRAGMA max_page_count = 1")
    yield
    index._writer.execute("PRAGMA max_page_count = 1073741823")


def deliver_slowly(collector, lines):
    """Deliver a hundred at a time, each when the last ones are indexed, or could not be."""
    for start in range(0, len(lines), 100):
        collector.deliver(lines[start : start + 100])
        collector._open.index._wait()


def crowd(collector, app):
    """Deliver more than the index has room for."""
    app.requests(400)
    with pytest.raises(Problem) as refused:
        deliver_slowly(collector, app.lines)
    assert refused.value.status == 503


def test_an_index_without_room_takes_nothing_until_there_is_some_and_misses_nothing_then(tmp_path):
    settings, app = settings_for(tmp_path, monitor=WATCHED), App()
    with Collector(settings) as collector:
        collector.deliver(app.lines)
        for _ in range(2):
            with no_room_for_the_index(collector):
                crowd(collector, app)
                wait_until(lambda: collector.state == "recovering")
                reason = collector._open.committer.blocked
                assert "no room for the index" in reason
                assert "database or disk is full" in reason
                time.sleep(0.1)
                assert collector.state == "recovering"
                wait_until(lambda: [each for each in collector.findings() if each.kind == "store"])
            wait_until(lambda: collector.state == "ready")
            answer = collector.deliver(app.lines)
            assert answer.accepted + answer.duplicates == len(app.lines)
            newest = collector.reader.search(parse_query([("service", "orders"), ("limit", "1")]))
            assert [bytes(found.record) for found in newest.records] == app.lines[-1:]
        assert admitted(collector, app.stream) == app.lines
        require_one_own_stream(collector)
        assert [each.kind for each in collector.findings() if each.kind == "unclosed"] == []
    report = verify(settings)
    assert (report.exit_code, {finding.rule for finding in report.findings}) == (0, {"unclosed"})
    with Collector(settings) as again:
        require_one_own_stream(again, lives=2)


@contextmanager
def small_disk(folder):
    mounting = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes the rights to")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_real_disk_that_is_full_and_gets_room_again_leaves_one_stream_and_nothing_to_resolve(tmp_path):
    settings = settings_for(tmp_path, monitor=WATCHED, limits=Limits(beat_seconds=0.1, idle_beat_seconds=0.1))
    with Collector(settings):
        pass
    disk = settings.data / "log"
    shutil.copytree(disk, tmp_path / "log")
    with small_disk(disk):
        shutil.copytree(tmp_path / "log", disk, dirs_exist_ok=True)
        fill_and_empty(settings, disk / "ballast")


def test_a_real_disk_of_the_index_alone_that_is_full_and_gets_room_again_is_gone_on_from(tmp_path):
    settings = settings_for(tmp_path, monitor=WATCHED, limits=Limits(beat_seconds=0.1, idle_beat_seconds=0.1))
    with Collector(settings):
        pass
    disk = tmp_path / "disk"
    disk.mkdir()
    with small_disk(disk):
        settings.data.joinpath("index.sqlite").rename(tmp_path / "index.sqlite")
        shutil.copy(tmp_path / "index.sqlite", disk)
        settings.data.joinpath("index.sqlite").symlink_to(disk / "index.sqlite")
        fill_and_empty(settings, disk / "ballast")


def fill(ballast):
    with open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def fill_and_empty(settings, ballast):
    app = App()
    with Collector(settings) as collector:
        collector.deliver(app.lines)
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                fill(ballast)
            wait_until(lambda: collector.state == "recovering")
            ballast.unlink()
            wait_until(lambda: collector.state == "ready")
            app.request()
            collector.deliver(app.lines)
        require_one_own_stream(collector, lives=2)
        assert [each.kind for each in collector.findings() if each.kind == "unclosed"] == []
    assert verify(settings).exit_code == 0
