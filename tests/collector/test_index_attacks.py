"""Somebody who can write the search index: genuine lines are never refused for it, the index is to be rebuilt."""

import sqlite3
from contextlib import closing

import pytest

from audit_middleware.collector.catchup import rebuild_index
from audit_middleware.collector.collector import Collector
from audit_middleware.errors import StorageError
from audit_middleware.sealing.keys import Keyring
from tests.collector.kit import KEY, KEYRING, OTHER_KEY, App, admitted, own_lines, settings_for


def edit(settings, *statements):
    with closing(sqlite3.connect(settings.data / "index.sqlite", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def outcome(settings, lines):
    """What opening and delivering comes to: an answer, or the error that stops the collector."""
    try:
        with Collector(settings) as collector:
            try:
                return collector.deliver(lines)
            except Exception:
                return collector.reason
    except StorageError as error:
        return str(error)


EDITS = {
    "next": "UPDATE streams SET next = next + 5",
    "head": "UPDATE streams SET head = replace(head, substr(head, 1, 1), '_')",
    "service": "UPDATE streams SET service = 'billing' WHERE service = 'orders'",
    "gaps": "UPDATE streams SET gaps = '[[not json', open_gaps = 1",
    "stream": "UPDATE streams SET stream = 'AAAAAAAAAAAAAAAAAAAAAQ' WHERE service = 'audit-collector'",
    "type": "UPDATE streams SET next = 'x'",
    "seal": "UPDATE streams SET seal = 'x'",
    "forgotten": "DELETE FROM streams WHERE number = 1",
}


@pytest.mark.parametrize("attack", EDITS)
def test_a_stream_state_that_was_edited_asks_for_a_rebuild_and_refuses_no_line(settings, attack):
    app = App()
    app.requests(3)
    with Collector(settings) as collector:
        collector.deliver(app.lines)
    edit(settings, EDITS[attack])
    app.requests(2)
    assert "rebuild-index" in outcome(settings, app.lines[4:])
    rebuild_index(settings)
    with Collector(settings) as collector:
        answer = collector.deliver(app.lines[4:])
        assert (answer.accepted, answer.quarantined) == (2, [])
        assert own_lines(collector, "quarantine") == []


@pytest.mark.parametrize(
    "attack", ["UPDATE records_8388608 SET seq = seq - 1 WHERE stream = 2", "UPDATE asides SET leaf = 'x'"]
)
def test_a_place_that_was_edited_makes_no_conflict(settings, attack):
    app = App()
    app.say("request", {})
    app.requests(3)
    with Collector(settings) as collector:
        collector.deliver(app.lines)
    parts = f"records_{first_part(settings)}"
    edit(settings, attack.replace("records_8388608", parts))
    assert "rebuild-index" in outcome(settings, app.lines)


def first_part(settings):
    with closing(sqlite3.connect(settings.data / "index.sqlite")) as connection:
        return connection.execute("SELECT min(number) FROM parts").fetchone()[0]


def test_lines_refused_for_a_forgotten_place_are_admitted_once_the_index_is_rebuilt(settings):
    app = App()
    app.requests(3)
    with Collector(settings) as collector:
        collector.deliver(app.lines)
    edit(settings, f"DELETE FROM records_{first_part(settings)} WHERE stream = 2 AND seq = 2")
    with Collector(settings) as collector:
        assert [item.reason for item in collector.deliver(app.lines).quarantined] == ["sequence"]
    rebuild_index(settings)
    with Collector(settings) as collector:
        assert own_lines(collector, "quarantine")[-1]["rec"]["state"] == "admitted"
        assert collector.deliver(app.lines).duplicates == 4
    with Collector(settings) as collector:
        assert len(own_lines(collector, "quarantine")) == 2


def test_lines_of_a_wrong_key_under_the_right_name_are_admitted_once_it_is_corrected(tmp_path):
    wrong = settings_for(tmp_path, keyring=Keyring({"k1": OTHER_KEY, "own": KEY}))
    app = App(KEYRING)
    app.requests(3)
    with Collector(wrong) as collector:
        assert [item.reason for item in collector.deliver(app.lines[::-1]).quarantined] == ["mac"] * 4
    right = settings_for(tmp_path, keyring=Keyring({"k1": KEY, "own": KEY}))
    with Collector(right) as collector:
        assert admitted(collector, app.stream) == app.lines
        assert collector.deliver(app.lines).duplicates == 4


def test_lines_with_a_bad_seal_are_not_judged_at_every_start(settings, monkeypatch):
    from audit_middleware.collector.desk import Desk

    app = App()
    app.request()
    with Collector(settings) as collector:
        collector.deliver([app.lines[0], app.lines[1].replace(b"alice", b"mallo")])
    judged = []
    monkeypatch.setattr(Desk, "_recheck", lambda _self, held: judged.append(held))
    for _ in range(2):
        with Collector(settings):
            pass
    assert judged == []
    rebuild_index(settings)
    with Collector(settings):
        pass
    assert len(judged) == 1
