from datetime import UTC, datetime, timedelta
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.collector.answer import parse_tree_sizes
from audit_middleware.collector.index_rows import entry_id, microseconds, split_id
from audit_middleware.collector.logs import period_of
from audit_middleware.collector.streams import GapEvent, Stream, Streams, merged
from audit_middleware.sealing.seal import leaf_hash, parse_frame
from audit_middleware.sealing.text import b64url
from tests.collector.kit import App


def follow(streams, app, numbers):
    events = []
    for number in numbers:
        line = app.lines[number]
        stream = streams.find(app.stream) or streams.fresh(app.stream)
        events += streams.move(stream, parse_frame(line), b64url(leaf_hash(line)))
    return list(merged(events))


def nothing(_stream):
    return None


def test_gaps_are_opened_and_filled_by_ranges():
    app = App()
    app.requests(9)
    streams = Streams(nothing, 10)
    s = app.stream
    assert follow(streams, app, [0, 5]) == [GapEvent(s, 1, 4, True)]
    assert follow(streams, app, [2, 3]) == [GapEvent(s, 2, 3, False)]
    assert streams.open_gaps == 2
    assert follow(streams, app, [4, 1]) == [GapEvent(s, 4, 4, False), GapEvent(s, 1, 1, False)]
    assert streams.open_gaps == 0


def test_a_late_line_that_shows_its_neighbours_were_given_up_fills_their_places_too():
    app = App()
    app.request()
    app.sealer.skip()
    app.request()  # seq 3
    app.sealer.skip()
    app.request()  # seq 5
    streams = Streams(nothing, 10)
    assert follow(streams, app, [0, 3]) == [GapEvent(app.stream, 1, 4, True)]
    assert follow(streams, app, [2]) == [GapEvent(app.stream, 3, 4, False)]
    assert follow(streams, app, [1]) == [GapEvent(app.stream, 1, 2, False)]


@given(st.permutations(range(10)), st.integers(0, 9))
def test_a_stream_survives_being_written_down_at_any_moment(order, at):
    app = App()
    app.requests(9)
    kept = {}
    streams = Streams(nothing, 10)
    follow(streams, app, order[:at])
    kept = {state.stream: state for state in streams.take_moved()}
    restored = Streams(kept.get, 10, count(len(kept) + 1), streams.open_gaps)
    follow(restored, app, order[at:])
    assert restored.open_gaps == 0
    (state,) = restored.take_moved() or kept.values()
    assert (state.next, state.gaps, state.number) == (10, "[]", 1)
    assert Stream.restore(state).state() == state


@given(st.datetimes().map(lambda moment: moment.replace(fold=0)))
def test_time_stamps_become_microseconds(moment):
    expected = (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert microseconds(moment.strftime("%Y").zfill(4) + moment.strftime("-%m-%dT%H:%M:%S.%fZ")) == expected


@given(st.integers(1, 1 << 20), st.integers(0, (1 << 40) - 1))
def test_an_entry_id_can_be_taken_apart(log, index):
    assert split_id(entry_id(log, index)) == (log, index)


def test_half_years_are_utc():
    assert [period_of(seconds) for seconds in (0, 1_782_863_999, 1_782_864_000)] == ["1970h1", "2026h1", "2026h2"]


def test_tree_sizes_that_cannot_be_read_are_left_out():
    assert parse_tree_sizes(["a 1, b  22", "c", "d -1", "e 01", "f 1 2", ""]) == {"a": 1, "b": 22}
    assert len(parse_tree_sizes([",".join(f"o{n} {n}" for n in range(100))])) == 32
