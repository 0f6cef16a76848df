"""A collector listens while it commits what is delivered: whose lines wait for a commit that hangs is not silent."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from audit_middleware.collector import committer as committing
from audit_middleware.collector.auth import OPEN_DOOR
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.committer import SLOW_SECONDS, Committer
from audit_middleware.collector.group import Batch
from audit_middleware.collector.index_store import Presence
from audit_middleware.collector.ledger import Ledger
from audit_middleware.collector.limits import Limits
from audit_middleware.collector.monitor.settings import MonitorSettings
from tests.collector.kit import App, settings_for


class Hanging:
    """Work whose commits wait until they are let go, as on a disk that hangs, or for a stream that is held."""

    def __init__(self):
        self.entered, self.go = threading.Event(), threading.Event()

    def start(self):
        pass

    recover = beat = stop = start

    def commit(self, batches):
        self.entered.set()
        self.go.wait(30)
        for batch in batches:
            batch.done.set_result(None)


def wait_until(is_so, within=10.0):
    deadline = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def hanging(stand):
    """The stand's collector as its watch knows it: one whose commit, once begun, hangs until `go` is set."""
    work = Hanging()
    committer = Committer(work, Limits(), clock=lambda: stand.now.mono)
    stand.is_listening = lambda: committer.is_keeping_up
    committer.start()
    assert committer.wait_until_ready(10)
    work.committer = committer
    yield work
    work.go.set()
    committer.close()


def begin(hanging):
    hanging.committer.submit(Batch([b"1"], OPEN_DOOR))
    assert hanging.entered.wait(10)


def let_go(hanging):
    hanging.go.set()
    wait_until(lambda: hanging.committer.is_keeping_up)


def test_a_commit_is_waited_for_as_long_as_a_pause_may_last_and_then_nobody_listens(stand, hanging):
    began = stand.now.mono
    begin(hanging)
    stand.pass_seconds(SLOW_SECONDS - 1)
    assert (hanging.committer.is_keeping_up, stand.watch.hearing.listened(stand.now)) == (True, stand.now.mono - began)
    stand.pass_seconds(1)
    assert (hanging.committer.is_keeping_up, stand.watch.hearing.listened(stand.now)) == (False, 0.0)
    let_go(hanging)
    stand.pass_seconds(7)
    assert stand.watch.hearing.listened(stand.now) == 7.0


def test_nobody_is_silent_whose_lines_wait_for_a_commit_and_who_died_meanwhile_is_found_after_it(stand, hanging):
    alive, dead = stand.app(), stand.app(service="dead")
    stand.pass_seconds(60, beating=[alive, dead])
    begin(hanging)
    waiting = []
    for _ in range(12):
        stand.pass_seconds(10)
        waiting.append(alive.beat(deliver=False))
    assert stand.findings() == []
    let_go(hanging)
    stand.deliver(*waiting)
    stand.pass_seconds(44, beating=[alive])
    assert stand.findings() == []
    stand.pass_seconds(3, beating=[alive])
    assert [each.about for each in stand.findings()] == ["service dead"]


def test_who_delivers_to_a_collector_whose_commits_hang_is_not_silent_at_another_one_either(stand):
    app = stand.app()
    hangs_from, until = 11, 56
    waiting = []
    for second in range(1, 200):
        is_hanging = hangs_from <= second < until
        if second % 10 == 0:
            waiting.append(app.beat(deliver=False))
        if waiting and not is_hanging:
            stand.deliver(*waiting)
            waiting = []
        said = min(second, hangs_from + int(SLOW_SECONDS)) if is_hanging else second
        stand.watch.meet({"two.test": Presence(said, False)}, stand.now)
        stand.pass_seconds(1)
        assert [each.about for each in stand.findings(state="open")] in ([], ["collector two.test"])
    assert [(each.about, each.state) for each in stand.findings()] == [("collector two.test", "resolved")]


def test_a_collector_that_is_away_is_found_also_by_one_whose_commits_wait_for_what_it_holds(stand, hanging):
    app = stand.app()
    stand.watch.meet({"two.test": Presence(1, False)}, stand.now)
    stand.pass_seconds(44, beating=[app])
    begin(hanging)
    for _ in range(60):
        stand.watch.meet({"two.test": Presence(1, False)}, stand.now)
        stand.pass_seconds(1)
    assert not hanging.committer.is_keeping_up
    assert stand.watch.peers.are_away
    assert [(each.about, each.state) for each in stand.findings()] == [("collector two.test", "open")]
    stand.watch.meet({"two.test": Presence(2, False)}, stand.now)
    stand.pass_seconds(1)
    assert [(each.about, each.state) for each in stand.findings()] == [("collector two.test", "resolved")]


def test_with_a_real_store_that_hangs_at_a_commit_nobody_is_called_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(committing, "SLOW_SECONDS", 0.3)
    app, go, append = App(), threading.Event(), Ledger.append
    monitor = MonitorSettings(silence_seconds=2.5, settle_seconds=1.0, unclosed_seconds=60)
    with Collector(settings_for(tmp_path, monitor=monitor)) as collector, ThreadPoolExecutor() as shipper:
        wait_until(lambda: collector.monitoring.watcher.is_ready)
        collector.deliver(app.lines)

        def hangs(*args):
            go.wait(30)
            return append(*args)

        with monkeypatch.context() as store:
            store.setattr(Ledger, "append", hangs)
            delivery = shipper.submit(collector.deliver, [app.request()])
            time.sleep(5.5)
            assert collector.state == "ready"
            assert not collector.monitoring.is_alive()
            go.set()
            assert delivery.result(10).accepted == 1
        wait_until(collector.monitoring.is_alive)
        time.sleep(1.2)
        assert [each for each in collector.findings() if each.kind == "silence"] == []
        wait_until(lambda: [each for each in collector.findings() if each.kind == "silence"])  # now it is so
