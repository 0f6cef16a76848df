"""When to try again, and with how much."""

import datetime as dt
import email.utils

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit_middleware.shipping.backoff import LONGEST_HELD_S, LONGEST_S, OPEN_AFTER, SMALLER_FOR_S, Backoff
from audit_middleware.shipping.delivery import MAX_RECORDS, retry_after
from tests.journal.kit import Clock


@pytest.fixture
def clock():
    return Clock()


def backoff_of(clock, share=1.0):
    return Backoff(clock, lambda low, high: low + (high - low) * share)


def test_waits_double_up_to_half_a_minute_and_never_end(clock):
    backoff, waits = backoff_of(clock), []
    for _ in range(2000):
        backoff.failed()
        waits.append(backoff.wait_s)
    assert waits[:8] == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30])
    assert waits[-1] == pytest.approx(LONGEST_S)


@given(st.floats(0, 1), st.integers(1, 40))
def test_a_wait_is_jittered_over_its_whole_range(share, failures):
    clock = Clock()
    backoff = backoff_of(clock, share)
    for _ in range(failures):
        backoff.failed()
    assert 0 <= backoff.wait_s <= LONGEST_S
    assert backoff.wait_s == pytest.approx(share * min(LONGEST_S, 0.25 * 2.0 ** min(failures, 16)))


def test_the_system_draws_the_jitter_when_nobody_else_does(clock):
    waits = set()
    for _ in range(20):
        backoff = Backoff(clock)
        backoff.failed()
        waits.add(backoff.wait_s)
        assert 0 <= backoff.wait_s <= 0.5
    assert len(waits) > 10


def test_an_open_circuit_probes_with_one_record(clock):
    backoff = backoff_of(clock)
    for number in range(OPEN_AFTER):
        assert (backoff.is_open, backoff.limit) == (False, MAX_RECORDS), number
        backoff.failed()
    assert (backoff.is_open, backoff.limit) == (True, 1)


def test_after_an_outage_batches_double_back_to_full_size(clock):
    backoff, limits = backoff_of(clock), []
    for _ in range(OPEN_AFTER):
        backoff.failed()
    for _ in range(11):
        backoff.succeeded()
        limits.append(backoff.limit)
    assert limits == [2, 4, 8, 16, 32, 64, 128, 256, 500, 500, 500]
    assert (backoff.is_open, backoff.wait_s) == (False, 0)


def test_a_collector_that_says_when_is_asked_then_with_a_little_jitter(clock):
    for share, wanted in ((0, 7), (1, 7 * 1.2)):
        backoff = backoff_of(clock, share)
        backoff.failed(7)
        assert backoff.wait_s == pytest.approx(wanted)


@pytest.mark.parametrize("said", [LONGEST_HELD_S, 86_400.0, float("inf")])
def test_a_retry_after_of_days_is_believed_for_five_minutes(clock, said):
    backoff = backoff_of(clock, 0)
    backoff.failed(said)
    assert backoff.wait_s == pytest.approx(LONGEST_HELD_S)


def test_a_collector_that_does_not_know_us_is_asked_rarely(clock):
    backoff = backoff_of(clock)
    for _ in range(20):
        backoff.held()
    assert backoff.wait_s == pytest.approx(LONGEST_HELD_S)
    assert backoff.limit == 1


def test_half_the_batch_after_413_and_full_size_ten_minutes_later(clock):
    backoff = backoff_of(clock)
    backoff.too_large(500)
    assert backoff.limit == 250
    backoff.too_large(1)
    assert backoff.limit == 1
    clock.sleep(SMALLER_FOR_S)
    assert backoff.limit == MAX_RECORDS


@pytest.mark.parametrize("step", [-3600, 3600, 10 * 365 * 86400])
def test_a_clock_that_steps_only_moves_the_next_attempt(clock, step):
    backoff = backoff_of(clock)
    backoff.failed()
    clock.sleep(step)
    assert backoff.wait_s <= max(0.5, 0.5 - step)


def test_retry_after_in_seconds():
    assert [retry_after(text) for text in ("0", "17", " 120 ")] == [0, 17, 120]


def test_retry_after_as_a_date():
    now = dt.datetime(2026, 11, 23, 7, tzinfo=dt.UTC)
    said = email.utils.format_datetime(now + dt.timedelta(seconds=90), usegmt=True)
    assert retry_after(said, now=now.timestamp()) == 90
    assert retry_after(said, now=now.timestamp() + 500) == 0


@pytest.mark.parametrize("text", [None, "", "soon", "-5", "1.5", "1e9", "Mon, 99 Nov 2026 07:00:00 GMT", "²"])
def test_a_retry_after_that_is_neither_is_none(text):
    assert retry_after(text) is None


@example("0\x1f")  # white space to str.strip, and none to float
@given(st.text(max_size=40))
def test_any_retry_after_is_a_wait_or_none(text):
    seconds = retry_after(text)
    assert seconds is None or seconds >= 0


@given(
    st.tuples(
        st.sampled_from(["Mon, ", "", "Xyz "]),
        st.integers(-9, 99),
        st.sampled_from([" Nov ", "-Nov-", " "]),
        st.integers(-1, 10**6),
        st.text("0123456789:+- GMT", max_size=20),
    )
)
def test_a_retry_after_that_looks_like_a_date_raises_nothing(parts):
    seconds = retry_after("".join(str(part) for part in parts))
    assert seconds is None or seconds >= 0
