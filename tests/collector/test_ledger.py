"""The ledger: what it writes, what it gives back, who may write."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from audit_middleware.collector.ledger_reader import LedgerReader
from audit_middleware.errors import BadLedger, BadProof, BadSignature, StorageError
from audit_middleware.tlog import merkle
from audit_middleware.tlog.checkpoint import open_checkpoint
from audit_middleware.tlog.merkle import leaf_hash
from audit_middleware.tlog.note import Signer
from audit_middleware.tlog.reader import LogReader
from audit_middleware.tlog.tiles import partial_tiles
from tests.collector.ledger_simulators import SIGNER, BucketStore, Clock, entries, open_ledger, snapshot


def root_at(size):
    return merkle.root_of([leaf_hash(entry) for entry in entries(0, size)])


def test_an_empty_ledger_has_a_signed_checkpoint(tmp_path):
    with open_ledger(tmp_path) as ledger:
        assert (ledger.size, ledger.root, ledger.origin) == (0, merkle.EMPTY_ROOT, SIGNER.name)
        assert open_checkpoint(ledger.checkpoint, ledger.verifier).size == 0
        assert (tmp_path / "log/checkpoint").read_bytes() == ledger.checkpoint
        assert ledger.append([]).last == -1


@pytest.mark.parametrize("steps", [(1,), (256,), (255, 1, 1), (300, 300), (1000, 1), (257,) * 5])
def test_entries_come_back_under_a_checkpoint_that_proves_each(tmp_path, steps):
    with open_ledger(tmp_path) as ledger:
        size = 0
        for step in steps:
            commit = ledger.append(entries(size, size + step))
            assert (commit.first, commit.last) == (size, size + step - 1)
            size += step
            checkpoint = open_checkpoint(commit.checkpoint, SIGNER.verifier)
            assert (checkpoint.size, checkpoint.root) == (size, root_at(size))
        assert list(ledger.entries()) == entries(0, size)
        for index in {0, size // 3, size - 1}:
            assert ledger.entry(index) == entries(index, index + 1)[0]
            proof = ledger.inclusion(index, size)
            merkle.verify_inclusion(leaf_hash(ledger.entry(index)), index, size, proof, ledger.root)
        proof = ledger.consistency(steps[0], size)
        merkle.verify_consistency(steps[0], root_at(steps[0]), size, ledger.root, proof)


def test_a_range_of_entries_is_given_with_both_ends(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(entries(0, 700))
        for first, last in ((0, 0), (255, 256), (3, 600), (699, 699), (256, 511)):
            assert list(ledger.entries(first, last)) == entries(first, last + 1)
        assert list(ledger.entries(690)) == entries(690, 700)


def test_what_is_not_in_the_ledger_is_not_given(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(entries(0, 10))
        for index in (-1, 10):
            with pytest.raises(BadLedger):
                ledger.entry(index)
        with pytest.raises(BadProof):
            ledger.inclusion(10, 10)
        with pytest.raises(BadLedger, match="does not reach"):
            ledger.inclusion(10, 11)
        with pytest.raises(BadLedger):
            list(ledger.entries(0, 10))


def test_leaf_hashes_computed_by_the_caller_give_the_same_ledger(tmp_path):
    for name, leaves in (("a", None), ("b", [leaf_hash(entry) for entry in entries(0, 300)])):
        with open_ledger(tmp_path / name) as ledger:
            ledger.append(entries(0, 300), leaves)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    with open_ledger(tmp_path / "c") as ledger, pytest.raises(ValueError, match="leaf hashes"):
        ledger.append(entries(0, 2), [bytes(32)])


def test_an_entry_too_long_for_a_bundle_is_refused_and_nothing_happened(tmp_path):
    with open_ledger(tmp_path) as ledger:
        with pytest.raises(BadLedger):
            ledger.append([b"x" * 65_536])
        assert ledger.append(entries(0, 1)).last == 0


def test_a_closed_and_reopened_ledger_continues(tmp_path):
    for size in (0, 255, 256, 300, 1000):
        with open_ledger(tmp_path) as ledger:
            assert ledger.size == size
            ledger.append(entries(size, {0: 255, 255: 256, 256: 300, 300: 1000, 1000: 1001}[size]))
    assert LedgerReader(tmp_path / "log", SIGNER.verifier).checkpoint().root == root_at(1001)


def test_a_second_writer_on_one_folder_is_refused(tmp_path):
    with open_ledger(tmp_path), pytest.raises(StorageError, match="one writer"):
        open_ledger(tmp_path)
    open_ledger(tmp_path).close()


def test_a_second_process_on_one_folder_is_refused(tmp_path):
    with open_ledger(tmp_path):
        process = multiprocessing.get_context("spawn").Process(target=open_ledger, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == 1


def test_a_second_signer_on_one_folder_is_refused(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(entries(0, 3))
    for other in (Signer(SIGNER.name, bytes(32)), Signer("other.example", SIGNER.seed)):
        with pytest.raises(BadSignature):
            open_ledger(tmp_path, signer=other)
    open_ledger(tmp_path).close()


def test_a_closed_ledger_takes_nothing_and_may_be_closed_again(tmp_path):
    ledger = open_ledger(tmp_path)
    ledger.close()
    ledger.close()
    with pytest.raises(StorageError, match="closed"):
        ledger.append(entries(0, 1))


def test_the_partial_tiles_kept_are_those_of_the_last_two_checkpoints(tmp_path):
    sizes = [3, 40, 255, 256, 300, 800, 801]
    with open_ledger(tmp_path) as ledger:
        for before, size in zip([0, *sizes], sizes, strict=False):
            ledger.append(entries(before, size))
            stored = {path for path in snapshot(tmp_path / "log") if ".p/" in path}
            assert stored == {tile.path for tile in partial_tiles(before) | partial_tiles(size)}


def test_checkpoints_are_archived_first_then_one_a_minute_and_at_the_end(tmp_path):
    clock = Clock()
    with open_ledger(tmp_path, clock=clock) as ledger:
        for size, now in enumerate((0, 30, 59, 60, 61, 119, 120.5, 130), 1):
            clock.now = now
            ledger.append(entries(size - 1, size))
    folder = tmp_path / "log" / "checkpoints"
    assert sorted(os.listdir(folder)) == ["1", "4", "7", "8"]
    for size in (1, 4, 7, 8):
        archived = open_checkpoint((folder / str(size)).read_bytes(), SIGNER.verifier)
        assert (archived.size, archived.root) == (size, root_at(size))


def test_the_checkpoint_found_when_opening_is_archived(tmp_path):
    ledger = open_ledger(tmp_path)
    for size in (0, 1):
        ledger.append(entries(size, size + 1))
    ledger._folder.close()  # the process is gone before it could archive the second one
    assert os.listdir(tmp_path / "log/checkpoints") == ["1"]
    open_ledger(tmp_path).close()
    assert sorted(os.listdir(tmp_path / "log/checkpoints")) == ["1", "2"]


def test_a_missing_tile_is_named_also_when_the_store_does_not_hold_the_checkpoint(tmp_path):
    bucket = BucketStore()
    with open_ledger(tmp_path, store=bucket) as ledger:
        ledger.append(entries(0, 300))
        del bucket.files["tile/entries/000"]
        reader = LogReader(bucket.get, SIGNER.verifier, checkpoint=open_checkpoint(ledger.checkpoint, SIGNER.verifier))
        for read in (reader.entry, ledger.entry):
            with pytest.raises(BadLedger) as caught:
                read(0)
            assert caught.value.where == "tile/entries/000"


def test_a_ledger_in_a_bucket_that_keeps_everything_equals_one_in_files(tmp_path):
    bucket = BucketStore()
    for where, store in (("files", None), ("bucket", bucket)):
        with open_ledger(tmp_path / where, store=store) as ledger:
            for size in (0, 200, 400, 600):
                ledger.append(entries(size, size + 200))
    files = snapshot(tmp_path / "files/log")
    assert all(bucket.files[key] == data for key, data in files.items() if key.startswith(("tile", "checkpoints/")))
    read = LedgerReader(bucket, SIGNER.verifier)
    with pytest.raises(BadLedger, match="missing"):
        read.checkpoint()


def test_an_auditor_reads_without_lock_or_private_key_and_leaves_no_trace(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(entries(0, 600))
        before = snapshot(tmp_path)
        reader = LedgerReader(tmp_path / "log", SIGNER.verifier)
        assert reader.checkpoint().size == 600
        assert [entry for _, entry in reader.entries()] == entries(0, 600)
        assert next(reader.entries(300)) == (300, entries(300, 301)[0])
        assert reader.entry(599) == entries(599, 600)[0]
        reader.check_tiles()
        assert snapshot(tmp_path) == before


def test_an_auditor_is_not_disturbed_by_a_log_that_grows(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(entries(0, 10))
        reader = LedgerReader(tmp_path / "log", SIGNER.verifier)
        assert reader.checkpoint().size == 10
        for size in (10, 20, 30, 290):
            ledger.append(entries(size, size + (260 if size == 30 else 10)) if size < 290 else [])
            reader.check_tiles()
            assert [entry for _, entry in reader.entries()] == entries(0, 10)
        assert reader.refresh().size == 290
        reader.check_tiles()
        merkle.verify_consistency(10, root_at(10), 290, root_at(290), reader.consistency(10))


def test_entries_are_read_while_others_are_appended(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(entries(0, 5))
        stream = ledger.entries()
        assert next(stream) == entries(0, 1)[0]
        for size in range(5, 300, 59):
            ledger.append(entries(size, size + 59))
        assert list(stream) == entries(1, 5)
