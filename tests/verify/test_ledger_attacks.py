"""Attacks on a ledger, by somebody who can write its files: each is found, named, and said in plain words."""

import itertools
import shutil

import pytest

from audit_middleware.collector_record import ConflictFound, Quarantined
from audit_middleware.sealing.encode import encode_rec
from audit_middleware.sealing.keys import new_key, parse_keys
from audit_middleware.sealing.seal import Sealer
from audit_middleware.sealing.text import b64url
from audit_middleware.tlog.checkpoint import Checkpoint, sign_checkpoint
from audit_middleware.tlog.merkle import leaf_hash, root_of
from audit_middleware.tlog.note import Signer
from audit_middleware.tlog.reader import LogReader
from audit_middleware.tlog.tiles import encode_bundle, entries_path, tile_path
from audit_middleware.verify import Severity, verify_logs
from audit_middleware.verify.ledger import Log
from tests.sealing.test_lines import record

KEYS = parse_keys(f"k1:{'A' * 43}")
SIGNER = Signer.generate("audit.example.com/default/2026h2")
TS = b"2026-11-23T07:00:00.000001Z"
REC = encode_rec(record())


def stream_lines(count, number=0, keys=KEYS, closed=True):
    sealer = Sealer(keys, number.to_bytes(16, "big"))
    lines = []
    for seq in range(count):
        lines.append(
            sealer.seal(
                b"close" if closed and seq == count - 1 else b"request",
                TS,
                REC if not (closed and seq == count - 1) else CLOSE,
            )
        )
        sealer.commit(lines[-1])
    return lines


CLOSE = b'{"service":"orders","monotonic_us":1,"seen":1,"recorded":1,"dropped":0,"spool_bytes":1}'


def write_log(folder, entries, signer=SIGNER):
    """Write a whole log as its files; whoever has the signing key can do that to any entries."""
    hashes = [leaf_hash(entry) for entry in entries]
    level = 0
    for number in range(0, len(entries), 256):
        part = entries[number : number + 256]
        put(folder / entries_path(number // 256, len(part)), encode_bundle(part))
    while hashes:
        for number in range(0, len(hashes), 256):
            part = hashes[number : number + 256]
            put(folder / tile_path(level, number // 256, len(part)), b"".join(part))
        hashes = [root_of(hashes[at : at + 256]) for at in range(0, len(hashes) - len(hashes) % 256, 256)]
        level += 1
    root = root_of([leaf_hash(entry) for entry in entries])
    put(folder / "checkpoint", sign_checkpoint(Checkpoint(SIGNER.name, len(entries), root), signer))


def put(file, data):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def verify(folder, keys=KEYS):
    def read(key):
        return (folder / key).read_bytes() if (folder / key).is_file() else None

    return verify_logs([Log("default/2026h2", LogReader(read, SIGNER.verifier))], keys)


def rules(report):
    return {finding.rule for finding in report.findings if finding.severity is not Severity.NOTE}


@pytest.fixture
def log(tmp_path):
    write_log(tmp_path / "log", stream_lines(300))
    return tmp_path / "log"


def test_an_untouched_log_is_good(log):
    report = verify(log)
    assert (report.exit_code, report.findings) == (0, [])
    assert report.counts == {"logs": 1, "entries": 300, "streams": 1}


def test_an_altered_entry_is_named_by_its_index(log):
    bundle = log / entries_path(0, 256)
    bundle.write_bytes(bundle.read_bytes().replace(b"alice", b"mallo", 1))
    report = verify(log)
    assert report.exit_code == 1
    assert {(finding.rule, finding.where) for finding in report.findings} == {
        ("seal", "default/2026h2 entry 0"),
        ("ledger", "default/2026h2/tile/entries/000 entry 0"),
    }
    assert report.counts["entries"] == 300  # what stands behind it was verified all the same


@pytest.mark.parametrize("attack", ["delete", "reorder", "insert", "replay", "truncate"])
def test_entries_changed_under_the_same_checkpoint_contradict_it(log, attack):
    lines = stream_lines(300)[:256]
    changed = {
        "delete": lines[:10] + lines[11:],
        "reorder": [*lines[:10], lines[11], lines[10], *lines[12:]],
        "insert": [*lines[:10], stream_lines(1, 9)[0], *lines[11:]],
        "replay": [*lines[:10], lines[9], *lines[11:]],
        "truncate": lines[:200],
    }[attack]
    (log / entries_path(0, 256)).write_bytes(encode_bundle(changed))
    report = verify(log)
    assert report.exit_code == 1
    assert "ledger" in rules(report)


@pytest.mark.parametrize("attack", ["delete", "reorder", "insert", "replay", "wrong key", "duplicate seq"])
def test_a_log_rewritten_by_who_has_the_signing_key_still_shows_what_was_done(tmp_path, attack):
    """The collector's operator can sign any tree; the application's chain of seals is not his."""
    lines = stream_lines(20)
    forged = stream_lines(20, keys=parse_keys(new_key("k1")))
    changed, expected = {
        "delete": (lines[:10] + lines[11:], "gap"),
        "reorder": ([*lines[:10], lines[11], lines[10], *lines[12:]], None),
        "insert": ([*lines[:10], forged[10], *lines[10:]], "seal"),
        "replay": ([*lines[:10], lines[9], *lines[10:]], "replay"),
        "wrong key": ([*lines[:10], forged[10], *lines[11:]], "seal"),
        "duplicate seq": ([*lines[:10], *lines[9:]], "replay"),
    }[attack]
    write_log(tmp_path, changed)
    report = verify(tmp_path)
    if expected is None:
        assert report.exit_code == 0  # streams may arrive in any order: every line is there, once
    else:
        assert expected in rules(report)
        assert report.exit_code == 1


def test_a_swapped_tile_is_named(tmp_path):
    write_log(tmp_path, stream_lines(600))
    one, two = tmp_path / tile_path(0, 0, 256), tmp_path / tile_path(0, 1, 256)
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    report = verify(tmp_path)
    assert report.exit_code == 1
    assert "tile/0/000" in report.findings[0].where


def test_an_extra_entry_in_a_bundle_is_found(log):
    bundle = log / entries_path(1, 44)
    bundle.write_bytes(bundle.read_bytes() + encode_bundle([b"extra"]))
    assert "ledger" in rules(verify(log))


def test_a_missing_bundle_is_found(log):
    (log / entries_path(1, 44)).unlink()
    report = verify(log)
    assert report.exit_code == 1
    assert "is missing" in report.findings[0].message


def test_a_checkpoint_signed_with_another_key_is_refused(log):
    write_log(log, stream_lines(300), signer=Signer.generate(SIGNER.name))
    assert rules(verify(log)) == {"signature"}


def test_an_older_checkpoint_put_back_is_good_in_itself_and_the_guard_and_receipts_are_what_finds_it(tmp_path):
    """A prefix of a log is a log: that is why the size is remembered outside (guard, receipts, witnesses)."""
    write_log(tmp_path / "old", stream_lines(256, closed=False))
    write_log(tmp_path / "new", stream_lines(300, closed=False))
    shutil.copy(tmp_path / "old" / "checkpoint", tmp_path / "new" / "checkpoint")
    assert verify(tmp_path / "new").exit_code == 0


def test_an_unknown_key_is_unverifiable_and_not_tampered(log):
    report = verify(log, parse_keys(new_key("other")))
    assert report.exit_code == 2
    assert rules(report) == {"unknown_key"}


def test_a_crash_is_unclosed_and_not_tampered(tmp_path):
    write_log(tmp_path, stream_lines(10, closed=False))
    report = verify(tmp_path)
    assert report.exit_code == 0
    assert [finding.rule for finding in report.findings] == ["unclosed"]


def test_duplicate_members_in_a_sealed_record_are_found(tmp_path):
    sealer = Sealer(KEYS, bytes(16))
    write_log(tmp_path, [sealer.seal(b"request", TS, REC[:-1] + b',"service":"billing"}')])
    assert rules(verify(tmp_path)) == {"json"}


OPENED = (
    b'{"service":"%b","version":"1","instance":"a","env":"t","host":"h","boot_id":"b","pid":1,'
    b'"started":"2026-11-23T07:00:00.000001Z","library":"0","policy":"p","durability":"journal"%b}'
)


def said_by(service, *records, keys=KEYS):
    """A stream opened by ``service`` that says (type, payload)s."""
    own = Sealer(keys, b"c" * 16)
    lines = []
    for type_, rec in [("open", OPENED % (service.encode(), b"")), *((t, encode_rec(rec)) for t, rec in records)]:
        lines.append(own.seal(type_.encode(), TS, rec))
        own.commit(lines[-1])
    return lines


def kept(line, seq, reason, **changes):
    said = {"service": "audit-collector", "stream": "A" * 22, "seq": seq, "deliverer": "orders"} | changes
    return "quarantine", Quarantined(leaf=b64url(leaf_hash(line)).decode(), reason=reason, **said)


def outcome(folder, *entries, keys=KEYS):
    write_log(folder, list(itertools.chain(*entries)))
    report = verify(folder, keys)
    return report.exit_code, rules(report)


def test_a_hole_made_of_lines_that_were_set_aside_behind_a_good_seal_is_explained(tmp_path):
    lines = stream_lines(10)
    own = said_by("audit-collector", kept(lines[4], 4, "schema"))
    assert outcome(tmp_path, lines[:4], lines[5:], own) == (0, set())
    assert outcome(tmp_path, lines[:4], lines[6:], own) == (1, {"gap"})
    assert outcome(tmp_path, lines[:3], lines[5:], own) == (1, {"gap"})


@pytest.mark.parametrize("reason", ["mac", "header", "length", "tail", "utf-8"])
def test_a_line_that_failed_before_its_seal_was_good_explains_no_hole(tmp_path, reason):
    lines = stream_lines(10)
    own = said_by("audit-collector", kept(lines[4], 4, reason))
    assert outcome(tmp_path, lines[:4], lines[5:], own) == (1, {"gap"})
    assert [finding.rule for finding in verify(tmp_path).findings].count("quarantine") == 1


@pytest.mark.parametrize("reason", ["unknown_key", "service", "jump"])
def test_a_hole_claimed_by_undecided_lines_is_not_checked(tmp_path, reason):
    lines = stream_lines(10)
    own = said_by("audit-collector", kept(lines[4], 4, reason))
    assert outcome(tmp_path, lines[:4], lines[5:], own) == (2, {"gap"})


@pytest.mark.parametrize("reason", ["schema", "unknown_key"])
def test_other_bytes_that_claim_the_place_of_a_missing_line_hide_nothing(tmp_path, reason):
    lines = stream_lines(10)
    own = said_by("audit-collector", kept(lines[4].replace(b"k1", b"zz"), 4, reason))
    assert outcome(tmp_path, lines[:4], lines[5:], own) == (1, {"gap"})


def test_a_record_of_type_quarantine_that_an_application_seals_hides_nothing(tmp_path):
    lines = stream_lines(10)
    for service, says in (("orders", "orders"), ("orders", "audit-collector"), ("audit-collector", "orders")):
        own = said_by(service, kept(lines[4], 4, "schema", service=says))
        assert outcome(tmp_path, lines[:4], lines[5:], own) == (1, {"gap"})
    unopened = said_by("audit-collector", kept(lines[4], 4, "schema"))[1:]
    assert "gap" in outcome(tmp_path, lines[:4], lines[5:], unopened)[1]


def test_what_a_line_of_an_unknown_key_says_of_a_hole_cannot_be_checked(tmp_path):
    lines = stream_lines(10)
    own = said_by("audit-collector", kept(lines[4], 4, "schema"), keys=parse_keys(new_key("k9")))
    assert outcome(tmp_path, lines[:4], lines[5:], own) == (2, {"gap", "unknown_key"})


def test_numbers_given_up_behind_a_line_that_was_set_aside_are_no_hole(tmp_path):
    sealer = Sealer(KEYS, bytes(16))
    lines = []
    for seq in range(4):
        lines.append(sealer.seal(b"request", TS, REC))
        sealer.commit(lines[-1])
        if seq == 1:
            sealer.skip()
    own = said_by("audit-collector", kept(lines[1], 1, "schema"))
    assert outcome(tmp_path, lines[:1], lines[2:], own) == (0, set())


def test_a_conflict_is_evidence(tmp_path):
    lines = stream_lines(10)
    leaf, other = (b64url(leaf_hash(line)).decode() for line in (lines[4], b"other"))
    found = ConflictFound("audit-collector", "A" * 22, 4, kept=leaf, other=other)
    assert outcome(tmp_path, lines, said_by("audit-collector", ("conflict", found))) == (1, {"conflict"})


def test_a_sealed_line_that_does_not_link_is_evidence_until_it_is_admitted(tmp_path):
    lines = stream_lines(10)
    aside = kept(lines[4], 4, "sequence")
    assert outcome(tmp_path, lines, said_by("audit-collector", aside)) == (1, {"broken"})
    admitted = kept(lines[4], 4, "sequence", state="admitted")
    assert outcome(tmp_path, lines, said_by("audit-collector", aside, admitted)) == (0, set())


def test_a_whole_stream_that_was_deleted_leaves_a_dangling_reference(tmp_path):
    previous = b',"previous":{"stream":"AAAAAAAAAAAAAAAAAAAAAQ","seq":7,"closed":true}'
    later = Sealer(KEYS, (2).to_bytes(16, "big")).seal(b"open", TS, OPENED % (b"orders", previous))
    write_log(tmp_path, [later])
    assert rules(verify(tmp_path)) == {"missing_stream"}
    write_log(tmp_path, [*stream_lines(5, 1), later])
    assert rules(verify(tmp_path)) == {"truncated"}


def test_memory_of_the_report_is_bounded(tmp_path):
    write_log(tmp_path, [b"rubbish %d" % number for number in range(2000)])
    report = verify(tmp_path)
    assert len(report.findings) == 1000
    assert report.by_severity[Severity.TAMPERING] >= 2000


def test_a_stream_goes_on_from_one_period_to_the_next(tmp_path):
    lines = stream_lines(20)
    write_log(tmp_path / "a", lines[:12])
    write_log(tmp_path / "b", lines[12:])
    readers = [LogReader(lambda key, name=name: (tmp_path / name / key).read_bytes(), SIGNER.verifier) for name in "ab"]
    calls = []
    logs = [Log(name, reader) for name, reader in zip(("default/1", "default/2"), readers, strict=True)]
    report = verify_logs(logs, KEYS, lambda done, total: calls.append((done, total)))
    assert report.exit_code == 0
    assert calls[-1] == (20, 20)
    assert all(a <= b for a, b in itertools.pairwise(calls))
