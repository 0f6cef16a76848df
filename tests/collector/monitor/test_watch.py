"""Each kind of finding: found, and over again, with a real collector and a clock that is set by hand."""

import json

import msgspec
import pytest

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


# ------------------------------------------------------------------ what is on record already


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


# ------------------------------------------------------------------ silence and death


def test_a_killed_service_is_silent_after_three_beats_and_again_heard_when_it_is_back(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    assert stand.findings() == []
    stand.pass_seconds(29)
    assert stand.findings() == []
    stand.pass_seconds(2)
    silence = stand.one("silence")
    assert (silence.about, silence.service, silence.severity) == ("service orders", "orders", "critical")
    assert silence.evidence["streams"] == [app.stream]
    again = stand.app(previous=app.head())
    stand.pass_seconds(2, beating=[again])
    assert stand.one("silence", "resolved").resolved_by == MONITOR
    unclosed = stand.one("unclosed")
    assert (unclosed.stream, unclosed.evidence["successor"]) == (app.stream, again.stream)


def test_a_process_that_is_restarted_at_once_leaves_an_unclosed_stream_and_no_silence(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    again = stand.app(previous=app.head())
    stand.pass_seconds(60, beating=[again])
    assert stand.kinds() == ["unclosed"]
    assert stand.findings("silence") == []


def test_a_predecessor_that_lives_is_another_process_of_the_spool(stand):
    first = stand.app()
    second = stand.app(previous=first.head())
    stand.pass_seconds(600, beating=[first, second])
    assert stand.findings() == []


def test_one_worker_of_several_is_a_silent_stream_and_later_unclosed(stand):
    workers = [stand.app(instance="h1") for _ in range(3)]
    stand.pass_seconds(60, beating=workers)
    stand.pass_seconds(40, beating=workers[1:])
    silence = stand.one("silence")
    assert (silence.about, silence.severity) == (f"stream {workers[0].stream}", "warning")
    stand.pass_seconds(300, beating=workers[1:])
    assert stand.kinds() == ["unclosed"]
    stand.one("silence", "resolved")


def test_all_processes_of_one_instance_are_one_finding(stand):
    lost = [stand.app(instance="h1") for _ in range(3)]
    others = [stand.app(instance="h2") for _ in range(2)]
    stand.pass_seconds(60, beating=lost + others)
    stand.pass_seconds(45, beating=others)
    silence = stand.one("silence")
    assert (silence.about, silence.evidence["scope"]) == ("instance orders h1", "instance")
    assert sorted(silence.evidence["streams"]) == sorted(each.stream for each in lost)


def test_a_service_that_is_down_stays_so_until_it_is_heard(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    stand.pass_seconds(4000)
    assert stand.kinds() == ["silence", "unclosed"]
    stand.app()
    stand.pass_seconds(1)
    assert stand.kinds() == ["unclosed"]


def test_a_clean_shutdown_is_no_finding(stand):
    app = stand.app()
    app.work(3)
    app.beat("close")
    stand.pass_seconds(4000)
    assert stand.findings() == []


def test_a_process_that_was_only_stopped_is_no_longer_unclosed_when_it_goes_on(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    stand.pass_seconds(400)
    assert "unclosed" in stand.kinds()
    stand.pass_seconds(20, beating=[app])
    assert stand.kinds() == []


def test_late_lines_of_a_dead_process_do_not_make_it_live(stand):
    app = stand.app()
    late = [app.request() for _ in range(3)]
    stand.pass_seconds(400)
    stand.one("unclosed")
    stand.deliver(*late)
    stand.pass_seconds(400)
    assert (stand.one("unclosed").occurrence, stand.one("unclosed").evidence["reached"]) == (1, 0)


def test_a_late_line_of_a_closed_stream_that_was_forgotten_is_no_silence(stand):
    app = stand.app()
    early, late = app.request(), app.request()
    close = app.beat("close", deliver=False)
    stand.deliver(early, close)
    stand.pass_seconds(8000, step=4)
    assert app.stream not in stand.watch.hearing.streams
    stand.deliver(late)
    stand.pass_seconds(4000, step=4)
    assert stand.kinds() == []
    stand.one("gap", "resolved")


def test_a_service_shipped_by_cron_may_be_silent_for_longer(stand_of):
    stand = stand_of(silence_by_service={"nightly": 7200})
    stand.app(service="nightly")
    stand.pass_seconds(7100, step=4)
    assert stand.findings() == []
    stand.pass_seconds(120)
    assert stand.one("silence").service == "nightly"


# ------------------------------------------------------------------ when this collector was away


def test_what_was_not_heard_because_the_collector_was_down_is_not_called_silent(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    stand.restart(down=60)
    backlog = [app.beat(deliver=False) for _ in range(6)]
    stand.pass_seconds(40)  # a shipper waits up to 30 s between two attempts
    assert stand.findings() == []
    stand.deliver(*backlog)
    stand.pass_seconds(60, beating=[app])
    assert stand.findings() == []


def test_who_died_while_the_collector_was_down_is_found_once_it_has_listened_for_a_while(stand):
    dead, alive = stand.app(service="dead"), stand.app()
    stand.pass_seconds(60, beating=[dead, alive])
    stand.restart(down=3600)
    alive.beat()
    stand.pass_seconds(44, beating=[alive])
    assert stand.findings() == []
    stand.pass_seconds(3, beating=[alive])
    assert stand.one("silence").about == "service dead"


def test_a_collector_that_slept_blames_nobody(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    stand.jump(3600)
    stand.pass_seconds(40)
    app.beat()
    stand.pass_seconds(60, beating=[app])
    assert stand.findings() == []


def test_setting_the_wall_clock_makes_nobody_silent(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    for step in (7200, -7200):
        stand.set_clock(step)
        stand.pass_seconds(25, beating=[app])
        assert stand.findings("silence") == []


def test_a_step_of_the_collectors_own_clock_is_shown_for_a_minute_and_is_on_record(stand):
    stand.pass_seconds(30)
    stand.set_clock(4)
    stand.pass_seconds(1)
    assert stand.findings() == []
    stand.set_clock(-86_400)
    stand.pass_seconds(5)
    found = stand.one("skew")
    assert (found.about, found.evidence) == ("audit-collector", {"stepped_seconds": -86_400})
    stand.pass_seconds(60)
    assert stand.one("skew", "resolved").resolved_by == MONITOR
    stand.set_clock(3600)
    stand.pass_seconds(1)
    assert (stand.one("skew").occurrence, stand.one("skew").evidence["stepped_seconds"]) == (2, 3600)


def test_a_backlog_after_an_outage_is_no_lag_but_one_that_does_not_shrink_is(stand):
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    backlog = [app.beat(deliver=False) for _ in range(30)]
    stand.restart(down=600)
    for line in backlog[:10]:
        stand.deliver(line)
        stand.pass_seconds(5)
    assert stand.findings("lag") == []
    for line in backlog[10:20]:
        stand.deliver(line)
        stand.pass_seconds(5)
    lag = stand.one("lag")
    assert (lag.service, lag.evidence["stream"]) == ("orders", app.stream)
    stand.deliver(*backlog[20:])
    app.beat()
    stand.pass_seconds(1)
    assert stand.one("lag", "resolved").resolved_by == MONITOR


# ------------------------------------------------------------------ lag, skew, spool, volume, expected services


def test_records_that_come_late_are_a_lag_and_end_with_the_first_that_does_not(stand):
    app = stand.app()
    stand.pass_seconds(120, beating=[app])
    late = [app.request() for _ in range(2)]
    stand.pass_seconds(90)
    stand.deliver(*late)
    stand.pass_seconds(1)
    assert 85 <= stand.one("lag").evidence["seconds"] <= 95
    app.work()
    stand.pass_seconds(1)
    stand.one("lag", "resolved")


def test_a_clock_that_is_ahead_is_found_with_the_first_line(stand):
    app = stand.app(skew=3600, instance="h9")
    stand.pass_seconds(1)
    skew = stand.one("skew")
    assert (skew.service, skew.evidence["instance"], skew.evidence["ahead_seconds"]) == ("orders", "h9", 3600)
    app.skew = 0
    app.beat()
    stand.pass_seconds(1)
    stand.one("skew", "resolved")


def test_a_clock_that_is_behind_is_told_from_lag_by_its_constancy(stand):
    stand.pass_seconds(600)
    app = stand.app(skew=-300)
    stand.pass_seconds(60, beating=[app])
    assert stand.one("skew").evidence["ahead_seconds"] == -300
    assert stand.kinds() == ["skew"]


def test_small_differences_of_clocks_are_nothing(stand):
    apps = [stand.app(skew=skew, instance=str(skew)) for skew in (-4, -1, 1, 4)]
    stand.pass_seconds(120, beating=apps)
    assert stand.findings() == []


def test_a_spool_near_its_bound_is_found_from_beats_and_ends_when_it_is_delivered(stand_of):
    stand = stand_of(spool_bytes=1000)
    app = stand.app(instance="h1")
    app.beat(spool_bytes=999)
    stand.pass_seconds(1)
    assert stand.findings() == []
    app.beat(spool_bytes=1000)
    stand.pass_seconds(1)
    assert stand.one("spool").evidence == {"bytes": 1000, "objective": 1000, "instance": "h1"}
    app.beat(spool_bytes=10)
    stand.pass_seconds(1)
    stand.one("spool", "resolved")


def test_an_expected_service_that_never_came_is_missing_until_it_does(stand_of):
    stand = stand_of(expected_services=["orders", "billing"])
    app = stand.app()
    stand.pass_seconds(44, beating=[app])
    assert stand.findings() == []
    stand.pass_seconds(2, beating=[app])
    assert (stand.one("missing_service").service, stand.one("missing_service").severity) == ("billing", "critical")
    stand.app(service="billing")
    stand.pass_seconds(1)
    stand.one("missing_service", "resolved")


def test_an_expected_service_that_ended_in_peace_is_missing_too(stand_of):
    stand = stand_of(expected_services=["orders"])
    app = stand.app()
    stand.pass_seconds(60, beating=[app])
    app.beat("close")
    stand.pass_seconds(1)
    assert stand.one("missing_service").evidence["ended"] == "every stream was closed"
    stand.restart()
    stand.pass_seconds(60)
    stand.one("missing_service")


def past_of(stand, counts, service="orders"):
    """Fill the hours of the past: what a service recorded at this hour of each of the last days."""
    hearing, hour = stand.watch.hearing, int(stand.now.wall) // 3600 - 1
    for day, count in enumerate(counts):
        hearing.hours[hour - day * 24] = 3600.0
        hearing.services[service].hours[hour - day * 24] = count
    stand.pass_seconds(1)


@pytest.mark.parametrize(
    ("today", "past", "is_found"),
    [
        (150, [1000] * 8, True),
        (0, [1000, 10, *[1000] * 6], True),  # one bad day in the past does not count
        (250, [1000] * 8, False),
        (150, [1000] * 5, False),  # too few days to tell
        (2, [10] * 8, False),  # too few records to tell
        (300, [1000, 1000, 400, 350, 1000, 1000, 1000], False),  # a weekend is in it
    ],
)
def test_volume_is_compared_with_the_same_hour_of_many_days(stand, today, past, is_found):
    stand.app()
    past_of(stand, [today, *past])
    assert bool(stand.findings("volume")) == is_found
    if is_found:
        assert stand.one("volume").evidence["records"] == today
        past_of(stand, [1000, *past])
        stand.one("volume", "resolved")


def test_an_hour_in_which_the_collector_was_down_says_nothing_of_volume(stand):
    stand.app()
    past_of(stand, [1000, *[1000] * 8])
    stand.watch.hearing.hours[int(stand.now.wall) // 3600 - 1] = 1800.0
    stand.watch.hearing.services["orders"].hours[int(stand.now.wall) // 3600 - 1] = 10
    stand.pass_seconds(1)
    assert stand.findings("volume") == []


def test_application_records_are_counted_and_beats_are_not(stand):
    app = stand.app()
    app.work(7)
    app.beat()
    assert sum(stand.watch.hearing.services["orders"].hours.values()) == 7


# ------------------------------------------------------------------ whole streams, and their ends


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


# ------------------------------------------------------------------ the record of it all


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
