"""What collectors hear of each other through PostgreSQL: checked, in time, and one of them watches."""

import time

import psycopg
import pytest

from audit_middleware.collector.collector import Collector
from audit_middleware.collector.index_seal import IndexSeal
from audit_middleware.collector.index_store import Presence
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.postgres import elsewhere
from audit_middleware.collector.postgres.elsewhere import PostgresElsewhere
from audit_middleware.collector.postgres.link import Link
from audit_middleware.collector.postgres.schema import _FIRST, MIGRATIONS, migrate
from audit_middleware.errors import StorageError, StoreUnavailable
from tests.collector.kit import App, own_lines
from tests.collector.monitor.test_matrix import http, inventory, point
from tests.postgres.test_postgres import pages

pytestmark = pytest.mark.postgres
HEARD = 5.0


@pytest.fixture
def monitors(shared):
    """Three collectors in one process, and the transitions that each tells of."""
    names = ("one", "two", "three")
    settings = MonitorSettings(settle_seconds=1.0)
    collectors = [Collector(shared.settings(name, monitor=settings)).open() for name in names]
    told = {}
    for name, collector in zip(names, collectors, strict=True):
        collector.subscribe(lambda transition, name=name: told.setdefault(transition.finding.kind, []).append(name))
    yield collectors, told
    for collector in collectors:
        collector.close()


def wait_for(collector, kind, state):
    until = time.monotonic() + HEARD
    while True:
        try:
            found = [each for each in collector.findings() if (each.kind, each.state) == (kind, state)]
        except Exception:
            found = []
        if found:
            return found[0]
        assert time.monotonic() < until, (kind, state)
        time.sleep(0.1)


def watches(collector):
    return collector.monitoring.watcher._fleet.is_watching


def require_watching(collectors):
    until = time.monotonic() + 10
    while sum(map(watches, collectors)) != 1:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_every_collector_knows_every_inventory_and_one_tells_what_is_newly_exempt(monitors):
    collectors, told = monitors
    require_watching(collectors)
    app = App()
    app.say("coverage", inventory(point("/a"), point("/b")))
    app.request(**http("/a"))
    collectors[0].deliver(app.lines)
    until = time.monotonic() + HEARD
    while not all(each.coverage().result(5).services for each in collectors):
        assert time.monotonic() < until
        time.sleep(0.1)
    app.say("coverage", inventory(point("/a"), point("/b", exempt="x")))
    collectors[1].deliver(app.lines[-1:])
    ids = {wait_for(each, "uncovered", "open").id for each in collectors}
    assert (len(ids), len(told["uncovered"])) == (1, 1)
    time.sleep(1.1)  # an answer may be a second old
    (orders,) = collectors[2].coverage().result(5).services
    assert {row.route: (row.state, row.records) for row in orders.entry_points} == {
        "/a": ("unseen", 0),  # each counts what was delivered to itself
        "/b": ("exempt", 0),
    }


def test_one_of_them_tells_of_a_gap_all_show_it_and_any_may_acknowledge_it(monitors):
    collectors, told = monitors
    require_watching(collectors)
    app = App()
    app.requests(9)
    collectors[0].deliver(app.lines[:3] + app.lines[6:])
    ids = {wait_for(each, "gap", "open").id for each in collectors}
    assert len(ids) == 1
    assert len(told["gap"]) == 1
    collectors[1].decide(*ids, "acknowledged", "ops", "on it").result(5)
    assert {wait_for(each, "gap", "acknowledged").acknowledged_by for each in collectors} == {"ops"}
    collectors[2].deliver(app.lines[3:6])
    for each in collectors:
        assert wait_for(each, "gap", "resolved").resolved_by == "monitor"
    assert [each["rec"]["state"] for collector in collectors for each in own_lines(collector, "review")] == [
        "acknowledged"
    ]


def test_what_is_found_once_is_on_record_once(monitors):
    collectors, told = monitors
    require_watching(collectors)
    app = App()
    app.say("drop", DROP)
    collectors[0].deliver(app.lines)
    for each in collectors:
        wait_for(each, "drop", "open")
    time.sleep(2)
    assert len(told["drop"]) == 1
    said = [each["rec"] for collector in collectors for each in own_lines(collector, "review")]
    assert [(each["kind"], each["state"]) for each in said] == [("drop", "open")]


DROP = {"service": "orders", "first": 1, "last": 3, "count": 3, "reason": "full"}


def test_a_line_changed_in_the_index_is_found_by_those_who_hear_it_there(shared):
    app = App()
    with Collector(shared.settings("one")) as one:
        one.deliver(app.lines)
    with psycopg.connect(shared.dsn(), autocommit=True) as connection:
        connection.execute("SET search_path = audit_ready; SET session_replication_role = replica")
        connection.execute("UPDATE records SET line = replace(line::text, 'x', 'x')::bytea || ' ' WHERE type = 'open'")
    with Collector(shared.settings("two", monitor=MonitorSettings())) as two:
        assert wait_for(two, "tampering", "open").about.startswith("index of one.test/")


def other(shared, name, key="index"):
    seal = IndexSeal(shared.index.key()) if key == "index" else IndexSeal(b"x" * 32)
    return PostgresElsewhere(Link(shared.dsn("collector"), name), seal, name)


def test_one_watches_and_one_that_ends_or_freezes_leaves_it_to_another(shared, monkeypatch):
    monkeypatch.setattr(elsewhere, "_SESSION", "SET idle_session_timeout = '1s'")
    one, two = other(shared, "one"), other(shared, "two")
    assert one.claim(wants=True)
    assert not two.claim(wants=True)
    one.claim(wants=False)
    assert two.claim(wants=True)
    assert not one.claim(wants=True)
    two.close()
    wait_to_watch(one)
    assert not two.claim(wants=True)
    wait_to_watch(two)  # one says nothing more, as if it were stopped
    assert not one.claim(wants=True)
    one.close()
    two.close()


def wait_to_watch(one):
    for _ in range(30):
        if one.claim(wants=True):
            return
        time.sleep(0.1)
    raise AssertionError("somebody else still watches")


def test_who_was_there_is_believed_only_under_its_seal(shared):
    one, two, stranger = other(shared, "one"), other(shared, "two"), other(shared, "three", key="other")
    one.meet(Presence(5, False))
    stranger.meet(Presence(6, False))
    assert two.meet(None) == {"one": Presence(5, False)}
    with psycopg.connect(shared.dsn(), autocommit=True) as connection:
        connection.execute("UPDATE audit_ready.presence SET at = at + 1")
    assert two.meet(None) == {}
    for each in (one, two, stranger):
        each.close()


def test_postgres_that_is_away_is_an_error_and_asked_again_later(shared):
    one = other(shared, "one")
    one.meet(Presence(1, False))
    assert one.claim(wants=True)
    shared.server.stop()
    for ask in (one.logs, lambda: one.claim(wants=True), lambda: one.missing("s")):
        with pytest.raises(StoreUnavailable):
            ask()
    shared.server.start()
    assert one.logs() == []
    assert one.claim(wants=True)
    one.close()


def test_rows_of_a_log_are_dropped_and_moved_only_by_the_login_that_writes_it(shared):
    with psycopg.connect(shared.dsn(), autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'neighbour'").fetchone() is None:
            connection.execute("CREATE ROLE neighbour LOGIN IN ROLE audit_writer")
    app = App()
    with Collector(shared.settings("one")) as one:
        one.deliver(app.lines)
        for statement in ("SELECT forget_log(number) FROM logs", "UPDATE logs SET size = 0"):
            with psycopg.connect(shared.dsn("neighbour"), autocommit=True) as connection:
                connection.execute("SET search_path = audit_ready")
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)
        assert pages(one, stream=app.stream) == app.lines


def test_an_index_of_the_release_before_is_brought_along(shared, monkeypatch):
    app = App()
    app.requests(3)
    monkeypatch.setattr("audit_middleware.collector.postgres.schema.MIGRATIONS", (_FIRST,))
    monkeypatch.setattr("audit_middleware.collector.postgres.index.MIGRATIONS", (_FIRST,))
    migrate(shared.dsn(), anew=True)
    with Collector(shared.settings("one", monitor=MonitorSettings(enabled=False))) as one:
        one.deliver(app.lines)
    monkeypatch.undo()
    with pytest.raises(StorageError, match="audit-ready index migrate"):
        Collector(shared.settings("one")).open()
    assert migrate(shared.dsn()) == len(MIGRATIONS) - 1
    with Collector(shared.settings("one")) as one:
        assert one.deliver(app.lines).duplicates == 4
        assert pages(one, stream=app.stream) == app.lines[::-1]
