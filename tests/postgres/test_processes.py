"""Three real collector processes on one index, each killed in turn under load: every record once, all of them found."""

import itertools
import os
import random
import secrets
import subprocess
import sys
import threading
import time

import httpx
import pytest

from audit_middleware.collector.storage.files import FileStore
from audit_middleware.sealing.keys import new_key, parse_keys
from audit_middleware.sealing.text import unb64url
from audit_middleware.tlog.note import Signer
from audit_middleware.tlog.reader import LogReader
from audit_middleware.tlog.tiles import WIDTH
from tests.collector.kit import App
from tests.stores.weed import free_ports

pytestmark = pytest.mark.postgres
NAMES = ("one", "two", "three")
SENDERS = 6
LINES = 1500
BATCH = 15
PAUSE = 0.1  # so that the load lasts longer than the killing


class Fleet:
    """The processes; `kill` is SIGKILL, after which the process is started again."""

    def __init__(self, shared):
        self._folder = shared.folder
        self.keys = new_key("k1")
        self.urls = {}
        self._running = {}
        (self._folder / "index.toml").write_text(
            f'[index]\nkind = "postgres"\nkey_file = "{shared.index.key_file}"\ndsn_file = "{shared.index.dsn_file}"\n'
            "[monitor]\nenabled = false\n"
        )
        for name, port in zip(NAMES, free_ports(3), strict=True):
            self.urls[name] = f"http://127.0.0.1:{port}"
            self.start(name)

    def start(self, name):
        folder = self._folder / name
        command = [sys.executable, "-m", "audit_middleware", "collect", "--data", str(folder / "data")]
        command += ["--listen", self.urls[name].removeprefix("http://"), "--config", str(self._folder / "index.toml")]
        command += ["--name", f"{name}.test", "--guard", str(folder / "guard")]
        with open(self._folder / f"{name}.log", "ab") as log:
            environ = os.environ | {"AUDIT_KEYS": self.keys}
            self._running[name] = subprocess.Popen(command, env=environ, stdout=log, stderr=log)

    def wait(self, name):
        for _ in range(300):
            assert self._running[name].poll() is None, (self._folder / f"{name}.log").read_text()[-3000:]
            try:
                if httpx.get(f"{self.urls[name]}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError((self._folder / f"{name}.log").read_text()[-3000:])

    def kill(self, name):
        self._running[name].kill()
        self._running[name].wait()
        self.start(name)

    def ledgers(self):
        """Every entry of every ledger; a line that a collector had when it died may be in two of them."""
        for name in NAMES:
            data = self._folder / name / "data"
            for folder in data.glob("log/*/*"):
                verifier = Signer(f"{name}.test/{folder.parent.name}/{folder.name}", read_seed(data)).verifier
                reader = LogReader(FileStore(folder).get, verifier)
                for number in range(-(-reader.checkpoint().size // WIDTH)):
                    yield from reader.bundle(number)

    def end(self):
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait(30)


@pytest.fixture
def fleet(shared):
    started = Fleet(shared)
    try:
        for name in NAMES:
            started.wait(name)
        yield started
    finally:
        started.end()


def read_seed(data):
    return unb64url((data / "log.key").read_bytes().strip())


def send(app, urls, failures):
    """What a shipper does: keep to one collector until it fails, deliver again what was not answered for."""
    turn = itertools.cycle(random.sample(urls, len(urls)))
    url = next(turn)
    try:
        for start in range(0, len(app.lines), BATCH):
            body = b"".join(line + b"\n" for line in app.lines[start : start + BATCH])
            for _ in range(400):
                try:
                    answer = httpx.post(f"{url}/v1/records", content=body, headers=HEADERS, timeout=30)
                except httpx.TransportError:
                    answer = None
                if answer is not None and answer.status_code == 200:
                    assert answer.json()["quarantined"] == []
                    break
                assert answer is None or answer.status_code == 503, answer.text
                url = next(turn)
                time.sleep(0.1)
            else:
                raise AssertionError("nobody took it")
            time.sleep(PAUSE)
    except BaseException as error:
        failures.append(error)


HEADERS = {"Content-Type": "application/x-ndjson"}


def found_at(url, **parameters):
    """Every record a search finds."""
    found, cursor = [], None
    while True:
        items = {**parameters, "limit": 500, "include": "line"} | ({"cursor": cursor} if cursor else {})
        answer = httpx.get(f"{url}/v1/records", params=items, timeout=30)
        assert answer.status_code == 200, answer.text
        found += [each["line"].encode() for each in answer.json()["records"]]
        cursor = answer.json()["next"]
        if cursor is None:
            return found


def test_each_collector_killed_in_turn_and_postgres_restarted_under_load(shared, fleet):
    apps = [App(parse_keys(fleet.keys), service=f"s{number}") for number in range(SENDERS)]
    for app in apps:
        app.requests(LINES - 1, resource={"type": "order", "id": secrets.token_hex(4)})
    failures = []
    urls = list(fleet.urls.values())
    threads = [threading.Thread(target=send, args=(app, urls, failures)) for app in apps]
    for thread in threads:
        thread.start()
    for name in (*NAMES, *NAMES):
        time.sleep(random.uniform(0.2, 0.5))
        fleet.kill(name)
        fleet.wait(name)
    assert all(thread.is_alive() for thread in threads), "the load ended before the killing"
    shared.server.stop()
    shared.server.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for name in NAMES:
        fleet.kill(name)
        fleet.wait(name)
    for url in urls:
        for app in apps:
            assert found_at(url, stream=app.stream) == app.lines[::-1]
        for finding in ("conflict", "quarantine"):
            assert found_at(url, type=finding) == []
    fleet.end()
    kept = list(fleet.ledgers())
    for app in apps:
        assert set(app.lines) <= set(kept)
    own = {line for app in apps for line in app.lines}
    assert all(line in own for line in kept if b'"service":"audit-collector"' not in line)
