"""Coverage of a real collector: over HTTP, at the command line, across restarts and lost memories."""

import json
import time

import pytest
from starlette.testclient import TestClient

from audit_middleware.cli import coverage as cli
from audit_middleware.collector.app import create_app
from audit_middleware.collector.monitor import catching_up, covered
from audit_middleware.collector.monitor.memory import Remembered
from tests.cli.test_findings import CHIEF, Server
from tests.collector.kit import App, own_lines
from tests.collector.monitor.test_matrix import http, inventory, point
from tests.collector.monitor.test_monitoring import CLERK, INGEST, READER, TOKENS, opened, wait_for
from tests.collector.test_http import assert_problem, bearer

EVIL = "/\x1b[31mred\x07/{id}"


def lines_of(service="orders"):
    """An application that declares three routes, is seen at two and at one more."""
    app = App(service=service)
    declared = [
        point("/a"),
        point("/never"),
        point(EVIL),
        point("/h", exempt="a probe"),
        point("/o", exempt="x", until="2020-01-01"),
    ]
    app.say("coverage", inventory(*declared, service=service))
    for route in ("/a", "/a", EVIL, "/new"):
        app.request(**http(route))
    return app.lines


def records_of(collector, route, service="orders"):
    found = collector.coverage().result(5)
    return sum(
        row.records
        for each in found.services
        if each.service == service
        for row in each.entry_points
        if row.route == route
    )


@pytest.fixture
def ask(tmp_path):
    with opened(tmp_path, tokens=TOKENS) as collector:
        collector.deliver(lines_of())
        collector.deliver(lines_of("billing"))
        wait_for(lambda: records_of(collector, "/new", "billing"))
        with TestClient(create_app(collector)) as client:
            yield lambda path, token: client.get(path, headers=bearer(token)), collector


def test_a_collector_without_a_configured_name_says_the_one_it_has(tmp_path):
    with opened(tmp_path, name=None) as collector, TestClient(create_app(collector)) as client:
        wait_for(lambda: client.get("/v1/coverage").status_code == 200)
        (name,) = client.get("/v1/coverage").json()["counted_by"]
        assert name
        assert collector.vkeys[0].startswith(f"{name}/")


def test_the_answer_has_every_service_and_the_worst_first(ask):
    get, collector = ask
    body = get("/v1/coverage", READER).json()
    assert [each["service"] for each in body["services"]] == ["billing", "orders"]
    assert (body["counted_by"], body["uncounted"], body["beyond"]) == (["audit.test"], 0, 0)
    orders = body["services"][1]
    assert orders["states"] == {"undeclared": 1, "expired": 1, "defects": 0, "unseen": 1, "exempt": 1, "audited": 2}
    assert orders["percent"] == 60.0
    first, *_, last = orders["entry_points"]
    assert (first["route"], first["state"], first["component"]) == ("/new", "undeclared", None)
    assert (last["state"], last["records"]) == ("audited", 2)
    assert orders["components"][0].items() >= {"component": "fastapi", "version": "1", "policy": "p1"}.items()
    collector._open.accesses.flush()
    wait_for(lambda: [each for each in own_lines(collector, "access") if each["rec"]["kind"] == "coverage"])


def test_a_reader_of_one_service_sees_no_other(ask):
    get, _ = ask
    assert [each["service"] for each in get("/v1/coverage", CLERK).json()["services"]] == ["billing"]
    assert_problem(get("/v1/coverage?service=orders", CLERK), 403, "service-missing")
    assert_problem(get("/v1/coverage", INGEST), 403, "role-missing")
    assert_problem(get("/v1/coverage?nonsense=1", READER), 400, "bad-parameter")
    assert_problem(get("/v1/coverage?limit=0", READER), 400, "bad-parameter")


def test_an_answer_is_bounded_and_says_what_it_leaves_out(ask):
    get, _ = ask
    billing, orders = get("/v1/coverage?limit=7", READER).json()["services"]
    assert (len(billing["entry_points"]), billing["left_out"]) == (6, 0)
    assert (len(orders["entry_points"]), orders["left_out"]) == (1, 5)


def test_entry_points_are_shown_to_prometheus(ask):
    _, collector = ask
    assert 'audit_coverage_entry_points{service="orders",state="audited"} 2.0' in collector.exposition().decode()


def test_counts_survive_a_restart_and_what_came_meanwhile_is_counted(tmp_path):
    with opened(tmp_path) as collector:
        collector.deliver(lines_of())
        wait_for(lambda: records_of(collector, "/new") == 1)
        since = collector.coverage().result(5).since
        saved = collector.monitoring.watcher._file.load
    with opened(tmp_path) as collector:
        assert (records_of(collector, "/a"), collector.coverage().result(5).since) == (2, since)
        kept = saved()
        collector.deliver(lines_of())
        wait_for(lambda: records_of(collector, "/a") == 4)
        file = collector.monitoring.watcher._file
    file.save(kept)  # as after a kill: the newest lines are in the ledger only
    with opened(tmp_path) as collector:
        assert (records_of(collector, "/a"), records_of(collector, "/new")) == (4, 2)


def test_a_lost_memory_begins_to_count_anew_and_knows_every_inventory(tmp_path):
    with opened(tmp_path) as collector:
        collector.deliver(lines_of())
        wait_for(lambda: records_of(collector, "/new") == 1)
        first = collector.coverage().result(5)
        path = collector.monitoring.watcher._file.path
    path.unlink()
    with opened(tmp_path) as collector:
        found = collector.coverage().result(5)
        assert found.since > first.since
        (orders,) = found.services
        assert orders.states == {"undeclared": 0, "expired": 1, "defects": 0, "unseen": 3, "exempt": 1, "audited": 0}


def test_after_a_long_absence_only_the_newest_records_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(catching_up, "MAX_COUNTED", 300)
    with opened(tmp_path) as collector:
        file = collector.monitoring.watcher._file
        empty = Remembered(sizes={}, state=collector.monitoring.watcher._watching.remember())
        app = App()
        app.requests(900, **http("/a"))
        collector.deliver(app.lines)
        wait_for(lambda: records_of(collector, "/a") == 900)
    file.save(empty)
    with opened(tmp_path) as collector:
        counted, uncounted = records_of(collector, "/a"), collector.coverage().result(5).uncounted
        assert 1 <= counted <= 300
        assert counted + uncounted >= 900


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("collector"))
    for service in ("orders", "\x1b[31mshop"):
        server.deliver(*lines_of(service))
    until = time.monotonic() + 10
    while sum(each["states"]["audited"] for each in answer(server)["services"]) < 4:
        assert time.monotonic() < until
    yield server
    server.end()


def answer(server, *arguments):
    done = server.run("coverage", "--json", *arguments)
    return json.loads(done.stdout) if done.returncode == 0 else {"services": []}


def test_the_command_shows_a_table_for_each_service_and_no_control_bytes(server):
    done = server.run("coverage")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
    assert "orders: 60.0 % (1 undeclared, 1 expired, 1 unseen, 1 exempt, 2 audited)" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["STATE", "KIND", "METHOD", "ROUTE", "RECORDS", "LAST", "SEEN", "REMARKS"] in rows
    assert any(row[:5] == ["audited", "http", "GET", "/a", "2"] for row in rows)
    assert "a probe" in done.stdout
    assert "counted since" in done.stdout


def test_fail_under_is_a_gate(server):
    done = server.run("coverage", "--service", "orders", "--fail-under", "61")
    assert (done.returncode, "orders: 60.0 % is less than 61 %" in done.stderr) == (1, True)
    done = server.run("coverage", "--service", "orders", "--fail-under", "10")
    assert (done.returncode, "1 exemptions have ended" in done.stderr) == (1, True)
    done = server.run("coverage", "--service", "nobody", "--fail-under", "0")
    assert (done.returncode, "nobody declares nothing" in done.stderr) == (1, True)
    assert server.run("coverage", "--fail-under", "101").returncode == 2


def test_what_cannot_be_asked_is_said_in_words(server, tmp_path):
    done = server.run("coverage", token="wrong-token-0123456789")
    assert (done.returncode, "AUDIT_TOKEN" in done.stderr) == (2, True)
    done = server.run("coverage", "--url", "http://127.0.0.1:9")
    assert (done.returncode, "does not answer" in done.stderr) == (2, True)
    off = Server(tmp_path, monitor="off")
    try:
        done = off.run("coverage", token=CHIEF)
        assert (done.returncode, "monitor off" in done.stderr) == (2, True)
    finally:
        off.end()


def test_what_several_collectors_counted_is_added_up(server, tmp_path):
    other = Server(tmp_path)
    try:
        app = App()
        app.request(**http("/never"))
        app.request(**http("/new"))
        other.deliver(*app.lines)
        urls = ("--service", "orders", "--url", server.url, "--url", other.url)
        until = time.monotonic() + 10
        while (found := answer(server, *urls)["services"])[0]["states"]["audited"] != 3:
            assert time.monotonic() < until
    finally:
        other.end()
    (orders,) = found
    assert orders["percent"] == 80.0
    assert {each["route"]: (each["state"], each["records"]) for each in orders["entry_points"]} == {
        "/new": ("undeclared", 2), "/o": ("expired", 0), "/h": ("exempt", 0),
        "/a": ("audited", 2), "/never": ("audited", 1), EVIL: ("audited", 1),
    }  # fmt: skip


def test_states_of_the_command_are_those_of_the_collector():
    assert (cli.WORST_FIRST, cli.COVERED) == (covered.STATES, covered.COVERED)
