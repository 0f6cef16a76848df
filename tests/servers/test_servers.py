"""Every way applications are run: real servers, real clients, real kills.

A client that received a response to its end knows its request id, which names stream and request; each of them has
exactly one record in the spool, whatever was killed. Nothing is delivered: what is looked at is what is on disk.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from audit_middleware.verify import Severity, verify_spool
from tests.faults.processes import Process, Site, listens

pytestmark = pytest.mark.servers

BIN = Path(sys.executable).parent
EXIT_S = 3.0
KILLS = 4
CLIENTS = 4
ASGI, WSGI = "tests.servers.apps:asgi", "tests.servers.apps:wsgi"
GUNICORN = (
    "gunicorn",
    WSGI,
    "--bind",
    "127.0.0.1:{port}",
    "--workers",
    "2",
    "--graceful-timeout",
    "2",
    "--no-control-socket",
)
GRANIAN = ("granian", "--host", "127.0.0.1", "--port", "{port}", "--workers", "2", "--respawn-failed-workers")
UWSGI = (
    "uwsgi", "--http-socket", "127.0.0.1:{port}", "--master", "--die-on-term", "--processes", "2", "--enable-threads",
    "--module", "tests.servers.apps:wsgi", "--need-app", "--disable-logging",
)  # fmt: skip
SERVERS = {
    "uvicorn": ("uvicorn", ASGI, "--port", "{port}", "--no-proxy-headers", "--no-access-log"),
    "uvicorn-workers": ("uvicorn", ASGI, "--port", "{port}", "--no-proxy-headers", "--no-access-log", "--workers", "2"),
    "gunicorn-sync": GUNICORN,
    "gunicorn-gthread": (*GUNICORN, "--threads", "4"),
    "gunicorn-gevent": (*GUNICORN, "--worker-class", "gevent"),
    "gunicorn-preload": (*GUNICORN, "--preload"),
    "gunicorn-asgi": (GUNICORN[0], ASGI, *GUNICORN[2:], "--worker-class", "asgi"),
    "gunicorn-max-requests": (*GUNICORN, "--max-requests", "20"),
    "hypercorn": ("hypercorn", ASGI, "--bind", "127.0.0.1:{port}", "--workers", "2"),
    "granian-asgi": (*GRANIAN, "--interface", "asgi", ASGI),
    "granian-wsgi": (*GRANIAN, "--interface", "wsgi", WSGI),
    "daphne": ("daphne", "-b", "127.0.0.1", "-p", "{port}", ASGI),
    "uwsgi": UWSGI,
    "uwsgi-lazy": (*UWSGI, "--lazy-apps"),
}


class Load:
    """Clients in threads of this process, which remember the request id of each response they received whole."""

    def __init__(self, port: int):
        self.completed: list[str] = []
        self.broken = 0
        self._port = port
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(10)

    def _run(self, number: int) -> None:
        requests = [("GET", f"/items/{number}", None), ("POST", "/items", b"x" * 100), ("GET", "/stream", None)]
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        while not self._over.is_set():
            method, path, body = random.choice(requests)
            try:
                connection.request(method, path, body)
                answer = connection.getresponse()
                has_end = answer.chunked or answer.length is not None
                answer.read()
                assert answer.status in {200, 201}, answer.status
                if has_end:  # else the connection's end is the answer's, and a kill looks like one (RFC 9112, 8)
                    self.completed.append(answer.headers["X-Request-ID"])
            except (OSError, http.client.HTTPException):
                self.broken += 1
                connection.close()
                time.sleep(0.02)
            if random.random() < 0.1:  # another worker may take the next connection
                connection.close()
            time.sleep(0.002)
        connection.close()


class Served:
    """One server over its lives; a server of one process is started again when it was killed."""

    def __init__(self, site: Site, command: tuple[str, ...]):
        self.site = site
        self.port = site.free_port()
        module, *arguments = (part.format(port=self.port) for part in command)
        self._command = [str(BIN / module), *arguments]
        self.start()

    def start(self) -> None:
        environ = {**self.site.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        if "uwsgi" in self._command[0]:
            environ["UWSGI_VIRTUALENV"] = str(BIN.parent)
        self.process = Process("server", self._command, environ, self.site.folder / "server.log")
        self.site._started.append(self.process)
        self.process.wait_until(lambda: listens(self.port), "listening")

    def writers(self) -> list[int]:
        """The pids of living processes that have a stream."""
        return sorted(pid for pid in _pids_of_streams(self.site.spool) if _is_alive(pid))

    def wait_until_whole(self) -> None:
        """Wait until every worker writes: some servers lose track of one that is killed, or signalled, as it starts."""
        workers, until = 2 if "2" in self._command else 1, time.monotonic() + 30
        while len(self.writers()) < workers:
            self.revive()
            assert time.monotonic() < until, f"not every worker writes:\n{self.process.last_words()}"
            time.sleep(0.01)

    def revive(self) -> None:
        """Start a server again that ended: hypercorn does when a worker dies, granian when one dies twice in 5.5 s."""
        if self.process._popen.poll() is not None:
            self.start()

    def kill_a_writer(self) -> None:
        """SIGKILL a worker, or the server itself if it is the one that writes."""
        self.wait_until_whole()
        victim, until = random.choice(self.writers()), time.monotonic() + 30
        with contextlib.suppress(ProcessLookupError):  # a worker may have ended by itself meanwhile
            os.kill(victim, signal.SIGKILL)
        while _is_alive(victim):
            assert time.monotonic() < until, f"{victim} survived"
            time.sleep(0.01)


class Outcome(NamedTuple):
    """What a run under kills left: responses without a record, records there twice, streams there twice, findings."""

    responses: int
    streams: int
    missing: list[str]
    twice: list[str]
    reopened: list[str]
    bad: list[str]


def run_under_kills(folder: Path, name: str, command: tuple[str, ...]) -> Outcome:
    """Serve, kill workers under load, end the server in peace; compare what clients received with what is on disk."""
    with Site(folder, name) as site:
        server = Served(site, command)
        with Load(server.port) as load:
            for _ in range(KILLS):
                _wait_for(load, 40, server)
                server.kill_a_writer()
            _wait_for(load, 40, server)
            server.wait_until_whole()
        took = server.process.terminate(within=EXIT_S)
        found, opened = _records(site.spool)
        report = verify_spool(site.spool, site.keyring)
    print(f"{name}: {len(load.completed)} responses, {load.broken} broken, {len(opened)} streams, SIGTERM {took:.2f} s")
    return Outcome(
        responses=len(load.completed),
        streams=len(opened),
        missing=[request_id for request_id in load.completed if request_id not in found],
        twice=[request_id for request_id, number in found.items() if number > 1],
        reopened=[stream for stream, number in opened.items() if number > 1],
        bad=[finding.rule for finding in report.findings if finding.severity is not Severity.NOTE],
    )


@pytest.mark.parametrize("name", SERVERS)
def test_every_completed_response_is_on_record_once_whatever_is_killed(tmp_path, name):
    outcome = run_under_kills(tmp_path, name, SERVERS[name])
    assert outcome.responses >= 40 * (KILLS + 1)
    assert outcome.streams > KILLS
    assert (outcome.missing, outcome.twice, outcome.reopened, outcome.bad) == ([], [], [], [])


@pytest.mark.parametrize("protocol", ["asgi", "wsgi"])
def test_a_journal_that_buffers_is_found_to_lose(tmp_path, protocol):
    assert run_under_kills(tmp_path, "buffered", _mutant(protocol, "buffered")).missing


@pytest.mark.parametrize("protocol", ["asgi", "wsgi"])
def test_a_pipeline_that_records_twice_is_found(tmp_path, protocol):
    outcome = run_under_kills(tmp_path, "twice", _mutant(protocol, "twice"))
    assert len(outcome.twice) >= outcome.responses
    assert outcome.missing == []


def _mutant(protocol: str, name: str) -> tuple[str, ...]:
    sound = SERVERS["uvicorn-workers" if protocol == "asgi" else "gunicorn-sync"]
    return tuple(f"tests.servers.mutants:{protocol}_{name}" if part in {ASGI, WSGI} else part for part in sound)


def test_every_server_of_the_table_is_installed():
    missing = sorted({command[0] for command in SERVERS.values() if not (BIN / command[0]).exists()})
    assert not missing, f"{missing} are missing: run them with `make test-servers`"


def test_a_server_that_cannot_be_started_fails_with_its_last_words(tmp_path):
    with Site(tmp_path, "wrong") as site, pytest.raises(AssertionError, match="nothing"):
        Served(site, ("uvicorn", "tests.servers.nothing:app", "--port", "{port}"))


def _wait_for(load: Load, number: int, server: Served) -> None:
    """Wait until clients received so many more responses."""
    goal, until = len(load.completed) + number, time.monotonic() + 30
    while len(load.completed) < goal:
        words = f"{len(load.completed)} responses, {load.broken} broken connections"
        assert time.monotonic() < until, f"{words}; the server said:\n{server.process.last_words()}"
        server.revive()
        time.sleep(0.01)


def _records(spool: Path) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """How many records each request id has, and how many ``open`` records each stream."""
    found: collections.Counter[str] = collections.Counter()
    opened: collections.Counter[str] = collections.Counter()
    for segment in spool.glob("streams/*/seg-*"):
        for line in segment.read_bytes().split(b"\n")[:-1]:
            record = json.loads(line)
            if record["type"] == "request":
                found[record["rec"]["trace"]["request_id"]] += 1
            opened[record["stream"]] += record["type"] == "open"
    return found, opened


def _pids_of_streams(spool: Path) -> set[int]:
    """The pids of those that have a record on disk; one killed while its stream began has none."""
    pids = set()
    for segment in spool.glob("streams/*/seg-0000000000.ndjson"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if b"\n" in segment.read_bytes():
                pids.add(json.loads((segment.parent / "meta.json").read_bytes())["pid"])
    return pids


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
