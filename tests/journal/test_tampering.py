"""What somebody does to a journal that lies there; each attack is named by `verify_spool`."""

import pytest

from audit_middleware.journal.spool import Spool
from audit_middleware.sealing.seal import Sealer, parse_frame
from audit_middleware.sealing.text import unb64url
from tests.journal.kit import (
    KEYRING,
    OTHER_KEYRING,
    Clock,
    append,
    findings,
    folders,
    lines_of,
    segments,
    tampering,
)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def recorder(open_recorder, clock):
    recorder = open_recorder(monotonic=clock)
    append(recorder, 6)
    return recorder


@pytest.fixture
def journal(spool, recorder):
    """A dead stream: the segment file of seven lines and a close."""
    recorder.close()
    return segments(folders(spool)[0])[0]


def rewrite(path, change):
    lines = path.read_bytes().split(b"\n")[:-1]
    path.write_bytes(b"".join(line + b"\n" for line in change(lines)))


def rules(spool, **kwargs):
    return {(finding.rule, finding.where.rpartition(" line ")[2]) for finding in tampering(spool, **kwargs)}


def test_an_untouched_journal_is_good(spool, journal):
    assert findings(spool, besides=()) == []


def test_an_altered_line_is_named_by_file_and_line_number(spool, journal):
    rewrite(journal, lambda lines: [*lines[:3], lines[3].replace(b"alice", b"mallo"), *lines[4:]])
    (finding,) = tampering(spool)
    assert (finding.rule, finding.where) == ("seal", f"streams/{journal.parent.name}/{journal.name} line 4")


@pytest.mark.parametrize("number", range(1, 7))
def test_a_deleted_line_is_named_where_it_is_missing(spool, journal, number):
    rewrite(journal, lambda lines: lines[:number] + lines[number + 1 :])
    (finding,) = tampering(spool)
    assert finding.rule == "gap"
    assert finding.where.endswith(f" line {number + 1}")
    assert f"{number} to {number} are missing" in finding.message


def test_a_deleted_segment_is_named_by_the_line_behind_it(spool, open_recorder, monkeypatch):
    monkeypatch.setattr("audit_middleware.journal.journal.SEGMENT_BYTES", 1200)
    recorder = open_recorder()
    append(recorder, 12)
    recorder.close()
    segments(folders(spool)[0])[2].unlink()
    assert [finding.rule for finding in tampering(spool)] == ["gap"]


def test_lines_in_another_order_are_named(spool, journal):
    rewrite(journal, lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]])
    assert {rule for rule, _ in rules(spool)} >= {"order"}


def test_a_replayed_line_is_named(spool, journal):
    rewrite(journal, lambda lines: [*lines[:5], lines[2], *lines[5:]])
    assert rules(spool) == {("replay", "6")}


def test_a_line_inserted_with_another_key_is_named(spool, journal):
    def insert(lines):
        frame = parse_frame(lines[4])
        forger = Sealer(OTHER_KEYRING, unb64url(frame.stream.encode()))
        forger.seq, forger.prev = frame.seq, frame.prev
        return [*lines[:4], forger.seal(b"event", b"2026-11-23T07:00:00.000001Z", b"{}"), *lines[4:]]

    rewrite(journal, insert)
    assert ("unchecked", "unknown_key") in findings(spool)
    assert [finding.rule for finding in tampering(spool)] != []


def test_a_line_sealed_with_the_wrong_key_under_the_right_name_is_named(spool, journal):
    def insert(lines):
        frame = parse_frame(lines[4])
        forger = Sealer(type(KEYRING)({"k1": bytes(32)}), unb64url(frame.stream.encode()))
        forger.seq, forger.prev = frame.seq, frame.prev
        return [*lines[:4], forger.seal(b"event", b"2026-11-23T07:00:00.000001Z", frame.rec), *lines[5:]]

    rewrite(journal, insert)
    assert ("seal", "5") in rules(spool)


def test_two_lines_for_one_number_are_a_conflict(spool, journal):
    def fork(lines):
        frame = parse_frame(lines[4])
        twin = Sealer(KEYRING, unb64url(frame.stream.encode()))
        twin.seq, twin.prev = frame.seq, frame.prev
        return [*lines[:5], twin.seal(b"event", b"2026-11-23T07:00:00.000001Z", frame.rec), *lines[5:]]

    rewrite(journal, fork)
    assert rules(spool) == {("conflict", "6")}


def test_a_line_of_another_stream_is_named(spool, journal, open_recorder):
    other = open_recorder()
    append(other)
    foreign = lines_of(spool / "streams" / other.stream)[1]
    other.close()
    rewrite(journal, lambda lines: [*lines, foreign])
    assert rules(spool) == {("stream", "9")}


@pytest.mark.parametrize("kept", [0, 1, 3, 6])
def test_a_truncated_tail_is_named_by_the_stream_that_came_next(spool, journal, open_recorder, kept):
    following = open_recorder()
    append(following)
    following.close()
    rewrite(journal, lambda lines: lines[:kept])
    (finding,) = tampering(spool)
    assert finding.rule == "truncated"
    assert "reached 7 when the next one began" in finding.message


def test_a_truncated_tail_is_named_by_what_was_delivered(spool, journal):
    outbox = Spool(spool).outbox(journal.parent.name)
    outbox.advance(outbox.pending(6, 1 << 20)[-1])
    outbox.release()
    rewrite(journal, lambda lines: lines[:4])
    (finding,) = tampering(spool)
    assert (finding.rule, finding.where) == ("truncated", journal.parent.name)


def test_a_last_line_that_was_exchanged_is_named_by_the_stream_that_came_next(spool, journal, open_recorder):
    def exchange(lines):
        frame = parse_frame(lines[-1])
        twin = Sealer(KEYRING, unb64url(frame.stream.encode()))
        twin.seq, twin.prev = frame.seq, frame.prev
        return [*lines[:-1], twin.seal(b"close", b"2026-11-23T07:00:00.000001Z", frame.rec)]

    following = open_recorder()
    append(following)
    following.close()
    rewrite(journal, exchange)
    assert [finding.rule for finding in tampering(spool)] == ["broken"]


def test_a_head_that_was_removed_before_anything_was_delivered_is_named(spool, journal):
    rewrite(journal, lambda lines: lines[2:])
    (finding,) = tampering(spool)
    assert (finding.rule, finding.seq) == ("truncated", 2)
    assert "nothing of it was ever delivered" in finding.message


def test_a_head_removed_beyond_what_was_delivered_cannot_be_told_from_an_old_cursor(spool, journal):
    from audit_middleware.journal.cursor import Position, Slot, encode_slot

    (journal.parent / "cursor").write_bytes(encode_slot(Slot(0, Position(2, 0, 100))) * 2)
    rewrite(journal, lambda lines: lines[4:])
    assert tampering(spool) == []
    assert "truncated" in {rule for _, rule, *_ in findings(spool, besides=())}
    (journal.parent / "cursor").write_bytes(encode_slot(Slot(0, Position(5, 0, 100))) * 2)
    assert findings(spool, besides=()) == []


def test_an_undelivered_stream_that_was_removed_whole_is_named_by_the_next(spool, journal, open_recorder):
    import shutil

    recorder = open_recorder()
    append(recorder, 2)
    recorder.close()
    assert findings(spool, besides=()) == []
    shutil.rmtree(journal.parent)
    assert [rule for _, rule, *_ in findings(spool, besides=())] == ["missing_stream"]
