"""Durability fsync against a disk that loses power: what the watermark said is synced is there afterwards."""

import contextlib
import errno
import os
import random

import pytest

from audit_middleware.errors import JournalError
from audit_middleware.journal.spool import Spool
from audit_middleware.testing import PowerLossFiles
from tests.journal.kit import append, folders, lines_of, recorder_for, tampering


def live(spool, chance, files):
    """A process life that ends at a random moment; returns the lines that were promised to be on disk."""
    recorder = recorder_for(spool, files=files, durability="fsync")
    promised = []
    opened = Spool(spool, files)
    for _ in range(chance.randrange(1, 12)):
        append(recorder, chance.randrange(1, 6))
        if chance.random() < 0.6:
            with contextlib.suppress(JournalError):
                recorder.sync()
                promised = lines_of(spool / "streams" / recorder.stream)
    stream = recorder.stream
    recorder._writer.abandon()
    opened.close()
    return stream, promised


def after_power_loss(spool, seed, files=None):
    chance = random.Random(seed)
    files = files or PowerLossFiles()
    try:
        stream, promised = live(spool, chance, files)
        files.lose_power(chance.choice)
    finally:
        files.close_all()
    folder = spool / "streams" / stream
    return promised, lines_of(folder) if folder.is_dir() else []


class FsyncGate(PowerLossFiles):
    """A sync that fails now and then; after that the kernel says yes for that file, and saves nothing of it."""

    def __init__(self, chance):
        super().__init__()
        self.chance, self.failed = chance, set()

    def datasync(self, fd):
        inode = os.fstat(fd).st_ino
        if inode not in self.failed and self.chance.random() < 0.3:
            self.failed.add(inode)
            raise OSError(errno.EIO, "simulated")
        if inode not in self.failed:
            super().datasync(fd)


def test_no_synced_record_is_lost_when_syncs_fail_before_the_power_does(tmp_path, monkeypatch):
    monkeypatch.setattr("audit_middleware.journal.journal.SEGMENT_BYTES", 2500)
    for seed in range(60):
        promised, found = after_power_loss(tmp_path / str(seed), seed, FsyncGate(random.Random(seed)))
        assert [line for line in promised if line not in found] == [], f"seed {seed}"


@pytest.mark.parametrize("part", range(4))
def test_no_synced_record_is_lost_and_none_is_invented(tmp_path, monkeypatch, part):
    monkeypatch.setattr("audit_middleware.journal.journal.SEGMENT_BYTES", 2500)
    for seed in range(part * 25, part * 25 + 25):
        spool = tmp_path / str(seed)
        promised, found = after_power_loss(spool, seed)
        assert [line for line in promised if line not in found] == [], f"seed {seed}"
        for folder in folders(spool):
            outbox = Spool(spool).outbox(folder.name)
            sent = [item.line.data for item in outbox.pending(10_000, 1 << 24)]
            assert [line for line in promised if line not in sent] == [], f"seed {seed}"
            outbox.release()
        named = {finding.rule for finding in tampering(spool)}
        assert named <= {"line", "gap", "seal"}, f"seed {seed}: only damaged bytes, nothing valid that is wrong"


def losses(tmp_path, seeds=40):
    lost = 0
    for seed in range(seeds):
        promised, found = after_power_loss(tmp_path / str(seed), seed)
        lost += any(line not in found for line in promised)
    return lost


def test_the_model_notices_a_journal_that_does_not_sync_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(PowerLossFiles, "sync_folder", lambda self, fd: None)
    assert losses(tmp_path) > 10


def test_the_model_notices_a_journal_that_does_not_sync_its_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(PowerLossFiles, "datasync", lambda self, fd: None)
    assert losses(tmp_path) > 10


def test_the_cursor_needs_no_sync(tmp_path):
    """Old, zeroed or gone, it only makes the lines be sent again."""
    for seed in range(30):
        spool, chance, files = tmp_path / str(seed), random.Random(seed), PowerLossFiles()
        recorder = recorder_for(spool, files=files, durability="fsync")
        append(recorder, 8)
        recorder.sync()
        whole = lines_of(spool / "streams" / recorder.stream)
        opened = Spool(spool, files)
        outbox = opened.outbox(recorder.stream)
        outbox.advance(outbox.pending(5, 1 << 20)[-1])
        outbox.release()
        stream = recorder.stream
        recorder._writer.abandon()
        files.lose_power(chance.choice)
        again = Spool(spool).outbox(stream)
        sent = [item.line.data for item in again.pending(100, 1 << 20)]
        again.release()
        opened.close()
        assert sent in (whole[5:], whole), f"seed {seed}"
