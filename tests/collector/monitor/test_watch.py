"""Each kind of finding: found, and over again, with a real collector and a clock that is set by hand."""

import json

import msgspec

from audit_middleware.collector.auth import Caller
from audit_middleware.collector.monitor.findings import MONITOR
from audit_middleware.collector.monitor.hall import read_group
from audit_middleware.collector.monitor.heard import Group
from audit_middleware.payloads import PAYLOADS
from audit_middleware.sealing.seal import parse_frame
from tests.collector.kit import OTHER_KEYRING, name_of, own_lines, rec_of


def altered(line):
    """The line with another principal, under its old seal."""
    return line.replace(b'"alice"', b'"mlice"')


def test_a_removed_line_is_a_gap_and_its_late_arrival_ends_it(stand):
    app = stand.app()
    lines = [app.request() for _ in range(5)]
    stand.deliver(lines[0], lines[4])
    gap = stand.one("gap")
    assert (gap.stream, gap.service, gap.severity) == (app.stream, "orders", "critical")
    assert gap.evidence == {"missing": [[2, 4]], "lines": 3}
    stand.deliver(lines[2])
    assert stand.one("gap").evidence == {"missing": [[2, 2], [4, 4]], "lines": 2}
    stand.deliver(lines[1], lines[3])
    assert stand.one("gap", "resolved").resolved_by == MONITOR
    assert stand.watch.book.unsaid == {}  # its own records say all of that


def test_a_gap_that_comes_again_is_another_occurrence(stand):
    app = stand.app()
    lines = [app.request() for _ in range(6)]
    stand.deliver(lines[1])
    stand.deliver(lines[0])
    stand.deliver(lines[4])
    assert (stand.one("gap").occurrence, stand.one("gap").evidence["missing"]) == (2, [[3, 4]])


def test_two_lines_with_one_number_are_a_conflict_until_somebody_resolves_it(stand):
    app = stand.app()
    twin = app.seal("request", rec_of(action="orders.cancel"))
    line = app.request()
    stand.deliver(line)
    stand.deliver(twin)
    conflict = stand.one("conflict")
    assert (conflict.stream, conflict.evidence["places"]) == (app.stream, [1])
    assert {conflict.evidence["kept"], conflict.evidence["other"]} == {name_of(line), name_of(twin)}
    stand.pass_seconds(60, beating=[app])
    stand.one("conflict")
    assert stand.findings("quarantine") == []


def test_an_altered_line_is_a_bad_seal(stand):
    app = stand.app()
    line = app.request()
    stand.deliver(altered(line))
    seal = stand.one("seal")
    assert (seal.severity, seal.service, seal.evidence["reason"]) == ("critical", "orders", "mac")
    assert (seal.evidence["lines"], seal.evidence["seq"]) == (1, 1)
    stand.deliver(line)
    stand.one("seal")


def test_a_line_that_does_not_continue_its_stream_is_a_bad_seal_too(stand):
    app = stand.app()
    app.work()
    app.sealer.prev = b"E" * 43
    stand.deliver(app.seal("request", rec_of()))
    assert stand.one("seal").evidence["reason"] == "sequence"


def test_an_unknown_key_is_a_warning_with_the_number_of_its_lines(stand):
    app = stand.app(keyring=OTHER_KEYRING)
    app.work(3)
    found = stand.one("unknown_key")
    assert (found.severity, found.evidence["lines"], found.evidence["deliverer"]) == ("warning", 4, "anonymous")
    assert found.service is None  # whose line it is nobody can tell


def test_malformed_lines_are_one_finding_however_many_there_are(stand):
    for number in range(5):
        stand.deliver(b"nonsense %d" % number)
    found = stand.one("quarantine")
    assert found.evidence["lines"] == 5
    assert stand.findings("seal") == []


def test_a_line_of_a_service_the_token_is_not_for_ends_when_the_right_token_delivers_it(stand):
    wrong = Caller("billing-token", frozenset({"billing"}), frozenset({"ingest"}))
    app = stand.app(deliver=False)
    stand.deliver(app.lines[0], caller=wrong)
    assert stand.one("quarantine").evidence["deliverer"] == "billing-token"
    right = Caller("billing-token", frozenset({"billing", "orders"}), frozenset({"ingest"}))
    stand.deliver(app.lines[0], caller=right)
    assert stand.one("quarantine", "resolved").resolved_by == MONITOR


def test_a_drop_record_is_a_finding_that_only_a_person_ends(stand):
    app = stand.app()
    stand.deliver(app.say("drop", {"service": "orders", "first": 1, "last": 4, "count": 4, "reason": "disk full"}))
    stand.deliver(app.say("drop", {"service": "orders", "first": 6, "last": 6, "count": 1, "reason": "disk full"}))
    drop = stand.one("drop")
    assert (drop.severity, drop.evidence["records"], drop.evidence["reason"]) == ("critical", 5, "disk full")
    stand.pass_seconds(120, beating=[app])
    stand.one("drop")


def test_a_stream_that_was_deleted_before_it_was_delivered_leaves_a_finding(stand):
    deleted = stand.app(deliver=False)
    stand.app(previous=deleted.head(closed=True)).beat("close")
    stand.pass_seconds(299)
    assert stand.findings() == []
    stand.pass_seconds(2)
    gap = stand.one("gap")
    assert (gap.stream, gap.evidence["missing"]) == (deleted.stream, [[0, 0]])
    stand.deliver(*deleted.lines, deleted.beat("close", deliver=False))
    stand.pass_seconds(1)
    stand.one("gap", "resolved")


def test_the_missing_end_of_a_stream_is_found_by_what_its_successor_saw(stand):
    cut = stand.app()
    cut.work(2)
    cut.request()
    cut.beat("close", deliver=False)
    stand.app(previous=cut.head(closed=True)).beat("close")
    stand.pass_seconds(310)
    assert next(each for each in stand.findings("gap")).evidence["missing"] == [[3, 4]]


def test_the_life_of_a_finding_is_on_record_and_restores_it_without_any_memory(stand):
    app = stand.app()
    stand.pass_seconds(400)
    stand.say_all()
    assert stand.watch.book.unsaid == {}
    before = {(each.id, each.rank, each.first_seen) for each in stand.findings()}
    said = [line["rec"] for line in own_lines(stand.collector, "review")]
    assert [(rec["kind"], rec["state"], rec["by"], rec["of_service"]) for rec in said] == [
        ("silence", "open", MONITOR, "orders"),
        ("unclosed", "open", MONITOR, "orders"),
    ]
    stand.restart(remembers=False)
    read_all(stand)
    stand.pass_seconds(60)
    assert {(each.id, each.rank, each.first_seen) for each in stand.findings()} == before
    again = stand.app(previous=app.head())
    stand.pass_seconds(20, beating=[again])
    assert stand.kinds() == ["unclosed"]


def test_an_acknowledged_gap_stays_acknowledged_when_everything_is_read_again(stand):
    app = stand.app()
    lines = [app.request() for _ in range(3)]
    stand.deliver(lines[2])
    book = stand.watch.book
    decided = book.decision(stand.one("gap").id, "acknowledged", "alice", "known")
    book.unsaid[decided.id, *decided.rank] = decided
    stand.say_all()
    stand.restart(remembers=False)
    read_all(stand)
    gap = stand.one("gap", "acknowledged")
    assert (gap.acknowledged_by, gap.note, gap.evidence["lines"]) == ("alice", "known", 2)
    stand.deliver(*lines[:2])
    stand.one("gap", "resolved")


def test_a_collector_that_was_killed_is_named_by_its_next_life(stand):
    own = own_lines(stand.collector, "open")[0]
    opened = {"service": "audit-collector", "previous": {"stream": own["stream"], "seq": 0}}
    line = next(stand.collector.logs.current(stand.now.wall).ledger.entries())
    payload = msgspec.convert({**json.loads(line)["rec"], **opened}, PAYLOADS["open"])
    stand.moved += stand.watch.hear(Group([], [(parse_frame(line), payload)]), stand.now)
    assert stand.one("unclosed").service == "audit-collector"


def read_all(stand):
    """Hear everything that is on record, as a collector does that lost its memory."""
    for log in stand.collector.logs:
        size = log.ledger.size
        for first in range(0, size, 256):
            group = read_group(log.ledger, first, min(first + 256, size) - 1)
            stand.moved += stand.watch.hear(group, stand.now)


def test_an_ordinary_day_has_no_findings(stand_of):
    """Work, idle hours, a clean restart, a collector that restarts and one that is down for a minute."""
    stand = stand_of(expected_services=["orders"])
    workers = [stand.app(), stand.app()]
    for _ in range(10):
        workers[0].work(20)
        stand.pass_seconds(30, beating=workers)
    stand.pass_seconds(600, beating=workers)
    stand.restart()
    stand.pass_seconds(100, beating=workers)
    held = [app.beat(deliver=False) for app in workers]
    stand.restart(down=60)
    stand.pass_seconds(20)
    stand.deliver(*held)
    stand.pass_seconds(100, beating=workers)
    fresh = [stand.app(previous=workers[1].head()), stand.app()]
    for app in workers:
        app.beat("close")
    stand.pass_seconds(600, beating=fresh)
    assert stand.findings() == []
    assert stand.moved == []
