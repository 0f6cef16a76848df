"""What somebody does to a journal that is being written: noticed within a second, named, and left."""

import os
import shutil

import pytest

from audit_middleware.errors import JournalError
from tests.journal.kit import (
    Clock,
    append,
    folders,
    numbers,
    parsed,
    record_of,
    segments,
)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def recorder(open_recorder, clock):
    recorder = open_recorder(monotonic=clock)
    append(recorder, 6)
    return recorder


def watch(recorder, clock):
    clock.sleep(2)
    recorder.upkeep()


def remove(path):
    path.unlink()


def cut(path):
    os.truncate(path, 100)


def swap(path):
    path.rename(path.with_name("aside"))
    path.write_bytes(path.with_name("aside").read_bytes())


def link(path):
    os.link(path, path.with_name("aside"))


@pytest.mark.parametrize(
    ("attack", "said"), [(remove, "removed"), (cut, "cut from"), (swap, "swapped"), (link, "second name")]
)
def test_a_segment_that_is_touched_under_its_writer_is_noticed_named_and_left(spool, recorder, clock, attack, said):
    (folder,) = folders(spool)
    attack(segments(folder)[0])
    watch(recorder, clock)
    append(recorder, 2)
    events = [line["rec"] for line in parsed(folder) if line["rec"].get("action") == "audit.journal.tampered"]
    assert said in events[0]["reason"]
    assert numbers(folder)[-3:] == [7, 8, 9]
    watch(recorder, clock)
    assert len([line for line in parsed(folder) if line["rec"].get("action") == "audit.journal.tampered"]) == 1


def test_a_stream_whose_folder_was_removed_is_given_up_for_a_new_one_that_says_so(spool, recorder, clock):
    (folder,) = folders(spool)
    shutil.rmtree(folder)
    append(recorder)  # the loss is bounded by the second in which nobody looked
    watch(recorder, clock)
    append(recorder, 2)
    (new,) = folders(spool)
    assert new.name != folder.name
    assert [line["type"] for line in parsed(new)] == ["open", "event", "event", "event"]
    assert parsed(new)[0]["rec"]["previous"] | {"leaf": ""} == {"stream": folder.name, "seq": 7, "leaf": ""}
    assert parsed(new)[1]["rec"]["action"] == "audit.journal.tampered"


def test_a_spool_that_was_removed_whole_is_made_again(spool, recorder, clock):
    shutil.rmtree(spool)
    watch(recorder, clock)
    append(recorder, 2)
    assert numbers(folders(spool)[0]) == [0, 1, 2, 3]
    assert spool.stat().st_mode & 0o777 == 0o700


def test_a_spool_that_cannot_be_made_again_is_an_error_and_recovers(spool, recorder, clock):
    shutil.rmtree(spool)
    spool.write_bytes(b"")
    watch(recorder, clock)
    with pytest.raises(JournalError):
        recorder.append(b"event", record_of())
    spool.unlink()
    clock.sleep(2)
    append(recorder)
    assert [line["type"] for line in parsed(folders(spool)[0])] == ["open", "drop", "event"]
