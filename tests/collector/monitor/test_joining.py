"""Calls and the requests that they were, in whatever order they come: what is missing is named, and nobody is accused for nothing."""

import json
import secrets

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit_middleware.collector.monitor import joining
from audit_middleware.collector.monitor.clock import Now
from audit_middleware.collector.monitor.findings import FindingBook
from audit_middleware.collector.monitor.hall import read_group
from audit_middleware.collector.monitor.heard import Group, group_of
from audit_middleware.collector.monitor.joining import Joined, Joining
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.monitor.watch import Watch
from audit_middleware.record import AuditRecord
from audit_middleware.sealing.seal import Frame
from tests.collector.kit import rec_of

SECONDS = MonitorSettings().call_seconds


def call_of(span, *, host="billing.internal", service="orders", **changes):
    call = {"kind": "http", "method": "POST", "host": host, "status": 200, "ended": "complete", "carried": True}
    trace = {"request_id": f"o.{span}", "span_id": span}
    return rec_of(service, trace=trace, call=call | changes)


def request_of(span, *, service="billing", request_id=None):
    cause = {"service": "orders", "request_id": f"o.{span}", "span_id": span}
    return rec_of(service, trace={"request_id": request_id or f"b.{span}"}, cause=cause)


class Side:
    """A service that delivers to the stand."""

    def __init__(self, stand, service):
        self.app = stand.app(service=service)
        self.stand = stand

    def say(self, type_, rec):
        self.stand.deliver(self.app.say(type_, rec))


@pytest.fixture
def sides(stand):
    return Side(stand, "orders"), Side(stand, "billing")


def wait(stand, sides, seconds=SECONDS + 2):
    stand.pass_seconds(seconds, beating=[side.app for side in sides])


def test_of_41_calls_40_are_recorded_and_the_one_that_is_not_is_named(stand, sides):
    orders, billing = sides
    for number in range(41):
        orders.say("call", call_of(f"{number:016x}"))
        if number != 7:
            billing.say("request", request_of(f"{number:016x}"))
    wait(stand, sides, SECONDS - 2)
    assert stand.findings() == []
    wait(stand, sides, 4)
    found = stand.one("unmatched_call")
    assert (found.service, found.severity, found.about) == ("billing", "critical", "orders calls billing.internal")
    evidence = found.evidence
    assert (evidence["called"], evidence["recorded"], evidence["missing"]) == (41, 40, 1)
    (call,) = evidence["calls"]
    assert (call["span_id"], call["request_id"], call["status"]) == (f"{7:016x}", f"o.{7:016x}", 200)
    assert evidence["last_recorded"]["request_id"] == f"b.{40:016x}"
    billing.say("request", request_of(f"{7:016x}"))
    wait(stand, sides, 2)
    assert stand.one("unmatched_call", "resolved").evidence["recorded"] == 41


def test_a_callee_that_records_nothing_is_named_by_its_host_and_the_finding_is_of_the_caller(stand, sides):
    orders, _ = sides
    for number in range(3):
        orders.say("call", call_of(f"{number:016x}", host="shipping.internal"))
    wait(stand, sides)
    found = stand.one("unmatched_call")
    assert (found.service, found.evidence["callee"], found.evidence["missing"]) == ("orders", None, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"carried": False},
        {"ended": "exception", "status": None},
        {"status": 502},
        {"status": 503},
        {"status": 504},
        {"kind": "grpc", "status": 14},
    ],
)
def test_a_call_that_carried_nothing_or_reached_nobody_proves_nothing(stand, sides, changes):
    sides[0].say("call", call_of("a" * 16, **changes))
    wait(stand, sides)
    assert stand.findings() == []


def test_a_context_that_two_processes_believed_is_found_with_both_requests(stand, sides):
    orders, billing = sides
    other = Side(stand, "billing")
    billing.say("request", request_of("a" * 16, request_id="b.1"))
    orders.say("call", call_of("a" * 16))
    wait(stand, [*sides, other])
    assert stand.findings() == []
    other.say("request", request_of("a" * 16, request_id="b.2"))
    wait(stand, [*sides, other])
    found = stand.one("unmatched_call")
    assert (found.service, found.evidence["caller"], found.evidence["replayed"]) == ("billing", "orders", 1)
    assert [each["request_id"] for each in found.evidence["spans"][0]["requests"]] == ["b.1", "b.2"]
    wait(stand, [*sides, other], 700)
    assert found.id == stand.one("unmatched_call").id


def test_what_a_person_has_resolved_comes_back_only_with_something_new(stand, sides):
    orders, _ = sides
    orders.say("call", call_of("a" * 16))
    wait(stand, sides)
    found = stand.one("unmatched_call")
    stand.watch.book.recall(stand.watch.book.decision(found.id, "resolved", "alice", "known").reviewed())
    wait(stand, sides)
    stand.one("unmatched_call", "resolved")
    orders.say("call", call_of("b" * 16))
    wait(stand, sides)
    again = stand.one("unmatched_call")
    assert (again.occurrence, again.evidence["missing"], again.evidence["calls"][0]["span_id"]) == (2, 1, "b" * 16)


@pytest.mark.parametrize("remembers", [True, False])
def test_a_restart_forgets_no_missing_call_and_accuses_nobody(stand, sides, remembers):
    orders, billing = sides
    orders.say("call", call_of("a" * 16))
    billing.say("request", request_of("b" * 16))
    stand.restart(remembers=remembers, down=3600)
    if not remembers:
        for log in stand.collector.logs:
            for first in range(log.ledger.size):
                stand.watch.hear(read_group(log.ledger, first, first), stand.now)
    orders.say("call", call_of("b" * 16))
    wait(stand, sides, SECONDS - 2)
    assert stand.findings("unmatched_call") == []
    wait(stand, sides, 4)
    evidence = stand.one("unmatched_call").evidence
    assert [call["span_id"] for call in evidence["calls"]] == ["a" * 16]
    billing.say("request", request_of("a" * 16))
    wait(stand, sides, 2)
    stand.one("unmatched_call", "resolved")


def test_collectors_that_share_an_index_accuse_nobody_of_what_another_one_may_have_heard(stand, sides):
    watch = Watch(stand.settings, stand.finder, stand.now, missing=lambda stream: [])
    frame = Frame("k1", "s" * 22, 1, b"", "call", "2026-11-24T00:00:00.000000Z", b"", b"")
    watch.hear(Group([], [], [(frame, record_of(call_of("a" * 16)))]), stand.now)
    for number in range(1, 200):
        now = Now(stand.now.wall + number, stand.now.mono + number)
        assert watch.tick(now) == []


def record_of(rec):
    return msgspec.convert(rec, AuditRecord)


def test_only_calls_and_what_they_brought_about_are_heard(stand):
    told = []
    stand._opened.desk.on_commit = lambda committed: told.append(group_of(committed.entries))
    app = stand.app()
    stand.deliver(app.request(), app.say("call", call_of("a" * 16)), app.say("request", request_of("b" * 16)))
    assert [frame.type for group in told for frame, _ in group.joins] == ["call", "request"]


# ------------------------------------------------------------------ whatever comes in whatever order


class Bench:
    """A `Joining` and its book, told of sides without a collector."""

    def __init__(self):
        self.now = Now(1_764_000_000.0, 0.0)
        self.book = FindingBook()
        self.joining = Joining(SECONDS, self.now)
        self.moved = []

    def hear(self, what, span):
        name = f"{span:016x}"
        rec = call_of(name) if what == "call" else request_of(name, request_id=secrets.token_hex(4))
        frame = Frame("k1", "s" * 22, 1, b"", what, self.now.text, b"", b"")
        self.joining.hear(frame, record_of(rec), self.now)

    def pass_seconds(self, seconds):
        for _ in range(int(seconds)):
            self.now = Now(self.now.wall + 1, self.now.mono + 1)
            self.moved += self.joining.judge(self.book, self.now)

    def restart(self):
        memory = msgspec.json.decode(msgspec.json.encode(self.joining.remember()), type=Joined)
        self.now = Now(self.now.wall + 5, 3.0)
        self.joining = Joining(SECONDS, self.now, memory)

    def missing(self):
        found = self.book.find("unmatched_call", "orders calls billing.internal")
        is_open = found is not None and found.state == "open"
        return {int(call["span_id"], 16) for call in found.evidence["calls"]} if is_open else set()

    def replayed(self):
        found = self.book.find("unmatched_call", "billing believed contexts of orders again")
        return {int(each["span_id"], 16) for each in found.evidence["spans"]} if found else set()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["call", "request"]), st.integers(0, 8)),
        st.tuples(st.sampled_from(["wait", "restart"]), st.integers(1, 90)),
    ),
    max_size=40,
)


@given(STEPS)
@example([("call", 0), ("request", 1), ("wait", 60), ("call", 1), ("restart", 1)])
def test_in_the_end_exactly_the_calls_without_a_request_are_missing_and_what_came_twice_is_replayed(steps):
    bench, calls, requests = Bench(), set(), {}
    for what, number in steps:
        if what == "wait":
            bench.pass_seconds(number)
        elif what == "restart":
            bench.restart()
        elif what == "call" and number not in calls:  # a span is one call's
            calls.add(number)
            bench.hear(what, number)
        elif what == "request":
            requests[number] = requests.get(number, 0) + 1
            bench.hear(what, number)
        assert bench.missing() <= calls
    bench.pass_seconds(SECONDS + 1)
    assert bench.missing() == calls - set(requests)
    assert bench.replayed() == {number for number, count in requests.items() if count > 1}
    found = bench.book.find("unmatched_call", "orders calls billing.internal")
    if found is not None and found.state == "open" and found.occurrence == 1:
        assert (found.evidence["called"], found.evidence["recorded"]) == (len(calls), len(calls & set(requests)))


@given(STEPS)
def test_nobody_is_accused_of_a_call_before_its_time(steps):
    bench, heard = Bench(), {}
    for what, number in steps:
        if what == "wait":
            bench.pass_seconds(number)
        elif what in {"call", "request"}:
            heard.setdefault(number, bench.now.mono)
            bench.hear(what, number)
        for span in bench.missing():
            assert bench.now.mono - heard[span] >= SECONDS


def test_a_flood_is_bounded_and_what_was_forgotten_accuses_nobody(monkeypatch):
    monkeypatch.setattr(joining, "MAX_SPANS", 100)
    monkeypatch.setattr(joining, "KEPT_MISSING", 30)
    bench = Bench()
    for span in range(300):
        bench.hear("request", span)
    for span in range(200, 300):
        bench.hear("call", span)
    for span in range(100):  # their requests were forgotten, and these calls are no later than those
        bench.hear("call", span)
    bench.pass_seconds(SECONDS + 1)
    assert bench.missing() == set()
    for span in range(1000, 1080):
        bench.hear("call", span)
    bench.pass_seconds(SECONDS + 1)
    found = bench.book.find("unmatched_call", "orders calls billing.internal")
    assert (found.evidence["missing"], len(found.evidence["calls"])) == (80, 20)
    memory = bench.joining.remember()
    assert (len(memory.spans) <= 100, len(memory.matched) <= 100, len(memory.pairs[0].missing)) == (True, True, 30)
    assert len(json.dumps(msgspec.to_builtins(memory))) < 100_000
