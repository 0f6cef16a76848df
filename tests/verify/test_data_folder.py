"""Attacks on a collector's whole data folder, and what only somebody who kept a checkpoint can tell."""

import shutil

import pytest

from audit_middleware.cli.ledgers import Trust, folder_target
from audit_middleware.collector.collector import Collector
from audit_middleware.errors import ConfigurationError
from audit_middleware.tlog.note import Signer
from audit_middleware.verify import Severity, verify_logs
from audit_middleware.verify.rollback import KeptCheckpoint
from tests.collector.kit import KEYRING, OTHER_KEYRING, PERIOD, App, rec_of, settings_for


def verify(path, *, vkeys=(), pins=(), kept=()):
    found = folder_target(path, Trust.parse(vkeys, pins), list(kept))
    return verify_logs(found.logs, KEYRING, scope=found.scope)


def serious(report):
    return {finding.rule for finding in report.findings if finding.severity is not Severity.NOTE}


def deliver(settings, *batches):
    with Collector(settings) as collector:
        for lines in batches:
            collector.deliver(lines)
    return settings.data


def later_half_year(settings, lines):
    with Collector(settings) as collector:
        collector._open.desk.clock = lambda: 4_102_444_800.0  # 2100-01-01
        collector.deliver(lines)


@pytest.fixture
def log(settings):
    return settings.data / "log" / "default" / PERIOD


def test_an_untouched_data_folder_is_good(settings):
    app = App()
    app.requests(300)
    data = deliver(settings, app.lines, [App().lines[0]])
    for _ in range(2):
        assert (verify(data).exit_code, serious(verify(data))) == (0, set())
        deliver(settings, app.requests(3))


@pytest.mark.parametrize("change", [(b"alice", b"mallo"), (b'"kid":"k1"', b'"kid":"k7"'), (b'"mac":"', b'"mac" "')])
def test_a_line_altered_in_a_spool_before_it_was_shipped_is_found_in_the_ledger(settings, change):
    app = App()
    app.requests(5)
    app.lines[3] = app.lines[3].replace(*change, 1)
    report = verify(deliver(settings, app.lines))
    assert report.exit_code == 1
    assert serious(report) == {"gap"}
    assert "quarantine" in {finding.rule for finding in report.findings}


@pytest.mark.parametrize("claim", ["unknown_key", "garbage"])
def test_garbage_that_claims_the_place_of_a_removed_line_does_not_hide_the_gap(settings, claim):
    app = App()
    app.requests(5)
    removed = app.lines.pop(3)
    fake = removed.replace(b'"k1"', b'"zz"') if claim == "unknown_key" else removed[:-1] + b"x"
    assert serious(verify(deliver(settings, app.lines, [fake]))) == {"gap"}
    assert verify(settings.data).exit_code == 1


def test_an_application_line_of_type_quarantine_is_set_aside_and_hides_nothing(settings):
    app = App()
    app.requests(2)
    hole = app.seal("request", rec_of())
    app.sealer.commit(hole)
    app.request()
    said = {"service": "orders", "leaf": "A" * 43, "reason": "schema", "deliverer": "x", "stream": app.stream, "seq": 3}
    app.say("quarantine", said)
    app.request()
    with Collector(settings) as collector:
        assert [item.reason for item in collector.deliver(app.lines).quarantined] == ["schema"]
    report = verify(settings.data)
    assert (report.exit_code, [finding.seq for finding in report.findings if finding.rule == "gap"]) == (1, [3])


def test_a_schema_failure_is_told_and_is_no_tampering(settings):
    app = App()
    app.say("request", {})
    app.request()
    report = verify(deliver(settings, app.lines))
    assert (report.exit_code, [finding.rule for finding in report.findings]) == (0, ["quarantine", "unclosed"])


def test_a_line_admitted_later_is_not_told(settings, tmp_path):
    app = App(OTHER_KEYRING)
    deliver(settings, app.lines)
    keyring = type(KEYRING)({**OTHER_KEYRING.keys, **KEYRING.keys})
    with Collector(settings_for(tmp_path, keyring=keyring)):
        pass
    found = folder_target(settings.data, Trust.parse((), ()), [])
    assert "quarantine" not in {each.rule for each in verify_logs(found.logs, keyring, scope=found.scope).findings}


def test_a_conflict_in_the_ledger_is_evidence(settings):
    app = App()
    twin = app.seal("request", rec_of())
    app.request()
    report = verify(deliver(settings, app.lines, [twin]))
    assert (report.exit_code, serious(report)) == (1, {"conflict"})


@pytest.mark.parametrize("attack", ["remove", "alter", "fifo", "remove all"])
def test_a_line_taken_out_of_quarantine_is_found(settings, attack):
    import os

    app = App()
    app.say("request", {})
    app.request()
    data = deliver(settings, app.lines)
    (file,) = (data / "quarantine").glob("*/*.json")
    if attack == "remove all":
        shutil.rmtree(data / "quarantine")
    elif attack == "alter":
        file.write_text(file.read_text().replace('"base64":"e', '"base64":"f'))
    else:
        file.unlink()
    if attack == "fifo":
        os.mkfifo(file)
    report = verify(data)
    assert (report.exit_code, serious(report)) == (1, {"quarantine_lost"})


def test_a_line_in_another_folder_of_the_quarantine_is_still_kept(settings):
    data = deliver(settings, [b"rubbish"])
    (data / "quarantine" / "header").rename(data / "quarantine" / "mac")
    assert verify(data).exit_code == 0


def grow(settings):
    """A folder as it was at an earlier size, and as it is."""
    app = App()
    app.requests(300)
    data = deliver(settings, app.lines)
    shutil.copytree(data, data.parent / "old")
    deliver(settings, app.requests(300))
    return data, data.parent / "old"


def test_an_older_checkpoint_put_back_is_found_by_what_was_archived(settings, log):
    data, old = grow(settings)
    note = (old / log.relative_to(data) / "checkpoint").read_bytes()
    (log / "checkpoint").write_bytes(note)
    (log / ".write-ahead").unlink()
    report = verify(data)
    assert report.exit_code == 1
    assert "rollback" in serious(report)
    shutil.rmtree(log / "checkpoints")
    report = verify(data)
    assert "rollback" in serious(report)
    assert "tile/" in report.findings[-1].where


def test_an_older_copy_of_everything_is_good_in_itself_and_found_by_who_kept_a_checkpoint(settings, log):
    data, old = grow(settings)
    kept = KeptCheckpoint("kept", (log / "checkpoint").read_bytes())
    assert verify(old).exit_code == 0
    report = verify(old, kept=[kept])
    assert (report.exit_code, serious(report), report.findings[-1].where) == (1, {"rollback"}, "kept")
    assert verify(data, kept=[kept, KeptCheckpoint("x", (old / log.relative_to(data) / "checkpoint").read_bytes())])


def test_a_kept_checkpoint_of_another_history_is_not_extended(settings, tmp_path):
    data = deliver(settings, App().lines)
    other = settings_for(tmp_path / "other")
    other.data.mkdir(parents=True)
    shutil.copy(data / "log.key", other.data)
    deliver(other, App().lines)
    kept = KeptCheckpoint("kept", (other.data / "log" / "default" / PERIOD / "checkpoint").read_bytes())
    report = verify(data, kept=[kept])
    assert (report.exit_code, serious(report)) == (1, {"rollback"})


def test_a_kept_note_that_nobody_trusted_signed_proves_nothing(settings):
    data = deliver(settings, App().lines)
    stranger = Signer.generate(f"audit.test/default/{PERIOD}")
    from audit_middleware.tlog.checkpoint import Checkpoint, sign_checkpoint

    for kept in (b"no note", sign_checkpoint(Checkpoint(stranger.name, 9999, bytes(32)), stranger)):
        report = verify(data, kept=[KeptCheckpoint("kept", kept)])
        assert (report.exit_code, serious(report)) == (2, {"signature"})


def test_an_archived_checkpoint_of_another_tree_is_found(settings, log):
    data, _ = grow(settings)
    first = min((log / "checkpoints").iterdir(), key=lambda file: int(file.name))
    name, size, root, *rest = first.read_bytes().split(b"\n")
    first.chmod(0o600)
    first.write_bytes(b"\n".join([name, size, b"A" + root[1:], *rest]))
    report = verify(data)
    assert (report.exit_code, serious(report)) == (1, {"signature"})


def test_a_commit_that_a_crash_cut_off_is_no_rollback(settings, log):
    """The write-ahead explains the bundles that lie beyond the checkpoint."""
    app = App()
    app.requests(300)
    with Collector(settings) as collector:
        collector.deliver(app.lines)
        note = (log / "checkpoint").read_bytes()
        collector.deliver(app.requests(300))
        data = shutil.copytree(settings.data, settings.data.parent / "copy")
    log = data / log.relative_to(settings.data)
    (log / "checkpoint").write_bytes(note)
    assert verify(data).exit_code == 0
    (log / ".write-ahead").write_bytes((log / ".write-ahead").read_bytes().replace(b"alice", b"mallo"))
    assert serious(verify(data)) == {"rollback"}


def test_a_log_that_is_named_and_not_there_is_missing(settings, log):
    app = App()
    app.requests(2)
    data = deliver(settings, app.lines)
    later_half_year(settings, app.requests(2))
    shutil.move(log.parent / "2100h1", data.parent / "gone")
    assert "missing_log" in serious(verify(data))
    assert verify(data).exit_code == 1
    shutil.rmtree(data / "log")
    assert serious(verify(data)) == {"missing_log"}


def test_every_log_has_to_be_signed_by_a_pinned_key(settings):
    app = App()
    data = deliver(settings, app.lines)
    later_half_year(settings, app.requests(2))
    vkeys = (data / "log.vkey").read_text().split()
    assert verify(data, pins=vkeys[:1]).exit_code == 0  # one key serves every period
    assert verify(data, vkeys=vkeys[:1]).exit_code == 0
    stranger = Signer.generate(f"audit.test/default/{PERIOD}").verifier.vkey
    for trust in ({"pins": [stranger]}, {"vkeys": [stranger]}):
        report = verify(data, **trust)
        assert (report.exit_code, serious(report)) == (1, {"signature"})
    absent = Signer("audit.test/default/1999h1", (data / "log.key").read_bytes()[:32]).verifier.vkey
    assert "missing_log" in serious(verify(data, vkeys=[*vkeys, absent]))


def test_a_log_in_the_place_of_another_period_is_not_that_log(settings, log):
    app = App()
    data = deliver(settings, app.lines)
    later_half_year(settings, app.requests(2))
    shutil.rmtree(log)
    shutil.copytree(log.parent / "2100h1", log)
    assert "signature" in serious(verify(data))


def test_one_of_several_logs_says_that_the_rest_may_lie_in_another(settings, log):
    app = App()
    app.requests(2)
    data = deliver(settings, app.lines)
    later_half_year(settings, app.requests(2))
    assert verify(data).exit_code == 0
    report = verify(log.parent / "2100h1")
    assert (report.exit_code, serious(report)) == (2, {"gap"})
    assert "verify the data folder" in report.findings[0].message
    assert verify(log).exit_code == 0


def test_a_gap_within_the_newest_of_several_logs_is_a_gap(settings, log):
    app = App()
    app.requests(2)
    deliver(settings, app.lines)
    lines = app.requests(4)
    later_half_year(settings, [*lines[:1], *lines[2:]])
    assert verify(log.parent / "2100h1").exit_code == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no key\n"])
def test_a_useless_log_vkey_is_named(settings, content):
    data = deliver(settings, App().lines)
    (data / "log.vkey").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"log\.vkey"):
        verify(data)


def test_a_checkpoint_that_is_no_text_is_evidence(settings, log):
    data = deliver(settings, App().lines)
    (log / "checkpoint").write_bytes(b"\xff\xfe\x00")
    assert serious(verify(data)) == {"signature"}


def test_behind_a_bundle_that_is_gone_everything_is_verified_all_the_same(settings, log):
    app = App()
    app.requests(900)
    data = deliver(settings, app.lines)
    (log / "tile/entries/001").unlink()
    report = verify(data)
    assert serious(report) == {"ledger", "gap"}
    assert report.counts["entries"] > 900 - 256
    altered = log / "tile/entries/002"
    altered.chmod(0o600)
    altered.write_bytes(altered.read_bytes().replace(b"alice", b"mallo", 1))
    assert {found.where for found in verify(data).findings if found.rule == "seal"} != set()
    (log / "tile/0/001").unlink()
    assert any(found.where.endswith("tile/0/001") for found in verify(data).findings)
