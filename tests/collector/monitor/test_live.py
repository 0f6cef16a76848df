"""The five seconds, over real processes: a collector and an application, their files, and what is done to them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from audit_middleware.sealing.keys import new_key, read_key_file
from tests.collector.kit import OTHER_KEYRING, App, rec_of
from tests.collector.monitor.kit import COUNTERS

ROOT = Path(__file__).parents[3]
PROMISE = 5.0
SILENCE, SETTLE = 14.0, 1.0  # an application beats every 10 s; hand-made streams are waited for in their own service
ORDINARY = """
[monitor]
settle_seconds = 1.0
unclosed_seconds = 3.0
[monitor.silence_by_service]
haste = 1.0
shop = 14.0
"""
PATIENT = ORDINARY.replace("settle_seconds = 1.0", "settle_seconds = 32.0")  # a shipper may pause for 30 s
EXPECTING = ORDINARY.replace("[monitor]", '[monitor]\nexpected_services = ["billing"]')
APPLICATION = """
import sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from audit_middleware import AuditMiddleware

async def sell(request):
    return PlainTextResponse("sold")

app = Starlette(routes=[Route("/sell", sell, methods=["POST"])])
app.add_middleware(AuditMiddleware)
print("starting", flush=True)
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", proxy_headers=False)
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


MAIN = "from audit_middleware.cli import main; main()"


class Site:
    """One folder with a collector's data, keys and spool."""

    def __init__(self, folder, port, config):
        self.folder, self.port = folder, port
        keys = folder / "keys"
        keys.write_text(new_key("live") + "\n")
        keys.chmod(0o600)
        self.keyring = read_key_file(keys)
        (folder / "collector.toml").write_text(config)
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIT_", "OTEL_"))}
        self.environ |= {
            "AUDIT_KEY_FILE": str(keys),
            "AUDIT_SPOOL_DIR": str(folder / "spool"),
            "AUDIT_SERVICE": "shop",
            "AUDIT_COLLECTOR_URL": self.url,
        }
        self.processes = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def run(self, *command):
        process = subprocess.Popen(
            command, cwd=ROOT, env=self.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        assert process.stdout.readline(), command
        return process

    def collect(self):
        data, config = str(self.folder / "data"), str(self.folder / "collector.toml")
        guard = str(self.folder / "guard")
        listen = f"127.0.0.1:{self.port}"
        command = [
            "collect",
            "--data",
            data,
            "--config",
            config,
            "--guard",
            guard,
            "--listen",
            listen,
            "--name",
            "audit.live",
        ]
        return self.run(sys.executable, "-c", MAIN, *command)

    def start_application(self):
        self.shop = free_port()
        process = self.run(sys.executable, "-c", APPLICATION, str(self.shop))
        until = time.monotonic() + 10
        while not self.sell():
            assert time.monotonic() < until
            time.sleep(0.1)
        return process

    def sell(self):
        """One request to the application; whether it was served."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.shop}/sell", data=b"1", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def records(self, service):
        with urllib.request.urlopen(f"{self.url}/v1/records?service={service}&type=request", timeout=5) as response:
            return len(json.load(response)["records"])

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def deliver(self, *lines):
        request = urllib.request.Request(f"{self.url}/v1/records", data=b"\n".join(lines), method="POST")
        with urllib.request.urlopen(request, timeout=5) as response:
            return json.load(response)

    def findings(self):
        with urllib.request.urlopen(f"{self.url}/v1/findings", timeout=5) as response:
            return json.load(response)["findings"]

    def wait_for(self, kind, service=None, state="open", seconds=PROMISE):
        until = time.monotonic() + seconds
        while True:
            for each in self.findings():
                if (each["kind"], each["state"]) == (kind, state) and service in (None, each["service"]):
                    return each
            assert time.monotonic() < until, f"no {kind} within {seconds} s: {self.findings()}"
            time.sleep(0.05)

    def app(self, service="haste", keyring=None):
        return App(keyring or self.keyring, service=service)


@pytest.fixture
def site_with(tmp_path):
    """Makes a site with a configuration, and ends what it started."""
    sites = []

    def make(config=ORDINARY):
        sites.append(Site(tmp_path, free_port(), config))
        sites[-1].collect()
        return sites[-1]

    yield make
    for site in sites:
        site.end()


def test_what_is_done_to_lines_and_files_is_found_within_five_seconds(site_with):
    site = site_with()
    app = site.app()
    app.requests(600)
    site.deliver(app.lines[0], *app.lines[2:])
    gap = site.wait_for("gap")
    assert (gap["stream"], gap["evidence"]["missing"]) == (app.stream, [[1, 1]])
    site.deliver(app.lines[1])
    site.wait_for("gap", state="resolved")

    bundle = next((site.folder / "data/log").glob("*/*/tile/entries/001"))
    bundle.chmod(0o644)
    data = bytearray(bundle.read_bytes())
    data[1000] ^= 1
    bundle.write_bytes(data)
    tampering = site.wait_for("tampering")
    assert (tampering["evidence"]["path"], tampering["evidence"]["first"] >= 256) == ("tile/entries/001", True)

    stranger = site.app(keyring=OTHER_KEYRING)
    site.deliver(*stranger.lines)
    assert site.wait_for("unknown_key")["evidence"]["lines"] == 1

    site.deliver(app.request().replace(b'"alice"', b'"mlice"'))
    site.wait_for("seal")


def test_clocks_deaths_and_services_that_never_came_are_found_within_five_seconds(site_with):
    site = site_with(EXPECTING)
    site.wait_for("missing_service", "billing", seconds=PROMISE + SETTLE)
    ahead = App(site.keyring, service="haste", opened=False)
    ahead.say("event", rec_of("haste"), ts=time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() + 60)))
    site.deliver(*ahead.lines)
    assert 55 <= site.wait_for("skew")["evidence"]["ahead_seconds"] <= 61
    site.wait_for("silence", "haste", seconds=PROMISE + 1)
    site.wait_for("unclosed", "haste", seconds=PROMISE + 3)
    billing = site.app("billing")
    site.deliver(*billing.lines)
    site.wait_for("missing_service", "billing", state="resolved")
    site.deliver(billing.say("close", {"service": "billing"} | COUNTERS))
    site.wait_for("missing_service", "billing")


@pytest.mark.faults
def test_an_application_that_is_killed_is_found_and_its_successor_explains_it(site_with):
    site = site_with()
    process = site.start_application()
    time.sleep(1.5)
    process.kill()
    killed = time.monotonic()
    silence = site.wait_for("silence", "shop", seconds=SILENCE + PROMISE)
    assert time.monotonic() - killed >= SILENCE - 2
    assert silence["evidence"]["scope"] == "service"
    site.start_application()
    site.wait_for("silence", "shop", state="resolved")
    site.wait_for("unclosed", "shop")


@pytest.mark.faults
def test_an_ordinary_run_has_no_findings(site_with):
    """Work, a while of idleness, a collector that is away for longer than a beat, a clean end of everything."""
    site = site_with(PATIENT)
    process = site.start_application()
    time.sleep(2)
    end(site.processes[0])
    for _ in range(10):
        assert site.sell()
        time.sleep(1.2)
    site.collect()
    for _ in range(48):
        time.sleep(1.0)
        assert site.findings() == []
    end(process)
    for _ in range(4):
        time.sleep(1.0)
        assert site.findings() == []
    assert site.records("shop") == 11
    end(site.processes[-1])
    site.collect()
    time.sleep(3.0)
    assert site.findings() == []


def end(process):
    """Ask a process to end in peace."""
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) in {0, -signal.SIGTERM}
