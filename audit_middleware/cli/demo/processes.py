"""The demo's processes: a collector and three services, started, killed and restarted for real."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import click
import httpx

from audit_middleware.errors import AuditError, ConfigurationError
from audit_middleware.journal.spool import Spool
from audit_middleware.sealing.keys import new_key

if TYPE_CHECKING:
    from audit_middleware.cli.demo.traffic import Traffic

START_S: Final = 20.0
DRAIN_S: Final = 30.0
INGEST_TOKEN: Final = "demo-ingest-token"  # noqa: S105 - a token of this demo, on loopback
READ_TOKEN: Final = "demo-reader-token"  # noqa: S105 - a token of this demo, on loopback


_UVICORN: Final = ("--port", "{port}", "--no-proxy-headers", "--log-level", "critical")
APPS: Final = {
    "orders": ("uvicorn", "example_apps.fastapi_app.main:app", *_UVICORN),
    "billing": ("gunicorn", "example_apps.flask_app.main:app", "--bind", "127.0.0.1:{port}", "--threads", "4"),
    "backoffice": ("uvicorn", "example_apps.django_app.asgi:application", *_UVICORN),
}
"""The example services by name, each with the module and arguments that serve it."""

WORKER: Final = ("celery", "-A", "example_apps.worker.tasks", "worker", "--pool", "solo", "--loglevel", "ERROR")
CALL_SECONDS: Final = 3.0
_CONFIG: Final = f"[monitor]\ncall_seconds = {CALL_SECONDS}\n"


class Demo:
    """Owns the folder and the processes of one run; leaving it ends what it started."""

    def __init__(self, folder: Path, root: Path, *, is_quiet: bool = False) -> None:
        self._is_quiet = is_quiet
        self.folder = folder
        self.spool = folder / "spool"
        self.spool_copy = folder / "spool-copy"
        self.data = folder / "data"
        self.collector_url = f"http://127.0.0.1:{_free_port()}"
        self.app_urls = {name: f"http://127.0.0.1:{_free_port()}" for name in APPS}
        self._root = root
        self._began = time.monotonic()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        keys = folder / "keys"
        keys.write_text(new_key("demo") + "\n", encoding="ascii")
        keys.chmod(0o600)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIT_", "OTEL_"))}
        self.environ = {
            **inherited,
            "AUDIT_KEY_FILE": str(keys),
            "AUDIT_SPOOL_DIR": str(self.spool),
            "AUDIT_COLLECTOR_URL": self.collector_url,
            "AUDIT_TOKEN": INGEST_TOKEN,
            "AUDIT_TOKENS": f"apps:{INGEST_TOKEN}:{'|'.join([*APPS, 'mail'])}:ingest,auditor:{READ_TOKEN}:*:reader",
            "AUDIT_INTERNAL_HOSTS": "127.0.0.1",
            "BILLING_URL": self.app_urls["billing"],
            "BACKOFFICE_URL": self.app_urls["backoffice"],
            "BROKER_FOLDER": str(folder / "broker"),
        }
        (folder / "collector.toml").write_text(_CONFIG, encoding="ascii")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name in list(self._running):
            self._end(name, signal.SIGTERM)

    def say(self, what: str) -> None:
        """Print a step with the time since the start."""
        if not self._is_quiet:
            click.echo(f"[{time.monotonic() - self._began:5.1f} s] {what}")

    def start_collector(self) -> None:
        """Start the collector and wait until it is ready."""
        listen = self.collector_url.removeprefix("http://")
        guard = str(self.folder / "guard")
        arguments = ["collect", "--data", str(self.data), "--listen", listen, "--name", "demo", "--guard", guard]
        arguments += ["--config", str(self.folder / "collector.toml")]
        self._start("collector", [sys.executable, "-m", "audit_middleware", *arguments])
        self._wait("collector", lambda: _answers(f"{self.collector_url}/readyz"))

    def kill_collector(self) -> None:
        """SIGKILL: no handler, no flush, no goodbye."""
        self._end("collector", signal.SIGKILL)

    def start_apps(self) -> None:
        """Start the three services and the worker, and wait until the services listen."""
        self._start("mail", [sys.executable, "-m", *WORKER])
        for name in APPS:
            self._start(name, self._command(name))
        for name in APPS:
            self._wait_for_app(name)

    def stop_apps(self) -> None:
        """SIGTERM, as a deployment does."""
        for name in [*APPS, "mail"]:
            self._end(name, signal.SIGTERM)

    def restart_unaudited(self, name: str) -> None:
        """Start a service again with its audit trail switched off."""
        self._end(name, signal.SIGTERM)
        self._start(name, self._command(name), BILLING_UNAUDITED="1")
        self._wait_for_app(name)

    def check_out(self) -> str:
        """Let alice check an order out, and return the id of that request; raise `AuditError` when it fails."""
        url, headers = f"{self.app_urls['orders']}/orders/1/checkout", {"authorization": "Bearer alice-token"}
        try:
            answer = httpx.post(url, headers=headers, trust_env=False, timeout=10.0).raise_for_status()
        except httpx.HTTPError as error:
            raise AuditError(f"alice could not check out: {error}; see the logs in {self.folder}") from error
        return str(answer.headers["x-request-id"])

    def _command(self, name: str) -> list[str]:
        port = self.app_urls[name].rpartition(":")[2]
        return [sys.executable, "-m", *(part.format(port=port) for part in APPS[name])]

    def _wait_for_app(self, name: str) -> None:
        self._wait(name, partial(_listens, int(self.app_urls[name].rpartition(":")[2])))

    def watch(self, traffic: Traffic, seconds: float) -> None:
        """Let traffic run, showing how far it is."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(1.0, max(0.0, until - time.monotonic())))
            self.say(f"  {len(traffic.completed):,} answers complete, {self.waiting_bytes():,} bytes wait in the spool")

    def copy_spool(self) -> None:
        """Keep a copy of the journal as it lies there while the collector is away."""
        shutil.copytree(self.spool, self.spool_copy)

    def waiting_bytes(self) -> int:
        """Return the bytes of the spool that no collector has acknowledged."""
        if not self.spool.exists():
            return 0
        spool = Spool(self.spool)
        try:
            return sum(spool.view(stream).waiting_bytes for stream in spool.streams())
        finally:
            spool.close()

    def wait_until_drained(self) -> None:
        """Wait until everything in the spool was acknowledged; raise `AuditError` when it takes too long."""
        until = time.monotonic() + DRAIN_S
        while self.waiting_bytes():
            if time.monotonic() > until:
                raise AuditError(f"the spool did not drain within {DRAIN_S:.0f} s; see the logs in {self.folder}")
            time.sleep(0.1)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run ``audit-ready`` with the reader's token and return what came of it."""
        environ = {**self.environ, "AUDIT_TOKEN": READ_TOKEN}
        command = [sys.executable, "-m", "audit_middleware", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, check=False)  # noqa: S603 - our own command

    def _start(self, name: str, command: list[str], **environ: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - our own commands
                command, cwd=self._root, env=self.environ | environ, stdout=log, stderr=log
            )

    def _wait(self, name: str, is_up: Callable[[], bool]) -> None:
        until = time.monotonic() + START_S
        while not is_up():
            if self._running[name].poll() is not None or time.monotonic() > until:
                log = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                raise ConfigurationError(f"the {name} did not start:\n{log[-2000:]}")
            time.sleep(0.05)

    def _end(self, name: str, number: signal.Signals) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=1.0).is_success
    except httpx.HTTPError:
        return False


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
