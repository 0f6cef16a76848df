"""Collector processes on one index, one address in front of them, and what sends to it."""

import contextlib
import itertools
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx

from audit_middleware.collector.storage.files import FileStore
from audit_middleware.sealing.keys import new_key
from audit_middleware.sealing.text import unb64url
from audit_middleware.tlog.note import Signer
from audit_middleware.tlog.reader import LogReader
from audit_middleware.tlog.tiles import WIDTH
from tests.stores.weed import free_ports

NAMES = ("one", "two", "three")
BATCH = 15
PAUSE = 0.1  # so that the load lasts longer than the killing


class Fleet:
    """The processes; `kill` is SIGKILL, after which the process is started again unless it `stays_away`."""

    def __init__(self, shared, monitor="enabled = false\n"):
        self._folder = shared.folder
        self.keys = new_key("k1")
        self.urls = {}
        self._running = {}
        (self._folder / "index.toml").write_text(
            f'[index]\nkind = "postgres"\nkey_file = "{shared.index.key_file}"\ndsn_file = "{shared.index.dsn_file}"\n'
            f"[monitor]\n{monitor}"
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

    def kill(self, name, *, stays_away=False):
        self._running[name].kill()
        self._running[name].wait()
        if not stays_away:
            self.start(name)

    def signal(self, name, number):
        self._running[name].send_signal(number)

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
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self._running.values():
            process.wait(30)


def read_seed(data):
    return unb64url((data / "log.key").read_bytes().strip())


class Balancer:
    """One address: each connection goes to the next collector, or the one after it if that one refuses."""

    def __init__(self, urls):
        self._ports = itertools.cycle([int(url.rpartition(":")[2]) for url in urls])
        self._count = len(urls)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def end(self):
        with self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)

    def _run(self):
        with contextlib.suppress(OSError):  # the listener is closed at the end
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client:
            server = self._next()
            if server is not None:
                with server:
                    _pipe(client, server)

    def _next(self):
        for _ in range(self._count):
            with contextlib.suppress(OSError):
                return socket.create_connection(("127.0.0.1", next(self._ports)), timeout=2)
        return None


def _pipe(client, server):
    """Carry bytes both ways until one side ends."""
    other = {client: server, server: client}
    server.settimeout(None)
    with contextlib.suppress(OSError):
        while True:
            for source in select.select(list(other), [], [])[0]:
                data = source.recv(65536)
                if not data:
                    return
                other[source].sendall(data)


def send(app, urls, failures, *, batch=BATCH, timeout=30):
    """What a shipper does: keep to one collector until it fails, deliver again what was not answered for."""
    turn = itertools.cycle(random.sample(urls, len(urls)))
    url = next(turn)
    try:
        for start in range(0, len(app.lines), batch):
            body = b"".join(line + b"\n" for line in app.lines[start : start + batch])
            for _ in range(400):
                try:
                    answer = httpx.post(f"{url}/v1/records", content=body, headers=HEADERS, timeout=timeout)
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
