"""The book of findings, whatever comes in whatever order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.collector.monitor.findings import (
    KEPT_RESOLVED,
    MAX_FINDINGS,
    MONITOR,
    STATES,
    Book,
    FindingBook,
    Observation,
    Undecided,
    finding_id,
)
from audit_middleware.collector.monitor.kinds import KINDS, SEVERITIES

LASTING = [name for name, kind in KINDS.items() if kind.lasts]
KIND = st.sampled_from(["gap", "drop", "silence", "tampering"])  # an event and a condition, each ended by both
ABOUT = st.sampled_from(["a", "b"])
STEP = st.one_of(
    st.tuples(st.just("observe"), KIND, ABOUT),
    st.tuples(st.just("end"), KIND, ABOUT),
    st.tuples(st.sampled_from(["acknowledged", "resolved"]), KIND, ABOUT),
)


def at(number):
    return f"2026-11-24T00:{number // 60:02d}:{number % 60:02d}.000000Z"


def seen(kind, about, **evidence):
    return Observation(kind, about, evidence, "orders")


def decide(book, kind, about, state, note=None):
    """A decision goes on record first, then it counts."""
    try:
        decided = book.decision(finding_id(kind, about), state, "alice", note)
    except Undecided:
        return []
    return book.recall(decided.reviewed())


def play(steps, book=None):
    """The transitions of every step, in order."""
    book = book or FindingBook()
    moved = []
    for number, (what, kind, about) in enumerate(steps):
        if what == "observe":
            moved += book.observe(seen(kind, about, step=number), at(number))
        elif what == "end":
            moved += book.end(kind, about, at(number))
        else:
            moved += decide(book, kind, about, what)
    return book, moved


@given(st.lists(STEP, max_size=40))
def test_a_state_is_never_taken_back_within_an_occurrence(steps):
    _, moved = play(steps)
    reached = {}
    for change, finding in moved:
        before = reached.get(finding.id, (0, 0))
        assert finding.rank > before
        assert (change in {"opened", "reopened"}) == (finding.state == "open")
        assert finding.occurrence <= before[0] + 1
        reached[finding.id] = finding.rank


@given(st.lists(STEP, max_size=40))
def test_only_a_person_resolves_what_is_left_to_a_person(steps):
    _, moved = play(steps)
    for change, finding in moved:
        if change == "resolved" and KINDS[finding.kind].ends == "person":
            assert finding.resolved_by == "alice"


@given(st.lists(STEP, max_size=40), st.data())
def test_the_records_alone_make_the_same_book_also_when_some_are_read_twice(steps, data):
    book, moved = play(steps)
    said = [transition.finding.reviewed() for transition in moved]
    again = data.draw(st.integers(0, len(said)))
    rebuilt = FindingBook()
    for review in [*said[:again], *said]:
        rebuilt.recall(review)

    def lives(some):
        return {(each.id, each.rank, each.acknowledged_by, each.resolved_by, each.service) for each in some}

    assert lives(rebuilt) == lives(book)
    assert rebuilt.unsaid == {}


@given(st.lists(STEP, max_size=40))
def test_every_state_is_to_be_put_on_record_exactly_once(steps):
    book, moved = play(steps)
    by_itself = [finding for change, finding in moved if change != "acknowledged" and finding.resolved_by != "alice"]
    assert list(book.unsaid.values()) == by_itself
    for finding in by_itself:
        book.recall(finding.reviewed())
    assert book.unsaid == {}


@given(st.lists(STEP, max_size=40), st.lists(STEP, max_size=20))
def test_a_book_that_was_remembered_goes_on_as_if_nothing_had_been(first, second):
    book, _ = play(first)
    copy = FindingBook(Book(list(book.remember().findings), list(book.remember().unsaid)))
    assert play(second, book)[1] == play(second, copy)[1]
    assert list(book) == list(copy)


def test_a_condition_that_somebody_resolved_while_it_lasts_keeps_quiet_until_it_has_ended_once():
    book = FindingBook()
    book.observe(seen("silence", "a"), at(0))
    decide(book, "silence", "a", "resolved")
    assert book.observe(seen("silence", "a"), at(1)) == []
    assert book.end("silence", "a", at(2)) == []
    ((change, finding),) = book.observe(seen("silence", "a"), at(3))
    assert (change, finding.occurrence, finding.first_seen) == ("reopened", 2, at(3))


def test_a_further_event_after_somebody_resolved_the_first_is_news_at_once():
    book = FindingBook()
    book.observe(seen("drop", "a"), at(0))
    decide(book, "drop", "a", "resolved", "known outage")
    ((change, finding),) = book.observe(seen("drop", "a"), at(1))
    assert (change, finding.occurrence, finding.note, finding.resolved_by) == ("reopened", 2, None, None)


def test_what_ended_by_itself_remembers_who_acknowledged_it():
    book = FindingBook()
    book.observe(seen("silence", "a"), at(0))
    decide(book, "silence", "a", "acknowledged", "on it")
    ((_, finding),) = book.end("silence", "a", at(1))
    assert (finding.acknowledged_by, finding.resolved_by, finding.note) == ("alice", MONITOR, "on it")


def test_reconciling_opens_what_is_new_and_ends_what_is_not_there():
    book = FindingBook()
    book.reconcile("lag", [seen("lag", "a"), seen("lag", "b")], at(0))
    moved = book.reconcile("lag", [seen("lag", "b"), seen("lag", "c")], at(1))
    assert [(change, finding.about) for change, finding in moved] == [("opened", "c"), ("resolved", "a")]
    assert book.find("lag", "b").last_seen == at(1)


@pytest.mark.parametrize("state", ["acknowledged", "resolved"])
def test_a_decision_twice_or_backwards_is_refused(state):
    book = FindingBook()
    book.observe(seen("drop", "a"), at(0))
    decide(book, "drop", "a", "resolved")
    with pytest.raises(Undecided, match="is resolved") as raised:
        book.decision(finding_id("drop", "a"), state, "bob", None)
    assert raised.value.kind == "finding-state"
    with pytest.raises(Undecided, match="no finding") as raised:
        book.decision("nonsense", state, "bob", None)
    assert raised.value.kind == "finding-unknown"


def test_a_flood_of_findings_is_bounded_and_counted():
    book = FindingBook()
    for number in range(MAX_FINDINGS + KEPT_RESOLVED + 5):
        book.observe(seen("drop", str(number)), at(0))
    assert (len(list(book)), book.overflowed) == (MAX_FINDINGS + KEPT_RESOLVED, 5)
    assert [each.change for each in book.observe(seen("tampering", "log tile/0/000"), at(1))] == ["opened"]


def test_resolved_findings_are_forgotten_oldest_first():
    book = FindingBook()
    for number in range(KEPT_RESOLVED + 3):
        book.observe(seen("gap", str(number)), at(number))
        book.end("gap", str(number), at(number))
    kept = {finding.about for finding in book}
    assert len(kept) == KEPT_RESOLVED
    assert not kept & {"0", "1", "2"}


def test_every_kind_of_the_table_is_whole():
    assert all(kind.severity in SEVERITIES and kind.meaning and kind.remedy for kind in KINDS.values())
    assert STATES == ("open", "acknowledged", "resolved")
    assert "tampering" in LASTING
