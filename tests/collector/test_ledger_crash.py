"""A commit that is cut off anywhere: the files are those of an uninterrupted run, and no checkpoint is contradicted."""

from __future__ import annotations

import contextlib
import errno

import pytest

from audit_middleware.collector.ledger_reader import LedgerReader
from audit_middleware.errors import StorageError
from audit_middleware.tlog.checkpoint import open_checkpoint
from audit_middleware.tlog.merkle import verify_consistency
from tests.collector.ledger_simulators import (
    SIGNER,
    BucketStore,
    CrashingFiles,
    FailingFiles,
    PowerCut,
    entries,
    open_ledger,
    snapshot,
)

STEPS = (100, 250, 600)
"""Sizes after each commit; the second and the third cross a border of tiles, the third two."""


def fill(folder, steps=STEPS, *, files=None):
    """Append what is missing, commit by commit; return the checkpoints that were given out."""
    given = []
    with open_ledger(folder, files=files) as ledger:
        for size in steps:
            if ledger.size < size:
                given.append(ledger.append(entries(ledger.size, size)).checkpoint)
    return given


def count_calls(folder):
    folder.mkdir()
    files = CrashingFiles()
    fill(folder, files=files)
    return files.calls


def signed_checkpoints(folder):
    """Return what was signed so far and could have been seen: published, or in the second place."""
    paths = (folder / "log/checkpoint", folder / "guard/default")
    return [open_checkpoint(path.read_bytes(), SIGNER.verifier) for path in paths if path.exists()]


def assert_continues(folder, earlier):
    reader = LedgerReader(folder / "log", SIGNER.verifier)
    for old in earlier:
        new = reader.checkpoint()
        verify_consistency(old.size, old.root, new.size, new.root, reader.consistency(old.size))


@pytest.mark.parametrize("lossy", [False, True], ids=["process killed", "power cut"])
def test_a_crash_after_any_call_gives_the_files_of_an_uninterrupted_run(tmp_path, lossy):
    calls = count_calls(tmp_path / "whole")
    expected = snapshot(tmp_path / "whole")
    assert calls > 150, "every file call of the ledger and its store is counted"
    for limit in range(calls):
        folder = tmp_path / str(limit)
        folder.mkdir()
        with pytest.raises(PowerCut):
            fill(folder, files=CrashingFiles(limit, lossy=lossy))
        seen = signed_checkpoints(folder)
        fill(folder)
        found = snapshot(folder)
        differing = {key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)}
        # restarting archives the checkpoint it finds, and that is the only trace
        assert {key for key in differing if not key.startswith("log/checkpoints/")} == set(), limit
        assert_continues(folder, seen)
        LedgerReader(folder / "log", SIGNER.verifier).check_tiles()


@pytest.mark.parametrize("lossy", [False, True], ids=["killed, then a power cut", "two power cuts"])
def test_a_second_crash_during_recovery_is_recovered_from(tmp_path, lossy):
    calls = count_calls(tmp_path / "whole")
    expected = snapshot(tmp_path / "whole")
    for limit in range(calls * 2 // 3, calls, 7):
        for again in range(0, 90, 5):
            folder = tmp_path / f"{limit}-{again}"
            folder.mkdir()
            first = CrashingFiles(limit, lossy=lossy)
            with pytest.raises(PowerCut):
                fill(folder, files=first)
            with contextlib.suppress(PowerCut):  # this run may be short enough to finish
                fill(folder, files=CrashingFiles(again, lossy=True, after=None if lossy else first))
            fill(folder)
            found = snapshot(folder)
            assert {key: data for key, data in found.items() if "checkpoints/" not in key} == {
                key: data for key, data in expected.items() if "checkpoints/" not in key
            }


def test_a_commit_that_was_acknowledged_survives_a_power_cut_at_once(tmp_path):
    files = CrashingFiles(lossy=True)
    ledger = open_ledger(tmp_path, files=files)
    commit = ledger.append(entries(0, 300))
    files.limit = files.calls
    with pytest.raises(PowerCut):
        ledger.append(entries(300, 301))
    ledger._folder.close()
    with open_ledger(tmp_path) as again:
        assert (again.size, again.checkpoint) == (300, commit.checkpoint)
        assert list(again.entries()) == entries(0, 300)


KINDS = [("create", 10), ("write", 10), ("sync", 10), ("link", 7), ("rename", 3), ("sync_folder", 8)]
"""Kinds of calls, and how many of each the second commit of the next test makes."""


@pytest.mark.parametrize("done", [False, True], ids=["failed", "failed but done"])
@pytest.mark.parametrize(("kind", "most"), KINDS)
def test_a_failed_call_poisons_the_ledger_and_opening_it_again_recovers(tmp_path, kind, most, done):
    for number in range(1, most + 1):
        folder = tmp_path / str(number)
        files = FailingFiles(kind, 0, done=done, error=OSError(errno.EIO, "Input/output error"))
        ledger = open_ledger(folder, files=files)
        ledger.append(entries(0, 200))
        files.asked, files.number = 0, number
        with pytest.raises(StorageError, match="Input/output error"):
            ledger.append(entries(200, 600))
        with pytest.raises(StorageError, match="restart to recover"):
            ledger.append(entries(600, 601))
        assert files.asked == number, "a call that failed is never tried again"
        assert list(ledger.entries(0, 199)) == entries(0, 200), "reading goes on"
        ledger.close()
        with open_ledger(folder) as again:
            assert again.size in {200, 600}
            again.append(entries(again.size, 700))
        LedgerReader(folder / "log", SIGNER.verifier).check_tiles()


def test_a_full_disk_refuses_the_commit_and_loses_nothing(tmp_path):
    files = FailingFiles("write", 0, done=False, error=OSError(errno.ENOSPC, "No space left on device"))
    ledger = open_ledger(tmp_path, files=files)
    ledger.append(entries(0, 10))
    files.asked, files.number = 0, 1
    with pytest.raises(StorageError, match="No space left on device"):
        ledger.append(entries(10, 20))
    ledger.close()
    with open_ledger(tmp_path) as again:
        assert again.append(entries(10, 20)).first == 10


@pytest.mark.parametrize("lose", ["request", "response"])
@pytest.mark.parametrize("number", range(1, 6))
def test_a_bucket_that_loses_a_request_or_its_answer_is_recovered_from(tmp_path, lose, number):
    bucket = BucketStore()
    ledger = open_ledger(tmp_path, store=bucket)
    ledger.append(entries(0, 200))
    bucket.lose, bucket.fail_at = lose, bucket.puts + number
    with pytest.raises(StorageError):
        ledger.append(entries(200, 600))
    ledger.close()
    with open_ledger(tmp_path, store=bucket) as again:
        assert again.size == 600, "the write-ahead is the commit point"
        assert list(again.entries()) == entries(0, 600)
