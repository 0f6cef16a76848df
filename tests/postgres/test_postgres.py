"""The index in PostgreSQL, for one collector: what SQLite answers, it answers; nothing is lost when it is away."""

import time

import psycopg
import pytest

from audit_middleware.collector.collector import Collector
from audit_middleware.collector.postgres.schema import MIGRATIONS, migrate
from audit_middleware.collector.problems import Problem
from audit_middleware.collector.query import parse_query
from audit_middleware.errors import ConfigurationError, StorageError
from tests.collector.kit import App, admitted, own_lines, settings_for

pytestmark = pytest.mark.postgres


def pages(collector, **parameters):
    """Every record a search finds, newest first, over all pages."""
    found, cursor = [], None
    while True:
        items = {**parameters, "limit": "40"} | ({"cursor": cursor} if cursor else {})
        page = collector.reader.search(parse_query(items.items()))
        found += [bytes(each.record) for each in page.records]
        cursor = page.next
        if cursor is None:
            return found


def deliver_when_ready(collector, lines, seconds=40):
    """What a shipper does: ask again until it is taken."""
    for _ in range(seconds * 5):
        try:
            return collector.deliver(lines)
        except Problem as problem:
            last = problem
            time.sleep(0.2)
    raise last


QUERIES = (
    {"service": "orders"},
    {"principal": "alice", "from": "2026-11-23T07:00:30Z", "to": "2026-11-23T07:01:30Z"},
    {"action": "orders.refund", "outcome": "failure"},
    {"resource": "order:42"},
    {"resource": "43"},
    {"type": "open", "service": "orders"},
    {"principal": "a\0b"},
    {"principal": "x" * 3000},
)


def test_it_answers_what_sqlite_answers(shared, tmp_path):
    app = App()
    for number in range(120):
        resource = {"type": "order", "id": str(42 + number % 3)}
        app.request(outcome="failure" if number % 5 else "success", resource=resource)
    for name in ("a\0b", "x" * 3000, "x" * 2999 + "y"):
        app.request(principal={"id": name, "type": "user", "auth": "bearer"})
    answers = []
    for settings in (shared.settings(), settings_for(tmp_path / "sqlite")):
        with Collector(settings) as collector:
            assert collector.deliver(app.lines).accepted == len(app.lines)
            assert collector.deliver(app.lines[5:9]).duplicates == 4
            asked = [*QUERIES, {"stream": app.stream}, {"request_id": "none"}]
            answers.append([pages(collector, **query) for query in asked])
    assert answers[0] == answers[1]
    assert all(answers[0][:-1])
    assert answers[0][-1] == []


def test_a_stream_goes_on_after_a_restart_and_gaps_are_filled(shared):
    app = App()
    app.requests(20)
    with Collector(shared.settings()) as collector:
        collector.deliver(app.lines[:5] + app.lines[10:12])
    with Collector(shared.settings()) as collector:
        assert collector.deliver(app.lines[5:]).duplicates == 2
        assert sorted(admitted(collector, app.stream)) == sorted(app.lines)
        assert [found["rec"]["state"] for found in own_lines(collector, "gap")] == ["open", "filled"]


def test_another_line_for_a_place_is_a_conflict(shared):
    app = App()
    app.requests(3)
    other = app.seal("request", b'{"other":true}')
    last = app.request()
    with Collector(shared.settings()) as collector:
        assert collector.deliver(app.lines).accepted == 5
        assert last != other
    with Collector(shared.settings()) as collector:
        (refused,) = collector.deliver([other]).quarantined
        assert refused.reason == "conflict"


def test_an_index_made_anew_is_filled_from_the_ledger(shared):
    app = App()
    app.requests(50)
    app.say("request", {})  # set aside behind a good seal
    app.requests(3)
    with Collector(shared.settings()) as collector:
        collector.deliver(app.lines)
        before = pages(collector, service="orders")
        state = collector._open.index.load_stream(app.stream)[2:]
    assert migrate(shared.dsn(), anew=True) == len(MIGRATIONS)
    with Collector(shared.settings()) as collector:
        assert pages(collector, service="orders") == before
        assert collector._open.index.load_stream(app.stream)[2:] == state
        assert collector.deliver(app.lines[:50]).duplicates == 50


def test_postgres_restarted_between_and_under_deliveries_loses_nothing(shared):
    app = App()
    app.requests(60)
    with Collector(shared.settings()) as collector:
        collector.deliver(app.lines[:20])
        for start in (20, 40):
            shared.server.stop()
            with pytest.raises(Problem) as refused:
                collector.deliver(app.lines[start : start + 20])
            assert refused.value.status == 503
            with pytest.raises(Problem) as refused:
                pages(collector)
            assert refused.value.status == 503
            shared.server.start()
            deliver_when_ready(collector, app.lines[start : start + 21])
        assert admitted(collector, app.stream) == app.lines
        assert pages(collector, stream=app.stream) == app.lines[::-1]
        own = [(line["stream"], line["seq"]) for line in own_lines(collector)]
        assert own == [(own[0][0], seq) for seq in range(len(own))]  # no outage begins a stream


def test_started_while_postgres_is_away_it_says_what_it_waits_for_and_goes_on(shared):
    app = App()
    app.requests(5)
    shared.server.stop()
    try:
        collector = Collector(shared.settings()).open()
    finally:
        shared.server.start()
    with collector:
        assert collector.state == "recovering"
        assert "is away" in collector.reason
        with pytest.raises(Problem) as refused:
            collector.deliver(app.lines)
        assert refused.value.status == 503
        assert deliver_when_ready(collector, app.lines).accepted == 6
        assert pages(collector, stream=app.stream) == app.lines[::-1]


def test_stopped_while_it_waits_for_postgres_it_ends(shared):
    shared.server.stop()
    try:
        Collector(shared.settings()).open().close()
    finally:
        shared.server.start()


def test_lost_between_ledger_and_index_the_commit_is_finished_from_the_ledger(shared, monkeypatch):
    app = App()
    app.requests(10)
    with Collector(shared.settings()) as collector:
        collector.deliver(app.lines[:3])
        index = collector._open.index
        put = index.put

        def cut(*batches):
            index._connection.close()
            put(*batches)

        monkeypatch.setattr(index, "put", cut)
        with pytest.raises(Problem):
            collector.deliver(app.lines[3:])
        monkeypatch.undo()
        assert deliver_when_ready(collector, app.lines[3:]).duplicates == 8
        assert admitted(collector, app.stream) == app.lines
        assert pages(collector, stream=app.stream) == app.lines[::-1]


REFUSED = (
    "UPDATE records SET line = ''",
    "DELETE FROM records",
    "TRUNCATE records",
    "UPDATE places SET leaf = ''",
    "DELETE FROM places",
    "TRUNCATE places",
    "DELETE FROM asides",
    "DELETE FROM streams",
    "TRUNCATE streams CASCADE",
    "DELETE FROM logs",
    "UPDATE streams SET next = next - 1",
    "ALTER TABLE places DISABLE TRIGGER ALL",
    "SET session_replication_role = replica",
    "DROP TABLE records",
    "CREATE TABLE audit_ready.more (a int)",
)


@pytest.mark.parametrize("statement", REFUSED)
@pytest.mark.parametrize("user", ["collector", "auditor"])
def test_what_is_in_the_index_stays_as_it_is(server, kept, user, statement):
    with psycopg.connect(kept.dsn(user), autocommit=True) as connection:
        connection.execute("SET search_path = audit_ready")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


@pytest.fixture(scope="module")
def kept(server, tmp_path_factory):
    from tests.postgres.conftest import Shared

    shared = Shared(server, tmp_path_factory.mktemp("kept"))
    app = App()
    app.requests(5)
    with Collector(shared.settings()) as collector:
        collector.deliver(app.lines)
    return shared


@pytest.mark.parametrize("statement", [each for each in REFUSED[:9] if "DISABLE" not in each])
def test_triggers_stop_a_superuser_who_does_not_turn_them_off(kept, statement):
    with psycopg.connect(kept.dsn(), autocommit=True) as connection:
        connection.execute("SET search_path = audit_ready")
        if statement == "DELETE FROM asides":
            assert connection.execute("SELECT count(*) FROM asides").fetchone() == (0,)
            return
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE streams SET next = next + 5",
        "UPDATE streams SET service = 'billing' WHERE service = 'orders'",
        "UPDATE places SET leaf = sha256('x')",
    ],
)
def test_a_superuser_who_edits_the_index_is_found_and_the_ledger_makes_it_again(shared, edit):
    app = App()
    app.requests(5)
    with Collector(shared.settings()) as collector:
        collector.deliver(app.lines)
        before = pages(collector, stream=app.stream)
    with psycopg.connect(shared.dsn(), autocommit=True) as connection:
        connection.execute("SET search_path = audit_ready; SET session_replication_role = replica")
        connection.execute(edit)
    try:
        with Collector(shared.settings()) as collector:
            with pytest.raises(Problem):
                collector.deliver(app.lines)
            said = collector.reason
    except StorageError as error:
        said = str(error)
    assert "migrate --anew" in said
    migrate(shared.dsn(), anew=True)
    with Collector(shared.settings()) as collector:
        assert pages(collector, stream=app.stream) == before
        assert collector.deliver(app.lines).duplicates == 6
        assert own_lines(collector, "quarantine") == []


def test_two_collectors_of_one_name_are_refused(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "audit_middleware.collector.postgres.link._SESSION",
        ("SET search_path = audit_ready", "SET lock_timeout = '1s'"),
    )
    with Collector(shared.settings()):
        other = settings_for(tmp_path / "other", name="one.test", index=shared.index)
        with pytest.raises(StorageError, match=r"another collector named one\.test"):
            Collector(other).open()


def test_tables_of_another_release_are_named(shared):
    with psycopg.connect(shared.dsn(), autocommit=True) as connection:
        connection.execute("UPDATE audit_ready.version SET number = 99")
    with pytest.raises(StorageError, match="audit-ready index migrate"):
        Collector(shared.settings()).open()
    with pytest.raises(ConfigurationError, match="version 99"):
        migrate(shared.dsn())


def test_migrating_again_changes_nothing(shared):
    assert migrate(shared.dsn()) == 0
