"""Three collector processes behind one address, their monitors on: what they find is right, whoever dies or freezes."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import psycopg
import pytest

from audit_middleware.collector.committer import SLOW_SECONDS
from audit_middleware.collector.postgres.link import LOCK_SECONDS
from audit_middleware.collector.postgres.locks import key_of
from audit_middleware.sealing.keys import parse_keys
from audit_middleware.sealing.text import timestamp
from tests.collector.kit import App
from tests.collector.monitor.test_live import APPLICATION, free_port
from tests.postgres.fleet import HEADERS, NAMES, Balancer, Fleet, found_at

pytestmark = pytest.mark.postgres
SENDERS = 5
BATCH = 10
PAUSE = 0.05
PROMISE = 5.0
SILENCE, SETTLE, UNCLOSED, SHOP, AWAY = 18.0, 20.0, 25.0, 14.0, 8.0
assert SILENCE > 3 * SLOW_SECONDS  # a line may wait for two commits and for a look at the others, none of them slow
LOOK = SETTLE + PROMISE  # whoever fell silent at first would be called so by then
MONITOR = f"""silence_seconds = {SILENCE}
settle_seconds = {SETTLE}
unclosed_seconds = {UNCLOSED}
expected_services = ["s0", "s4"]
[monitor.silence_by_service]
shop = {SHOP}
audit-collector = {AWAY}
"""


class Process(threading.Thread):
    """An application that works without end; `withhold` keeps what it seals meanwhile, and delivers it never."""

    def __init__(self, fleet, url, number):
        super().__init__(daemon=True)
        self.app = App(parse_keys(fleet.keys), service=f"s{number}", opened=False)
        self.withheld = []
        self.failure = None
        self._url = url
        self._is_over = False
        self._withholds = 0
        self._lines = [self._say("open", OPENED | {"service": self.app.service})]

    def run(self):
        try:
            while not self._is_over:
                self._lines += [self.app.request(ts=now()) for _ in range(BATCH)]
                if self._withholds:
                    self.withheld += self._lines[-self._withholds - 1 : -1]
                    del self._lines[-self._withholds - 1 : -1]
                    self._withholds = 0
                self._deliver()
                time.sleep(PAUSE)
            self._lines.append(self._say("close", COUNTERS | {"service": self.app.service}))
            self._deliver()
        except BaseException as error:
            self.failure = error

    def withhold(self, count):
        self._withholds = count
        while not self.withheld:
            time.sleep(0.02)
        return self.withheld

    def end(self):
        self._is_over = True
        self.join(60)
        assert self.failure is None
        assert not self.is_alive()

    def _deliver(self):
        deliver(self._url, self._lines)
        self._lines = []

    def _say(self, type_, rec):
        return self.app.say(type_, rec, now())


OPENED = {
    "version": "1",
    "instance": "i",
    "env": "test",
    "host": "h",
    "boot_id": "b",
    "pid": 1,
    "started": "2026-11-23T07:00:00.000000Z",
    "library": "audit-ready/0",
    "policy": "p",
    "durability": "journal",
}
COUNTERS = {"monotonic_us": 1, "seen": 1, "recorded": 1, "dropped": 0, "spool_bytes": 0}


def now():
    return timestamp(time.time_ns()).decode()


def deliver(url, lines):
    """What a shipper does: ask again until it is taken."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            answer = httpx.post(f"{url}/v1/records", content=b"\n".join(lines) + b"\n", headers=HEADERS, timeout=3)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code == 200:
            assert answer.json()["quarantined"] == []
            return
        assert answer is None or answer.status_code == 503, answer.text
        time.sleep(0.1)
    raise AssertionError("nobody took it")


class Site:
    """The fleet, its address, and the load."""

    def __init__(self, shared):
        self.shared = shared
        self.fleet = Fleet(shared, MONITOR)
        for name in NAMES:
            self.fleet.wait(name)
        self.balancer = Balancer(self.fleet.urls.values())
        self.load = [Process(self.fleet, self.balancer.url, number) for number in range(SENDERS)]
        self.processes = []

    def end(self):
        for process in self.load:
            process._is_over = True
        for process in self.processes:
            process.kill()
            process.wait()
        self.balancer.end()
        self.fleet.end()

    def start_load(self):
        for process in self.load:
            process.start()

    def end_load(self):
        """Let every application say goodbye; return all that was sealed."""
        for process in self.load:
            process.end()

    def findings(self, name):
        """What a collector shows, but of the collectors' own streams, which their kills leave unclosed."""
        return [each for each in self._all(name) if each["service"] != "audit-collector"]

    def unclosed(self, name):
        """The streams that ended without goodbye, those of the collectors too."""
        return [each for each in self._all(name) if each["kind"] == "unclosed"]

    def _all(self, name):
        answer = httpx.get(f"{self.fleet.urls[name]}/v1/findings", timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()["findings"]

    def wait_for(self, name, kind, state, seconds=PROMISE, **wanted):
        return self.wait_for_any([name], kind, state, seconds, **wanted)

    def wait_for_any(self, names, kind, state, seconds, **wanted):
        """The finding at one of them; who watches may change while their commits wait for what a frozen one holds."""
        until = time.monotonic() + seconds
        for name in itertools.cycle(names):
            url = f"{self.fleet.urls[name]}/v1/findings"
            found = []
            with contextlib.suppress(httpx.TransportError):
                found = httpx.get(url, timeout=10).json().get("findings", [])
            for each in found:
                if (each["kind"], each["state"]) == (kind, state) and wanted.items() <= each.items():
                    return each
            assert time.monotonic() < until, f"no {kind} {state} at {name} within {seconds} s: {found}"
            time.sleep(0.1)
        return None

    def watching(self):
        """The name of the collector that watches for all."""
        key = key_of("who watches for all") % 2**64
        sql = (
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND granted"
        )
        for _ in range(150):
            with psycopg.connect(self.shared.dsn()) as connection:
                found = connection.execute(sql, (key >> 32, key & 0xFFFFFFFF)).fetchall()
            if found:
                ((application,),) = found
                return application.removeprefix("audit-ready ").removesuffix(".test")
            time.sleep(0.1)
        raise AssertionError("nobody watches")

    def start_shop(self):
        folder, port = self.shared.folder, free_port()
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIT_", "OTEL_"))}
        environ |= {"AUDIT_KEYS": self.fleet.keys, "AUDIT_SPOOL_DIR": str(folder / "spool"), "AUDIT_SERVICE": "shop"}
        environ |= {"AUDIT_COLLECTOR_URL": self.balancer.url}
        command = [sys.executable, "-c", APPLICATION, str(port)]
        with open(folder / "shop.log", "ab") as log:
            process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        self.processes.append(process)
        for _ in range(150):
            try:
                if httpx.post(f"http://127.0.0.1:{port}/sell").status_code == 200:
                    return process
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError((folder / "shop.log").read_text())

    def require_complete(self):
        """Every record is found once, by everybody, none was set aside, and the ledgers verify together."""
        for url in self.fleet.urls.values():
            for process in self.load:
                assert found_at(url, stream=process.app.stream) == process.app.lines[::-1]
            for kind in ("conflict", "quarantine"):
                assert found_at(url, type=kind) == []
        command = [sys.executable, "-m", "audit_middleware", "verify", *self.fleet.urls.values()]
        environ = os.environ | {"AUDIT_KEYS": self.fleet.keys}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def site(shared):
    started = Site(shared)
    try:
        yield started
    finally:
        started.end()


def test_killed_in_turn_under_load_they_find_what_is_withheld_and_nothing_else(site):
    site.start_load()
    late = site.load[2].withhold(3)
    stream = site.load[2].app.stream
    first = {name: site.wait_for(name, "gap", "open", stream=stream) for name in NAMES}
    assert len({each["id"] for each in first.values()}) == 1
    began = time.monotonic()
    for name in NAMES:
        site.fleet.kill(name)
        site.fleet.wait(name)
        time.sleep(1)
    while time.monotonic() < began + SETTLE + SILENCE:  # whoever were called silent would be by now
        time.sleep(0.5)
    for name in NAMES:
        seen = site.findings(name)
        assert len(seen) == 1, seen
        (found,) = seen
        assert (found["kind"], found["state"], found["occurrence"]) == ("gap", "open", 1)
        assert (found["stream"], found["evidence"]["lines"]) == (stream, 3)
    deliver(site.fleet.urls[NAMES[0]], late)
    for name in NAMES:
        site.wait_for(name, "gap", "resolved", stream=stream)
    site.end_load()
    for name in NAMES:
        for service in ("s0", "s4"):  # they are expected, and have said goodbye
            site.wait_for(name, "missing_service", "open", about=service)
        assert sorted(each["kind"] for each in site.findings(name)) == ["gap", "missing_service", "missing_service"]
    site.require_complete()


def test_a_killed_application_is_found_and_stays_found_when_its_finder_is_killed(site):
    site.start_load()
    shop = site.start_shop()
    time.sleep(SETTLE)
    shop.kill()
    killed = time.monotonic()
    finder = site.watching()
    others = [name for name in NAMES if name != finder]
    found = site.wait_for(finder, "silence", "open", SHOP + PROMISE, service="shop")
    assert time.monotonic() - killed > SHOP - 10 - 1  # it beats every 10 s
    for name in others:
        assert site.wait_for(name, "silence", "open", 2, service="shop")["id"] == found["id"]
    site.fleet.kill(finder, stays_away=True)
    died = time.monotonic()
    assert site.watching() in others
    for name in others:
        kept = site.wait_for(name, "silence", "open", 1, service="shop")
        assert (kept["id"], kept["occurrence"], kept["first_seen"]) == (found["id"], 1, found["first_seen"])
        site.wait_for(
            name, "silence", "open", died + AWAY + PROMISE - time.monotonic(), about=f"collector {finder}.test"
        )
    answer = httpx.post(f"{site.fleet.urls[others[0]]}/v1/findings/{found['id']}", json={"state": "acknowledged"})
    assert answer.status_code == 200, answer.text
    site.wait_for(others[1], "silence", "acknowledged", service="shop")
    site.fleet.start(finder)
    site.fleet.wait(finder)
    for name in NAMES:
        site.wait_for(name, "silence", "resolved", about=f"collector {finder}.test")
        site.wait_for(name, "silence", "acknowledged", service="shop")
    site.start_shop()
    for name in NAMES:
        site.wait_for(name, "silence", "resolved", 12, service="shop")
        assert {each["service"] for each in site.findings(name)} == {"shop"}
    site.end_load()
    site.require_complete()


def test_a_collector_that_freezes_and_goes_on_changes_nothing(site):
    site.start_load()
    time.sleep(3)
    frozen = site.watching()
    site.fleet.signal(frozen, signal.SIGSTOP)
    time.sleep(AWAY)
    others = [name for name in NAMES if name != frozen]
    assert site.watching() in others
    held = LOCK_SECONDS + SETTLE + PROMISE  # it may hold streams, for which the commits of the others wait in vain
    site.wait_for_any(others, "silence", "open", held, about=f"collector {frozen}.test")
    site.fleet.signal(frozen, signal.SIGCONT)
    for name in NAMES:
        site.wait_for(name, "silence", "resolved", held, about=f"collector {frozen}.test")
    assert site.watching() in others
    time.sleep(LOOK)
    for name in NAMES:
        assert site.findings(name) == []
    site.end_load()
    site.require_complete()


def test_postgres_restarted_under_load_finds_nothing_that_is_not_so(site):
    site.start_load()
    late = site.load[1].withhold(2)
    for name in NAMES:
        site.wait_for(name, "gap", "open")
    site.shared.server.stop()
    time.sleep(2)
    site.shared.server.start()
    site.watching()
    deliver(site.balancer.url, late)
    for name in NAMES:
        site.wait_for(name, "gap", "resolved", 20)
    time.sleep(LOOK)
    for name in NAMES:
        assert [(each["kind"], each["state"]) for each in site.findings(name)] == [("gap", "resolved")]
        assert site.unclosed(name) == []  # the collectors lived on
    site.end_load()
    site.require_complete()
