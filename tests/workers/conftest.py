import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit_middleware import Principal
from audit_middleware.capture import Exchange, enter, leave
from audit_middleware.config import load
from audit_middleware.pipeline import Pipeline
from audit_middleware.verify import verify_spool
from tests.capture.kit import KEYS, OPEN, journal_lines
from tests.workers.broker import Broker

ROOT = Path(__file__).parents[2]
WITHIN_S = 60


@pytest.fixture(scope="session")
def broker():
    with Broker() as started:
        yield started


class Place:
    """A spool and a database of the broker, for workers that are real processes, and for this process, which sends."""

    def __init__(self, folder, url):
        self.folder = folder
        self.url = url
        self.environ = {"AUDIT_SPOOL_DIR": str(folder / "spool"), "AUDIT_KEYS": KEYS, "AUDIT_SERVICE": "shop"}
        self.pipeline = Pipeline(load({}, spool_dir=folder / "sender" / "spool", keys=KEYS, service="web"), "web")
        OPEN.append(self.pipeline)
        self._processes = []

    @contextmanager
    def request(self):
        exchange = Exchange("web", self.pipeline.recorder.new_request_id(), "POST", "/orders", 0)
        exchange.gate, exchange.source = self.pipeline, ("203.0.113.7", "peer", "203.0.113.7")
        exchange.user = Principal("alice", "user", "session")
        token = enter(exchange)
        try:
            yield exchange
        finally:
            leave(token)

    def start(self, *command, **environ):
        path = os.pathsep.join([str(ROOT), str(ROOT / "integrations")])
        given = {
            **os.environ,
            **self.environ,
            "PYTHONPATH": path,
            "BROKER": self.url,
            "MARKS": str(self.folder),
            **environ,
        }
        log = (self.folder / "worker.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=given, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        self._processes.append(process)
        return process

    def stop(self):
        """End every worker: kindly at first."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        self._processes.clear()

    def lines(self, type_):
        return [line["rec"] for line in journal_lines(self.folder) if line["type"] == type_]

    def wait(self, count):
        """Wait for so many task records and return them."""
        self.until(lambda: len(self.lines("task")) >= count)
        found = self.lines("task")
        assert len(found) == count, [(each["action"], each["task"]) for each in found]
        return found

    def until(self, is_so):
        deadline = time.monotonic() + WITHIN_S
        while not is_so():
            assert time.monotonic() < deadline, (self.folder / "worker.log").read_text()[-4000:]
            time.sleep(0.1)

    def mark(self, name):
        """What a task wrote into a file: the process that runs it."""
        path = self.folder / name
        self.until(lambda: path.exists() and path.read_text())
        return int(path.read_text())

    def verify(self):
        assert verify_spool(self.folder / "spool", self.pipeline.recorder.keyring).exit_code == 0


@pytest.fixture
def place(broker, tmp_path):
    opened = Place(tmp_path, broker.url())
    yield opened
    opened.stop()
