"""Several collectors on one index: a stream may move between them at any moment, and nothing is admitted twice."""

import json
import threading

import psycopg
import pytest

from audit_middleware.collector.collector import Collector
from audit_middleware.collector.postgres.index import PostgresIndex
from audit_middleware.collector.postgres.schema import migrate
from audit_middleware.errors import StoreUnavailable
from tests.collector.kit import App, admitted, name_of, own_lines
from tests.postgres.test_postgres import deliver_when_ready, pages

pytestmark = pytest.mark.postgres


@pytest.fixture
def two(shared):
    with Collector(shared.settings("one")) as one, Collector(shared.settings("two")) as two:
        yield one, two


def test_a_stream_moves_from_one_to_the_other_and_back(two):
    app = App()
    app.requests(59)
    for turn, start in enumerate(range(0, 60, 10)):
        answer = two[turn % 2].deliver(app.lines[start : start + 10])
        assert (answer.accepted, answer.quarantined) == (10, [])
    for collector in two:
        assert collector.deliver(app.lines).duplicates == 60
        assert pages(collector, stream=app.stream) == app.lines[::-1]
        assert own_lines(collector, "gap") == []
    assert [len(admitted(each, app.stream)) for each in two] == [30, 30]


def test_a_gap_is_filled_by_whoever_gets_the_late_lines(two):
    one, other = two
    app = App()
    app.requests(9)
    one.deliver(app.lines[:3] + app.lines[6:])
    assert other.deliver(app.lines[3:6]).accepted == 3
    assert [found["rec"]["state"] for found in own_lines(one, "gap")] == ["open"]
    assert [found["rec"]["state"] for found in own_lines(other, "gap")] == ["filled"]


def test_another_line_for_a_place_of_the_other_is_a_conflict(two):
    one, other = two
    app = App()
    forged = app.seal("request", json.loads(App().request())["rec"] | {"action": "other"})
    app.requests(2)
    one.deliver(app.lines)
    (refused,) = other.deliver([forged]).quarantined
    assert refused.reason == "conflict"
    (found,) = own_lines(other, "conflict")
    assert (found["rec"]["kept"], found["rec"]["other"]) == (name_of(app.lines[1]), name_of(forged))


def test_the_same_lines_at_both_at_once_are_admitted_once(two):
    apps = [App() for _ in range(6)]
    for app in apps:
        app.requests(40)
    failures = []

    def deliver(collector, order):
        try:
            for start in range(0, 41, 5):
                for app in order:
                    assert collector.deliver(app.lines[start : start + 5]).quarantined == []
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=deliver, args=(collector, order)) for collector in two for order in (apps, apps[::-1])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for app in apps:
        lines = [line for collector in two for line in admitted(collector, app.stream)]
        assert sorted(lines) == sorted(app.lines)
        assert pages(two[0], stream=app.stream) == app.lines[::-1]
    assert [own_lines(collector, "gap") for collector in two] == [[], []]


def test_a_commit_of_very_many_streams_keeps_others_off_as_well(two, monkeypatch):
    monkeypatch.setattr("audit_middleware.collector.postgres.locks.MANY", 2)
    test_the_same_lines_at_both_at_once_are_admitted_once(two)


def die_between_ledger_and_index(settings, lines, monkeypatch):
    """What kill -9 leaves there: the lines are in the ledger, and the index never hears of them."""

    def never(*_):
        raise StoreUnavailable("killed")

    with Collector(settings) as collector:
        monkeypatch.setattr(PostgresIndex, "put", never)
        collector.submit(lines, *_open_door())
        while collector.state == "ready":
            pass
    monkeypatch.undo()


def _open_door():
    from audit_middleware.collector.auth import OPEN_DOOR

    return OPEN_DOOR, {}


def test_lines_that_a_dead_collector_had_and_another_took_are_copies(shared, monkeypatch):
    app = App()
    app.requests(9)
    die_between_ledger_and_index(shared.settings("one"), app.lines[:6], monkeypatch)
    with Collector(shared.settings("two")) as two:
        assert two.deliver(app.lines).accepted == 10
        with Collector(shared.settings("one")) as one:
            assert len(admitted(one, app.stream)) == 6
            for collector in (one, two):
                assert pages(collector, stream=app.stream) == app.lines[::-1]
                assert own_lines(collector, "conflict") == own_lines(collector, "gap") == []
            assert one.deliver(app.lines).duplicates == 10


def test_other_lines_that_a_dead_collector_had_are_a_conflict_on_record(shared, monkeypatch):
    app = App()
    other = app.seal("request", json.loads(App().request())["rec"] | {"action": "other"})
    app.requests(3)
    die_between_ledger_and_index(shared.settings("one"), [app.lines[0], other], monkeypatch)
    with Collector(shared.settings("two")) as two:
        assert two.deliver(app.lines).accepted == 4
    for _ in range(2):
        with Collector(shared.settings("one")) as one:
            (found,) = own_lines(one, "conflict")
            assert (found["rec"]["kept"], found["rec"]["other"]) == (name_of(app.lines[1]), name_of(other))


def test_an_index_made_anew_is_filled_by_both_in_any_order(shared):
    app = App()
    app.requests(30)
    with Collector(shared.settings("one")) as one, Collector(shared.settings("two")) as two:
        for turn, start in enumerate(range(0, 31, 10)):
            (one, two)[turn % 2].deliver(app.lines[start : start + 10])
        state = one._open.index.load_stream(app.stream)[2:]
    migrate(shared.dsn(), anew=True)
    with Collector(shared.settings("two")) as two, Collector(shared.settings("one")) as one:
        assert one._open.index.load_stream(app.stream)[2:] == state
        assert pages(one, stream=app.stream) == pages(two, stream=app.stream) == app.lines[::-1]


def test_postgres_restarted_under_two_collectors_loses_nothing(shared, two):
    app = App()
    app.requests(40)
    for turn, start in enumerate(range(0, 41, 8)):
        deliver_when_ready(two[turn % 2], app.lines[start : start + 8])
        if turn == 2:
            shared.server.stop()
            shared.server.start()
    assert pages(two[0], stream=app.stream) == app.lines[::-1]
    lines = [line for collector in two for line in admitted(collector, app.stream)]
    assert sorted(lines) == sorted(app.lines)


def test_a_log_that_expired_takes_its_rows_along_and_no_others(shared, two):
    one, other = two
    app, stays = App(), App()
    app.requests(9)
    stays.requests(9)
    one.deliver(app.lines)
    other.deliver(stays.lines)
    index = one._open.index
    (log,) = [log for log in one.logs if log.ledger.size]
    index.forget(log.origin)
    assert pages(other, stream=app.stream) == []
    assert (index.locate(app.stream, 3), index.load_stream(app.stream).next) == (None, 10)
    assert pages(one, stream=stays.stream) == stays.lines[::-1]
    with psycopg.connect(shared.dsn()) as connection:
        parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit_ready.records'::regclass"
        assert connection.execute(parts).fetchone() == (1,)
