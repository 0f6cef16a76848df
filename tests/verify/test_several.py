"""Ledgers of several collectors, which streams move between, are verified as one; nothing else becomes good by that."""

import os
import subprocess
import sys

import pytest

from audit_middleware.cli.ledgers import Trust, folder_target, together
from audit_middleware.collector.collector import Collector
from audit_middleware.errors import ConfigurationError
from audit_middleware.sealing.text import b64url
from audit_middleware.verify import Severity, verify_logs
from tests.collector.kit import KEY, KEYRING, OPEN, App, name_of, rec_of, settings_for

NAMES = ("one", "two")


@pytest.fixture
def ledgers(tmp_path):
    """Settings of two collectors of different names."""
    return [settings_for(tmp_path / name, name=f"{name}.test") for name in NAMES]


def deliver(settings, *batches):
    with Collector(settings) as collector:
        for lines in batches:
            assert collector.deliver(lines).quarantined == []


def verify(*ledgers):
    trust = Trust((), ())
    found = together([(str(each.data), folder_target(each.data, trust, [])) for each in ledgers])
    return verify_logs(found.logs, KEYRING, scope=found.scope)


def rules(report, *, notes=False):
    return {found.rule for found in report.findings if notes or found.severity is not Severity.NOTE}


def test_a_stream_that_moved_between_collectors_is_whole_in_both_ledgers_together(ledgers):
    one, two = ledgers
    app = App()
    app.requests(90)
    parts = [app.lines[start : start + 10] for start in range(0, len(app.lines), 10)]
    deliver(two, *parts[1::2])
    deliver(one, *parts[::2])
    report = verify(one, two)
    assert (report.exit_code, rules(report)) == (0, set())
    assert report.counts["entries"] > len(app.lines)
    assert rules(verify(two, one)) == set()
    assert rules(verify(one)) == rules(verify(two)) == {"gap"}


def test_a_line_that_no_collector_has_is_a_gap(ledgers):
    one, two = ledgers
    app = App()
    app.requests(20)
    deliver(one, app.lines[:5], app.lines[15:])
    deliver(two, app.lines[6:15])
    (found,) = [each for each in verify(one, two).findings if each.severity is Severity.TAMPERING]
    assert (found.rule, found.seq) == ("gap", 5)
    assert "5 to 5 are missing" in found.message


def test_a_predecessor_in_the_ledger_of_another_collector_is_not_missing(ledgers):
    one, two = ledgers
    first, second = App(), App(opened=False)
    first.requests(3)
    previous = {"stream": first.stream, "seq": 3, "leaf": name_of(first.lines[-1])}
    second.say("open", {"service": "orders"} | OPEN | {"previous": previous})
    deliver(one, first.lines)
    deliver(two, second.lines)
    assert rules(verify(one, two)) == set()
    assert "missing_stream" in rules(verify(two))


def test_equal_lines_in_two_ledgers_are_copies_and_no_evidence(ledgers):
    one, two = ledgers
    app = App()
    app.requests(20)
    deliver(one, app.lines[:12])
    deliver(two, app.lines[8:])
    report = verify(one, two)
    assert (report.exit_code, rules(report)) == (0, set())
    assert report.by_rule[Severity.NOTE, "copy"] == 4


def test_other_bytes_in_one_place_of_two_ledgers_are_a_conflict(ledgers):
    one, two = ledgers
    app = App()
    app.requests(5)
    forged = app.seal("request", rec_of(action="orders.forged"))
    app.request()
    deliver(one, app.lines)
    deliver(two, [forged])
    report = verify(one, two)
    assert report.exit_code == 1
    (found,) = [each for each in report.findings if each.rule == "conflict"]
    assert (found.severity, found.stream, found.seq) == (Severity.TAMPERING, app.stream, 6)


def test_a_damaged_ledger_is_found_among_good_ones(ledgers):
    one, two = ledgers
    app = App()
    app.requests(20)
    deliver(one, app.lines[:10])
    deliver(two, app.lines[10:])
    (bundle,) = [path for path in (two.data / "log").rglob("tile/entries/000.p/*") if path.name != "1"][-1:]
    bundle.chmod(0o600)
    bundle.write_bytes(bundle.read_bytes().replace(b"alice", b"mallo"))
    report = verify(one, two)
    assert report.exit_code == 1
    assert all("two.test" in each.where for each in report.findings if each.rule == "ledger")


def test_a_ledger_that_is_named_twice_is_refused(ledgers):
    deliver(ledgers[0], App().lines)
    with pytest.raises(ConfigurationError, match="name each collector once"):
        verify(ledgers[0], ledgers[0])


def test_the_command_line_takes_several_ledgers_and_no_spool_among_them(ledgers, tmp_path):
    def run(*paths):
        command = [sys.executable, "-m", "audit_middleware", "verify", *paths]
        environ = os.environ | {"AUDIT_KEYS": f"k1:{b64url(KEY).decode()}"}
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)

    app = App()
    app.requests(9)
    for settings, lines in zip(ledgers, (app.lines[:5], app.lines[5:]), strict=True):
        deliver(settings, lines)
    places = [str(each.data) for each in ledgers]
    done = run(*places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 logs" in done.stdout
    (tmp_path / "spool/streams").mkdir(parents=True)
    done = run(places[0], str(tmp_path / "spool"))
    assert done.returncode == 2
    assert "only ledgers go together" in done.stderr
