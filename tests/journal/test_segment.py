from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.journal.segment import LONGEST_LINE, peek, segment_name, segment_ordinals, split_lines

LINES = st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\n", b" ")), max_size=20)


@given(LINES, st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")), st.integers(0, 2**40))
def test_whole_lines_come_out_as_they_went_in_and_the_rest_waits(lines, torn, start):
    found = split_lines(b"".join(line + b"\n" for line in lines) + torn, start)
    assert [line.data for line in found] == lines
    assert not any(line.damage for line in found)


@given(st.binary(max_size=400), st.integers(0, 2**40))
def test_every_line_ends_where_the_next_begins(chunk, start):
    at = start
    for line in split_lines(chunk, start):
        assert line.end == at + len(line.data) + 1
        at = line.end
    assert b"\n" not in chunk[at - start :]


@given(st.integers(0, 3), st.integers(-1, 3))
def test_a_run_without_newline_never_blocks(before, beyond):
    chunk = b"x\n" * before + b"\0" * (LONGEST_LINE + beyond)
    found = split_lines(chunk, 0)
    assert len(found) == before + (beyond > 0)
    if beyond > 0:
        assert (found[-1].damage, found[-1].end) == (True, len(chunk))


def test_a_line_too_long_to_be_ours_is_damage():
    (line,) = split_lines(b"x" * (LONGEST_LINE + 1) + b"\n", 0)
    assert line.damage


@given(st.lists(st.integers(0, 10**10 - 1), unique=True, max_size=8), st.lists(st.text(max_size=20), max_size=5))
def test_segments_are_found_in_order_among_any_names(ordinals, foreign):
    names = [segment_name(ordinal) for ordinal in ordinals]
    foreign = [name for name in foreign if not name.startswith("seg-")]
    assert segment_ordinals(
        [*foreign, *names, "seg-1.ndjson", ".seg-0000000001.ndjson", "seg-0000000001.ndjson.gz"]
    ) == sorted(ordinals)


@given(st.binary(max_size=200))
def test_a_look_at_the_start_of_any_bytes_does_not_raise(data):
    assert peek(data) is None
