"""The bounds of the spool: policy acts before the disk is full."""

import pytest

from audit_middleware.errors import JournalError
from audit_middleware.journal.spool import Spool
from audit_middleware.testing import FaultyFiles
from tests.journal.kit import Clock, append, findings, folders, parsed, record_of


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def files():
    return FaultyFiles()


def drops(folder):
    return [line["rec"] for line in parsed(folder) if line["type"] == "drop"]


@pytest.mark.parametrize("free", [0, 1 << 20])
def test_too_little_free_space_stops_before_the_disk_is_full(spool, open_recorder, files, clock, free):
    recorder = open_recorder(files=files, monotonic=clock, spool_min_free=256 << 20)
    append(recorder)
    files.free = (free, 100 << 30)
    clock.sleep(4)
    with pytest.raises(JournalError, match="have to stay free"):
        recorder.append(b"event", record_of())
    files.free = (100 << 30, 100 << 30)
    clock.sleep(2)
    append(recorder)
    assert {rule for _, rule in findings(spool)} == {"given_up", "drop"}


def test_a_spool_at_its_bound_takes_records_again_once_it_was_delivered(spool, open_recorder, clock, monkeypatch):
    monkeypatch.setattr("audit_middleware.journal.journal.SEGMENT_BYTES", 4096)
    recorder = open_recorder(monotonic=clock, spool_max=100_000)
    refused = []
    for number in range(200):
        clock.sleep(0.7)
        try:
            recorder.append(b"event", record_of(number))
        except JournalError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert "its bound is 100000" in refused[0]
    outbox = Spool(spool).outbox(recorder.stream)
    outbox.advance(outbox.pending(1000, 1 << 20)[-1])
    outbox.release()
    clock.sleep(2)
    append(recorder, 5)
    clock.sleep(2)
    assert drops(folders(spool)[0])[-1]["count"] >= 1
    assert {severity for severity, _ in findings(spool)} == {"note"}
