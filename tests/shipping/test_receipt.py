"""What counts as a receipt: everything else is a failure that moves nothing."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_middleware.errors import ConfigurationError, ReceiptError
from audit_middleware.sealing.seal import leaf_hash
from audit_middleware.shipping.delivery import Answer
from audit_middleware.shipping.receipt import LogHead, LogPins, covered_lines, read_receipt
from audit_middleware.testing import SimulatedCollector, faults
from audit_middleware.tlog.note import Signer
from tests.shipping.kit import Desk, left, sealed, waiting

NOT_RECEIPTS = {
    "a captive portal": faults.captive_portal,
    "half a receipt": faults.half_response,
    "another stream": faults.ack_other_stream,
    "more than was sent": faults.ack_beyond_sent,
    "another line's hash": faults.ack_wrong_leaf,
    "no log": faults.without_log,
    "an empty body": faults.answering(200),
    "null": faults.answering(200, b"null"),
    "an empty object": faults.answering(200, b"{}"),
    "no lines covered": faults.altering(lambda receipt: receipt.update(acks={})),
    "a line quarantined that was not sent": faults.altering(
        lambda receipt: receipt["quarantined"].append({"line": 99, "reason": "mac"})
    ),
    "line zero quarantined": faults.altering(
        lambda receipt: receipt["quarantined"].append({"line": 0, "reason": "mac"})
    ),
    "an ack below zero": faults.altering(lambda receipt: [ack.update(seq=-1) for ack in receipt["acks"].values()]),
    "a number as text": faults.altering(lambda receipt: [ack.update(seq="2") for ack in receipt["acks"].values()]),
    "a checkpoint of another text": faults.altering(
        lambda receipt: [log.update(checkpoint=log["checkpoint"].replace("\n3\n", "\n4\n")) for log in receipt["logs"]]
    ),
    "a checkpoint for another origin": faults.altering(
        lambda receipt: [log.update(origin="other.example/log") for log in receipt["logs"]]
    ),
    "an origin that cannot be one": faults.altering(
        lambda receipt: [log.update(origin="a b") for log in receipt["logs"]]
    ),
    "an origin with a comma": faults.altering(lambda receipt: [log.update(origin="a,b") for log in receipt["logs"]]),
    "an origin that is no ASCII": faults.altering(
        lambda receipt: [log.update(origin="ö/d") for log in receipt["logs"]]
    ),
    "an origin of a surrogate": faults.altering(
        lambda receipt: [log.update(origin="a\ud800") for log in receipt["logs"]]
    ),
    "an origin without end": faults.altering(
        lambda receipt: [log.update(origin="a" * 9999) for log in receipt["logs"]]
    ),
    "too many logs": faults.altering(lambda receipt: receipt.update(logs=receipt["logs"] * 65)),
    "a nest of brackets": faults.answering(200, b'{"x":' + b"[" * 200_000),
    "not UTF-8": faults.answering(200, b'{"accepted": "\xff"}'),
    "lone surrogates": faults.altering(lambda receipt: [log.update(checkpoint="\ud800") for log in receipt["logs"]]),
}


@pytest.mark.parametrize("behaviour", NOT_RECEIPTS.values(), ids=NOT_RECEIPTS.keys())
def test_what_is_not_a_receipt_moves_no_cursor_and_costs_nothing(desk, behaviour):
    outbox = waiting(3)
    desk.collector.script = [behaviour]
    assert desk.turn(outbox) is False
    assert left(outbox) == 3
    assert desk.shipper.shipped.failures == 1
    desk.run(outbox)
    assert desk.collector.stored == sealed(3)


@pytest.mark.parametrize("status", [201, 202, 204, 206, 301, 302, 307, 304, 100, 500, 502, 504, 418, 408, 425, 409])
def test_a_receipt_under_another_status_than_200_is_none(desk, status):
    outbox = waiting(3)
    desk.collector.script = [
        lambda collector, lines, sizes: Answer(
            status, json.dumps(collector.keep(lines, sizes)).encode(), None, is_collector=True
        )
    ]
    assert desk.turn(outbox) is False
    assert left(outbox) == 3


@given(st.binary(max_size=300))
def test_any_bytes_are_a_receipt_or_a_receipt_error(body):
    with pytest.raises(ReceiptError):
        read_receipt(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@given(st.sampled_from(["accepted", "duplicates", "quarantined", "acks", "logs"]), JSON)
def test_a_receipt_with_any_other_member_moves_the_cursor_or_raises_nothing_else(member, value):
    desk, outbox = Desk(), waiting(2)
    desk.collector.script = [faults.altering(lambda receipt: receipt.update({member: value}))]
    if not desk.turn(outbox):
        assert left(outbox) == 2
    desk.run(outbox)
    assert desk.collector.stored == sealed(2)


def test_a_receipt_may_have_members_of_a_later_version(desk):
    outbox = waiting(3)
    desk.collector.script = [faults.altering(lambda receipt: receipt.update(mood="good"))]
    assert desk.turn(outbox) is True
    assert left(outbox) == 0


def test_covered_are_the_lines_up_to_the_ack_and_those_in_quarantine():
    collector, lines = SimulatedCollector(), [*sealed(4), b"no line at all"]
    receipt = collector.keep(lines[:3], {})
    receipt["quarantined"] = [{"line": 5, "reason": "header"}]
    assert covered_lines(lines, read_receipt(json.dumps(receipt).encode())) == [True, True, True, False, True]


# ------------------------------------------------------------------ logs that are trusted


def logs_of(collector, lines, sizes=None):
    receipt = read_receipt(json.dumps(collector.keep(lines, sizes or {})).encode())
    return receipt.logs


@pytest.fixture
def collector():
    return SimulatedCollector()


@pytest.fixture
def pins(collector):
    pins = LogPins()
    pins.pin([collector.vkey])
    pins.check(logs_of(collector, sealed(5)))
    return pins


def next_logs(collector, pins):
    return logs_of(collector, sealed(3, stream=bytes(range(16))), pins.sizes())


def test_a_log_that_grows_is_followed(collector, pins):
    assert pins.sizes() == {collector.log.signer.name: 5}
    pins.check(next_logs(collector, pins))
    assert list(pins.sizes().values()) == [8]


def test_a_log_that_stands_still_is_good(collector, pins):
    pins.check(logs_of(collector, sealed(5), pins.sizes()))
    assert list(pins.sizes().values()) == [5]


def test_a_log_that_was_rolled_back_is_refused(collector, pins):
    collector.roll_back(2)
    with pytest.raises(ReceiptError, match="rolled back"):
        pins.check(logs_of(collector, [], pins.sizes()))


def test_a_log_whose_history_was_rewritten_is_refused(collector, pins):
    collector.rewrite(lambda lines: [*lines[:2], *sealed(9, stream=b"x" * 16)])
    with pytest.raises(ReceiptError, match="does not extend"):
        pins.check(next_logs(collector, pins))


def test_a_fork_of_the_same_size_is_refused(collector, pins):
    collector.rewrite(lambda _lines: sealed(5, stream=b"x" * 16))
    with pytest.raises(ReceiptError, match="does not extend"):
        pins.check(logs_of(collector, [], pins.sizes()))


@pytest.mark.parametrize("behaviour", [faults.without_proof, faults.forged_proof])
def test_a_log_that_grew_without_proof_is_refused(behaviour):
    desk, outbox = Desk(), waiting(3)
    desk.run(outbox)
    more = waiting(2, stream=bytes(range(16)))
    desk.collector.script = [behaviour]
    assert desk.turn(more) is False
    assert left(more) == 2
    assert list(desk.pins.sizes().values()) == [3]
    desk.run(more)
    assert list(desk.pins.sizes().values()) == [5]


def test_a_proof_that_is_no_base64_is_refused(collector, pins):
    (head,) = next_logs(collector, pins)
    for proof in (["%%%"], ["é"], ["AAAA"]):
        with pytest.raises(ReceiptError, match="does not extend"):
            pins.check([LogHead(head.origin, head.checkpoint, consistency=proof)])


def test_a_log_signed_by_another_key_is_refused(collector, pins):
    collector.change_key(b"k" * 32)
    with pytest.raises(ReceiptError, match="no pinned key signed"):
        pins.check(next_logs(collector, pins))


def test_the_same_key_under_the_name_of_another_period_is_accepted(collector, pins):
    collector.begin_period("simulated.example/default/2027h1")
    pins.check(next_logs(collector, pins))
    assert sorted(pins.sizes().values()) == [3, 5]


def test_another_key_under_the_name_of_another_period_is_refused(collector, pins):
    collector.begin_period("simulated.example/default/2027h1")
    collector.change_key(b"k" * 32)
    with pytest.raises(ReceiptError, match="no pinned key signed"):
        pins.check(next_logs(collector, pins))


def test_one_bad_log_among_good_ones_moves_none(collector, pins):
    good = next_logs(collector, pins)
    other = SimulatedCollector(seed=b"k" * 32, origin="other.example/log")
    with pytest.raises(ReceiptError):
        pins.check([*good, *logs_of(other, sealed(1))])
    assert list(pins.sizes().values()) == [5]


def test_of_several_keys_one_bad_pins_none():
    pins = LogPins()
    with pytest.raises(ConfigurationError):
        pins.pin([Signer.generate("a.example").verifier.vkey, "no key"])
    assert pins.verifiers == []


def test_keys_are_pinned_on_first_use_and_asked_for_once():
    desk, outbox = Desk(pinned=False), waiting(700)
    desk.run(outbox)
    assert desk.collector.key_requests == 1
    assert [verifier.vkey for verifier in desk.pins.verifiers] == [desk.collector.vkey]


@pytest.mark.parametrize("keys", [[], ["nonsense"], ["\ud800"], ["a+b+c"]])
def test_keys_that_cannot_be_read_pin_nothing_and_deliver_nothing(monkeypatch, keys):
    desk, outbox = Desk(pinned=False), waiting(2)
    monkeypatch.setattr(desk.collector, "log_keys", lambda: keys)
    assert desk.turn(outbox) is False
    assert (desk.collector.posts, left(outbox), desk.pins.verifiers) == ([], 2, [])


def test_a_configured_key_is_not_replaced_by_what_the_collector_says():
    desk, outbox = Desk(pinned=False), waiting(2)
    desk.pins.pin([Signer.generate(desk.collector.log.signer.name).verifier.vkey])
    assert desk.turn(outbox) is False
    assert (desk.collector.key_requests, left(outbox)) == (0, 2)
    assert "no pinned key signed" in desk.shipper.shipped.last_error
    assert leaf_hash(desk.collector.stored[0]) == leaf_hash(sealed(1)[0])
