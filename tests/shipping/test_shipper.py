"""The shipper against a collector that fails: every record arrives once, and nothing is given up."""

import errno
import random

import pytest

from audit_middleware.shipping.shipper import REFUSALS, REFUSALS_APART_S
from audit_middleware.testing import faults
from tests.shipping.kit import Desk, left, sealed, seqs, waiting

OTHER = bytes(range(16))
FAILURES = {
    "lost request": faults.lose_request,
    "lost response": faults.lose_response,
    "half a response": faults.half_response,
    "captive portal": faults.captive_portal,
    "503": faults.answering(503),
    "503 with Retry-After": faults.answering(503, retry_after=9),
    "429": faults.answering(429, retry_after=3),
    "500": faults.answering(500, b"<html>oops</html>", is_collector=False),
    "301": faults.answering(301),
    "401": faults.answering(401),
    "404": faults.answering(404, is_collector=False),
    "413": faults.at_most(100),
    "no log": faults.without_log,
    "another stream": faults.ack_other_stream,
    "beyond": faults.ack_beyond_sent,
    "wrong leaf": faults.ack_wrong_leaf,
    "partial": faults.only_first(3),
    "400 of a proxy": faults.answering(400, is_collector=False),
}


@pytest.mark.parametrize("behaviour", FAILURES.values(), ids=FAILURES.keys())
def test_whatever_fails_once_each_record_is_stored_once(desk, behaviour):
    outbox = waiting(1200)
    desk.collector.script = [behaviour, faults.accept, behaviour]
    desk.run(outbox)
    assert desk.collector.stored == sealed(1200)
    assert desk.aside == []


def test_lost_response_stores_each_record_once(desk):
    outbox = waiting(40)
    desk.collector.script = [faults.lose_response] * 4
    desk.run(outbox)
    assert desk.collector.stored == sealed(40)


@pytest.mark.parametrize("seed", range(6))
def test_a_collector_that_fails_most_of_the_time_in_every_way_stores_each_record_once(seed):
    desk, chance = Desk(), random.Random(seed)
    outboxes = [waiting(300), waiting(300, stream=OTHER)]
    behaviours = list(FAILURES.values())

    def usually(collector, lines, sizes):
        behaviour = chance.choice(behaviours) if chance.random() < 0.7 else faults.accept
        return behaviour(collector, lines, sizes)

    desk.collector.usually = usually
    desk.run(*outboxes)
    assert sorted(desk.collector.stored) == sorted(sealed(300) + sealed(300, stream=OTHER))
    assert desk.aside == []


@pytest.mark.parametrize(
    "behaviour", [faults.lose_request, faults.lose_response, faults.answering(503), faults.answering(401)]
)
def test_a_collector_that_is_away_for_days_loses_nothing(desk, behaviour):
    outbox = waiting(1000)
    desk.collector.usually = behaviour
    days = 2 * 86400
    began = desk.clock.now
    while desk.clock.now - began < days:
        desk.turn(outbox)
        desk.clock.sleep(max(0.25, desk.backoff.wait_s))
    assert left(outbox) == 1000
    attempts = len(desk.collector.posts)
    assert attempts < days / 15
    assert all(len(post.lines) == 1 for post in desk.collector.posts[10:])
    desk.collector.usually = faults.accept
    assert desk.run(outbox) < 600
    assert desk.collector.stored == sealed(1000)
    assert len(desk.collector.posts) - attempts < 20


def test_a_batch_is_bounded_in_records_and_bytes(desk):
    outbox = waiting(1200)
    desk.run(outbox)
    assert [len(post.lines) for post in desk.collector.posts] == [500, 500, 200]
    desk = Desk()
    outbox = waiting(0)
    for line in sealed(100, rec=b'{"x":"' + b"y" * 30_000 + b'"}'):
        outbox.append(line)
    desk.run(outbox)
    assert all(sum(len(line) + 1 for line in post.lines) <= 1 << 20 for post in desk.collector.posts)
    assert len(desk.collector.posts) == 3


def test_several_streams_travel_in_one_batch_and_each_is_trimmed(desk):
    outboxes = [waiting(100), waiting(100, stream=OTHER)]
    assert desk.turn(*outboxes)
    assert len(desk.collector.posts) == 1
    assert [left(outbox) for outbox in outboxes] == [0, 0]


def test_a_receipt_for_a_part_moves_the_cursor_that_far_and_reports_no_more(desk):
    outbox, reported = waiting(10), []
    desk.shipper.on_receipt = lambda items, _pins: reported.extend(items)
    desk.collector.script = [faults.only_first(4)]
    assert desk.turn(outbox)
    assert left(outbox) == 6
    assert [item.pending.behind.seq for item in reported] == [1, 2, 3, 4]
    assert desk.shipper.shipped.delivered == 4


def test_413_halves_until_it_fits_and_remembers(desk):
    desk.collector.usually = faults.at_most(60)
    outbox = waiting(300)
    desk.run(outbox)
    sizes = [len(post.lines) for post in desk.collector.posts]
    assert sizes[:4] == [300, 150, 75, 37]
    assert max(sizes[3:]) == 37
    assert desk.collector.stored == sealed(300)


def test_a_single_line_that_is_too_large_is_kept_aside(desk):
    outbox = waiting(5)
    desk.collector.usually = faults.refusing(lambda line: b'"seq":2,' in line, 413)
    desk.run(outbox)
    assert seqs(desk.collector.stored) == [0, 1, 3, 4]
    assert [name for _, name, *_ in desk.aside] == ["2-0-0"]


@pytest.mark.parametrize("poison", [0, 137, 999])
def test_one_poisonous_line_among_a_thousand_is_found_and_kept_aside_alone(desk, poison):
    outbox = waiting(1000)
    mark = b'"seq":%d,' % poison
    desk.collector.usually = faults.refusing(lambda line: mark in line)
    seconds = desk.run(outbox)
    assert seqs(desk.collector.stored) == [seq for seq in range(1000) if seq != poison]
    ((stream, name, data, why),) = desk.aside
    assert (stream, data, name) == (outbox.stream, sealed(poison + 1)[-1], f"{poison}-0-0")
    assert "answered 400" in why["reason"]
    assert seconds >= (REFUSALS - 1) * REFUSALS_APART_S
    assert desk.shipper.shipped.kept_aside == 1
    assert len(desk.collector.posts) < 60


def test_a_poisonous_line_is_refused_three_times_a_minute_apart_before_it_is_kept_aside(desk):
    outbox = waiting(1)
    desk.collector.usually = faults.answering(422)
    for number in range(1, 3):
        desk.turn(outbox)
        assert (left(outbox), desk.aside) == (1, []), number
        desk.clock.sleep(30)
        desk.turn(outbox)
        assert len(desk.collector.posts) == number
        desk.clock.sleep(50)
    desk.turn(outbox)
    assert left(outbox) == 0
    assert len(desk.aside) == 1


def test_a_collector_that_refuses_for_a_moment_costs_no_line(desk):
    outbox = waiting(1)
    desk.collector.script = [faults.answering(400), faults.answering(400)]
    desk.run(outbox)
    assert (desk.collector.stored, desk.aside) == (sealed(1), [])


def test_a_400_from_something_that_is_no_collector_never_costs_a_line(desk):
    outbox = waiting(3)
    desk.collector.usually = faults.answering(400, is_collector=False)
    for _ in range(50):
        desk.turn(outbox)
        desk.clock.sleep(100)
    assert (left(outbox), desk.aside) == (3, [])


@pytest.mark.parametrize("status", [401, 403, 404, 407, 421])
def test_a_collector_that_does_not_know_us_holds_everything(desk, status):
    outbox = waiting(10)
    desk.collector.usually = faults.answering(status, b"who are you")
    for _ in range(100):
        desk.turn(outbox)
        desk.clock.sleep(60)
    assert (left(outbox), desk.aside) == (10, [])
    assert "who are you" in desk.shipper.shipped.last_error
    assert len(desk.collector.posts) < 40
    desk.collector.usually = faults.accept
    desk.run(outbox)
    assert desk.collector.stored == sealed(10)


def test_quarantined_lines_are_delivered_lines(desk):
    desk.collector.verdict = lambda line: "mac" if b'"seq":3,' in line else None
    outbox = waiting(6)
    assert desk.turn(outbox)
    assert left(outbox) == 0
    assert seqs(desk.collector.quarantined) == [3]
    assert desk.shipper.shipped.quarantined == 1


def test_a_line_without_number_is_delivered_by_its_place_in_the_batch(desk):
    outbox = waiting(2)
    outbox.append(b"garbage that was a line once")
    assert desk.turn(outbox)
    assert left(outbox) == 0
    assert desk.collector.quarantined == [b"garbage that was a line once"]


def test_tree_sizes_tell_the_collector_what_was_seen(desk):
    desk.run(waiting(3))
    desk.run(waiting(2, stream=OTHER))
    assert [post.tree_sizes for post in desk.collector.posts] == [{}, {desk.collector.log.signer.name: 3}]


@pytest.mark.parametrize("attack", ["rolled back", "rewritten", "signed by another key"])
def test_a_collector_whose_history_changed_gets_nothing_trimmed(desk, attack):
    desk.run(waiting(5))
    if attack == "rolled back":
        desk.collector.roll_back(2)
    elif attack == "rewritten":
        desk.collector.rewrite(lambda lines: lines[1:])
    else:
        desk.collector.change_key(b"k" * 32)
    more = waiting(1, stream=OTHER)
    for _ in range(5):
        assert desk.turn(more) is False
        desk.clock.sleep(100)
    assert left(more) == 1


def test_a_line_that_cannot_be_kept_aside_waits_and_others_go_on():
    def full(*_what):
        raise OSError(errno.ENOSPC, "No space left on device")

    desk = Desk()
    desk.shipper._keep_aside = full
    damaged, other = waiting(0), waiting(3, stream=OTHER)
    damaged.append(b"")
    assert desk.turn(damaged, other)
    assert (left(damaged), left(other)) == (1, 0)
    assert "No space" in desk.shipper.shipped.last_error
    del desk.shipper._keep_aside
    desk.shipper._keep_aside = lambda *what: desk.aside.append(what)
    desk.turn(damaged)
    assert left(damaged) == 0
    assert len(desk.aside) == 1


def test_a_refused_line_that_cannot_be_kept_aside_is_not_given_up(desk):
    def full(*_what):
        raise OSError(errno.ENOSPC, "No space left on device")

    desk.shipper._keep_aside = full
    outbox = waiting(1)
    desk.collector.usually = faults.answering(413)
    for _ in range(5):
        assert desk.turn(outbox) is False
        desk.clock.sleep(100)
    assert left(outbox) == 1


class Unreadable:
    stream = "U" * 21 + "A"

    def pending(self, limit, max_bytes):
        raise OSError(errno.EIO, "Input/output error")

    def advance(self, last):
        raise AssertionError("nothing was delivered")


def test_a_stream_that_cannot_be_read_keeps_no_other_waiting(desk):
    outbox = waiting(3)
    assert desk.turn(Unreadable(), outbox)
    assert left(outbox) == 0
    assert "Input/output error" in desk.shipper.shipped.last_error


def test_nothing_to_deliver_asks_nobody(desk):
    assert desk.turn() is False
    assert desk.turn(waiting(0)) is False
    assert desk.collector.posts == []


def test_closing_lets_connections_go(desk):
    desk.shipper.close()
    assert desk.collector.is_closed


def test_a_shipper_is_behind_while_its_batches_are_as_large_as_they_may_be(desk, monkeypatch):
    monkeypatch.setattr("audit_middleware.shipping.shipper.MAX_BATCH_BYTES", 5_000)
    few, many = waiting(5), waiting(100)
    assert desk.turn(few)
    assert not desk.shipper.is_behind
    assert desk.turn(many)
    assert desk.shipper.is_behind
    desk.run(many)
    assert not desk.turn(many)
    assert not desk.shipper.is_behind
