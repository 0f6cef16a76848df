"""Legal holds: who may place and release them, and what they cover."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.collector.retention.holds import HoldBook, covers, may_cover
from audit_middleware.collector_record import Held
from audit_middleware.errors import ConfigurationError
from audit_middleware.record import AuditRecord, Opened, Principal, Resource, Source, Trace

DAYS = st.dates().map(lambda day: day.isoformat())


def held(case="c-1", by="ann", state="placed", **more):
    return Held("audit-collector", case, state, "litigation", by, **more)


def record(service="billing", principal="alice", behalf=None):
    return AuditRecord(
        service, Principal(principal, "user", "session", on_behalf_of=behalf), Source("1.1.1.1", "peer", "1.1.1.1"),
        "a", "success", Resource("r", "1"), Trace("x"),
    )  # fmt: skip


def test_a_hold_counts_at_once_and_ends_when_two_people_want_it_to():
    book = HoldBook()
    book.take(book.place(held()))
    assert [each.case for each in book.standing] == ["c-1"]
    book.take(book.confirm("c-1", "bob", "seen"))
    book.take(book.release("c-1", "ann", "settled"))
    assert book.standing[0].state == "release_asked"
    book.take(book.release("c-1", "bob", "settled"))
    assert book.standing == []
    book.take(book.place(held()))  # a case can come back
    assert book.standing[0].state == "placed"


def test_one_person_alone_neither_confirms_nor_releases():
    book = HoldBook()
    book.take(book.place(held()))
    with pytest.raises(ConfigurationError, match="a second person"):
        book.confirm("c-1", "ann", "seen")
    book.take(book.release("c-1", "bob", "settled"))
    with pytest.raises(ConfigurationError, match="a second person"):
        book.release("c-1", "bob", "settled")
    assert len(book.standing) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"case": ""}, {"case": "x" * 129}, {"services": [""]}, {"principals": ["x"] * 100}, {"since": "yesterday"},
        {"until": "2026-1-1"}, {"since": "2026-02-01", "until": "2026-01-01"}, {"since": "2026-02-30"},
    ],
)  # fmt: skip
def test_a_hold_that_says_nothing_is_refused(wrong):
    with pytest.raises(ConfigurationError):
        HoldBook().place(held(**wrong))


def test_what_is_not_held_cannot_be_moved():
    book = HoldBook()
    for step in (book.confirm, book.release):
        with pytest.raises(ConfigurationError, match="no hold for case"):
            step("c-1", "ann", "why")
    book.take(book.place(held()))
    with pytest.raises(ConfigurationError, match="has a hold already"):
        book.place(held())
    with pytest.raises(ConfigurationError, match="needs a reason"):
        book.release("c-1", "ann", " ")


@pytest.mark.parametrize(
    ("scope", "payload", "day", "is_covered"),
    [
        ({}, record(), "2026-01-01", True),
        ({"services": ["billing"]}, record(), "2026-01-01", True),
        ({"services": ["orders"]}, record(), "2026-01-01", False),
        ({"principals": ["alice"]}, record(), "2026-01-01", True),
        ({"principals": ["alice"]}, record(principal="root", behalf="alice"), "2026-01-01", True),
        ({"principals": ["alice"]}, record(principal="bob"), "2026-01-01", False),
        ({"principals": ["alice"]}, Opened("billing", *["x"] * 5, 1, *["x"] * 4), "2026-01-01", False),
        ({"since": "2026-01-01", "until": "2026-01-01"}, record(), "2026-01-01", True),
        ({"since": "2026-01-02"}, record(), "2026-01-01", False),
        ({"until": "2025-12-31"}, record(), "2026-01-01", False),
        ({}, record(service="audit-collector"), "2026-01-01", False),
    ],
)
def test_a_hold_covers_what_it_names_and_nothing_else(scope, payload, day, is_covered):
    assert covers(held(**scope), payload, f"{day}T12:00:00.000000Z") is is_covered


@given(
    since=st.none() | DAYS, until=st.none() | DAYS, day=DAYS,
    services=st.lists(st.sampled_from(["billing", "orders"]), max_size=2),
)  # fmt: skip
def test_the_plan_never_misses_what_a_line_of_the_half_year_would_be_covered_by(since, until, day, services):
    hold = held(since=since, until=until, services=services)
    period = f"{day[:4]}h{1 if day[5:7] < '07' else 2}"
    if covers(hold, record(), f"{day}T00:00:00.000000Z"):
        assert may_cover(hold, ["billing"], period)
        assert may_cover(hold, None, period)
