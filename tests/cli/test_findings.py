"""``audit-ready findings`` and ``audit-ready watch`` against a collector that serves, as programs."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from audit_middleware.sealing.text import b64url
from tests.collector.kit import KEY, App

ROOT = Path(__file__).parents[2]
SERVER = """
import sys
from pathlib import Path
from audit_middleware.collector.auth import TokenSetting
from audit_middleware.collector.monitor.settings import MonitorSettings
from audit_middleware.collector.serve import serve
from tests.collector.kit import settings_for
tokens = [
    TokenSetting(name="reader", services=["*"], roles=["ingest", "reader"], token="reader-token-0123456789"),
    TokenSetting(name="chief", services=["*"], roles=["reader", "admin"], token="chief-token-01234567890"),
]
monitor = MonitorSettings(enabled=sys.argv[2] == "on")
settings = settings_for(Path(sys.argv[1]), port=0, monitor=monitor, tokens=tokens)
serve(settings, lambda collector, url: print(url, flush=True))
"""
READER, CHIEF = "reader-token-0123456789", "chief-token-01234567890"


class Server:
    """A collector in a process of its own."""

    def __init__(self, folder, monitor="on"):
        command = [sys.executable, "-c", SERVER, str(folder), monitor]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = self.process.stdout.readline().strip()
        assert self.url

    def end(self):
        self.process.terminate()
        self.process.wait(10)
        self.process.stdout.close()

    def deliver(self, *lines):
        headers = {"Authorization": f"Bearer {READER}"}
        request = urllib.request.Request(f"{self.url}/v1/records", b"\n".join(lines), headers)
        urllib.request.urlopen(request, timeout=5).close()

    def run(self, *arguments, token=READER, **environ):
        environ = os.environ | {"AUDIT_COLLECTOR_URL": self.url, "AUDIT_TOKEN": token} | environ
        command = [sys.executable, "-m", "audit_middleware", *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def listed(self, *arguments):
        return [json.loads(line) for line in self.run("findings", "list", "--json", *arguments).stdout.splitlines()]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("collector"))
    for service in ("orders", "billing", "\x1b[31mshop"):
        app = App(service=service)
        app.requests(3)
        server.deliver(app.lines[0], app.lines[3])
    until = time.monotonic() + 5
    while len(server.listed("--kind", "gap")) < 3:
        assert time.monotonic() < until
    yield server
    server.end()


def test_findings_are_listed_without_a_command_too(server):
    done = server.run("findings")
    assert done.returncode == 0
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["ID", "SEVERITY", "KIND", "STATE", "WHO", "FIRST", "SEEN", "LAST", "SEEN", "EVIDENCE"]
    assert sum("critical" in row and "gap" in row and "missing=[[1,2]]" in row for row in rows) == 3
    assert "\x1b" not in done.stdout


def test_a_finding_is_shown_with_its_meaning_and_what_to_do(server):
    (gap,) = server.listed("--kind", "gap", "--service", "orders")
    text = server.run("findings", "show", gap["id"]).stdout
    assert "lines of a stream are missing" in text
    assert re.search(r"remedy: .*spool", text)
    assert re.search(r"missing: +\[\[1,2\]\]", text)
    assert json.loads(server.run("findings", "show", gap["id"], "--json").stdout)["id"] == gap["id"]


def test_a_finding_is_acknowledged_and_resolved_by_a_token_that_may(server):
    (gap,) = server.listed("--kind", "gap", "--service", "billing")
    refused = server.run("findings", "ack", gap["id"])
    assert (refused.returncode, "role admin" in refused.stderr) == (2, True)
    done = server.run("findings", "ack", gap["id"], "--note", "on it", token=CHIEF)
    assert (done.returncode, "acknowledged_by:  chief" in done.stdout) == (0, True)
    assert server.run("findings", "resolve", gap["id"], token=CHIEF).returncode == 2  # why it is over has to be said
    done = server.run("findings", "resolve", gap["id"], "--note", "restored", "--json", token=CHIEF)
    assert json.loads(done.stdout)["state"] == "resolved"
    assert server.listed("--kind", "gap", "--service", "billing") == []
    (resolved,) = server.listed("--state", "resolved")
    assert (resolved["note"], resolved["resolved_by"]) == ("restored", "chief")
    again = server.run("findings", "resolve", gap["id"], "--note", "x", token=CHIEF)
    assert (again.returncode, "is resolved" in again.stderr) == (2, True)


def test_the_records_of_all_this_verify(server):
    keys = f"k1:{b64url(KEY).decode()}"
    done = server.run("verify", server.url, "--json", AUDIT_KEYS=keys)
    report = json.loads(done.stdout)
    assert {finding["rule"] for finding in report["findings"]} <= {"gap", "unclosed"}
    assert report["findings"]


@pytest.mark.parametrize("command", ["show", "ack"])
def test_a_finding_that_is_not_there_is_said_in_words(server, command):
    done = server.run("findings", command, "0123456789abcdef", token=CHIEF)
    assert (done.returncode, "there is no finding" in done.stderr) == (2, True)


def test_a_wrong_filter_is_said_in_words(server):
    done = server.run("findings", "list", "--kind", "nonsense")
    assert (done.returncode, "expected one of gap, conflict" in done.stderr) == (2, True)


def test_watch_without_a_terminal_prints_one_view_and_ends(server):
    for arguments in (["watch", "--once"], ["watch"]):
        until = time.monotonic() + 20
        while not re.search(r"orders +1", (done := server.run(*arguments)).stdout) and time.monotonic() < until:
            time.sleep(0.2)  # the monitor counts who is heard once a second
        assert done.returncode == 0
        assert "entries in 1 logs" in done.stdout
        assert "last full pass" in done.stdout
        assert re.search(r"orders +1 +0 +1 ", done.stdout)
        assert "\x1b[31mshop" not in done.stdout
        assert "critical  gap" in done.stdout


def test_watch_gives_the_same_to_programs(server):
    seen = json.loads(server.run("watch", "--json").stdout)
    assert seen["state"] == "ready"
    assert {"orders", "billing"} <= {each["service"] for each in seen["services"]}
    assert all(each["state"] != "resolved" for each in seen["open_findings"])


def test_watch_on_a_terminal_draws_again_and_leaves_it_as_it_was(server):
    environ = os.environ | {"AUDIT_COLLECTOR_URL": server.url, "AUDIT_TOKEN": READER, "COLUMNS": "120", "LINES": "30"}
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "audit_middleware", "watch", "--interval", "0.2"]
    process = subprocess.Popen(command, env=environ, stdin=follower, stdout=follower, stderr=subprocess.PIPE)
    os.close(follower)
    text = b""
    try:
        text = read_until(leader, lambda text: text.count(b"\x1b[H") >= 3)
        process.send_signal(signal.SIGINT)
        text += read_until(leader, lambda text: b"\x1b[?1049l" in text)
    finally:
        assert process.wait(10) == 130
        process.stderr.close()
        os.close(leader)
    assert text.startswith(b"\x1b[?1049h")
    assert b"gap" in text


def read_until(leader, is_enough):
    text, until = b"", time.monotonic() + 10
    while not is_enough(text):
        assert time.monotonic() < until, text
        if select.select([leader], [], [], 0.2)[0]:
            try:
                text += os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
    return text


def test_a_collector_without_a_monitor_says_so(tmp_path):
    server = Server(tmp_path, monitor="off")
    try:
        done = server.run("findings")
        assert (done.returncode, "monitor off" in done.stderr) == (2, True)
        assert "runs without its monitor" in server.run("watch").stdout
    finally:
        server.end()


@pytest.mark.parametrize("command", ["findings", "watch"])
def test_a_collector_that_is_away_is_said_in_words(command):
    environ = os.environ | {"AUDIT_COLLECTOR_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "audit_middleware", command], env=environ, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, "does not answer" in done.stderr) == (2, True)
