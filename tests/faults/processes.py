"""The real processes of one run: collector, apps under uvicorn, sidecars. Leaving a site ends what it started."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from audit_middleware.journal.segment import segment_ordinals
from audit_middleware.sealing.keys import new_key, read_key_file

ROOT: Final = Path(__file__).resolve().parents[2]
START_S: Final = 30.0
POLL_S: Final = 0.005


class Process:
    """One process and its children, in a session of their own, so that nothing outlives a run."""

    def __init__(self, name: str, command: list[str], environ: dict[str, str], log: Path):
        self.name = name
        self.log = log
        self.began = time.monotonic()
        with open(log, "ab") as output:
            self._popen = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._popen.pid

    def require_alive(self) -> None:
        """Fail if it ended by itself, with its last words."""
        code = self._popen.poll()
        assert code is None, f"{self.name} ended by itself with {code}:\n{self.last_words()}"

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        """Poll until ``is_so``; fail when the process ends before that or it takes too long."""
        until = time.monotonic() + START_S
        while not is_so():
            self.require_alive()
            assert time.monotonic() < until, f"{self.name}: not {what} within {START_S} s:\n{self.last_words()}"
            time.sleep(POLL_S)

    def wait(self, timeout: float) -> int:
        """Wait until it ended by itself; return its exit code."""
        return self._popen.wait(timeout)

    def kill(self) -> None:
        """SIGKILL: no handler, no flush, no goodbye."""
        self._popen.kill()
        self._popen.wait()

    def terminate(self, within: float) -> float:
        """SIGTERM; return the seconds until it was gone, fail if that is more than ``within``."""
        began = time.monotonic()
        self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {within} s:\n{self.last_words()}") from None
        return time.monotonic() - began

    def end_group(self) -> None:
        """Kill it and its children, unless it was waited for already: then its number may be somebody else's."""
        if self._popen.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()

    def workers(self) -> list[int]:
        """The pids of its children that serve, as uvicorn spawns them."""
        pids = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            pids += map(int, (task / "children").read_text().split())
        return [pid for pid in pids if b"spawn_main" in _command_line(pid)]

    def last_words(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]


class Site:
    """The folder of one run, its addresses and environment, and every process it started."""

    def __init__(self, folder: Path, seed: str):
        self.folder = folder
        self.spool = folder / "spool"
        self.data = folder / "data"
        self.seed = seed
        self._ports = random.Random(f"{seed}/ports")
        self.collector_port = self.free_port()
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIT_", "OTEL_"))}
        keys = folder / "keys"
        keys.write_text(new_key("faults") + "\n", encoding="ascii")
        keys.chmod(0o600)
        self.keyring = read_key_file(keys)
        self.spool.mkdir(mode=0o700)  # a sidecar may start before the first app
        self.environ |= {"AUDIT_KEY_FILE": str(keys), "AUDIT_SPOOL_DIR": str(self.spool)}
        self._lock = threading.Lock()
        self._started: list[Process] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end_all()

    def end_all(self) -> None:
        """Kill whatever still runs."""
        for process in self._started:
            process.end_group()

    def free_port(self) -> int:
        """A port below those the kernel hands out, or a client of ours could take it while its server is dead."""
        while True:
            port = self._ports.randrange(12_000, 30_000)
            try:
                socket.create_server(("127.0.0.1", port)).close()
            except OSError:
                continue
            return port

    def start(self, name: str, *arguments: str, **environ: str) -> Process:
        process = Process(name, [sys.executable, *arguments], {**self.environ, **environ}, self.folder / f"{name}.log")
        with self._lock:
            self._started = [each for each in self._started if each._popen.poll() is None] + [process]
        return process

    def start_collector(self, module: str = "audit_middleware") -> Process:
        listen, guard = f"127.0.0.1:{self.collector_port}", str(self.folder / "guard")
        places = ("--data", str(self.data), "--listen", listen, "--name", "faults", "--guard", guard)
        return self.start("collector", "-m", module, "collect", *places)

    def wait_until_ready(self, collector: Process) -> None:
        collector.wait_until(lambda: _is_ready(self.collector_port), "ready")

    def start_app(self, port: int, *options: str, module: str = "app", **environ: str) -> Process:
        uvicorn = ("-m", "uvicorn", f"tests.faults.{module}:app", "--log-level", "warning", "--no-access-log")
        return self.start(f"app-{port}", *uvicorn, "--port", str(port), *options, **environ)

    def ship(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run ``audit-ready ship`` and return what came of it."""
        command = [sys.executable, "-m", "audit_middleware", "ship", str(self.spool), *options]
        return subprocess.run(command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False)

    def streams_of(self, pid: int) -> list[Path]:
        """The folders of the streams that a process wrote and nobody has removed yet."""
        return [folder for folder in _streams(self.spool) if _pid_of(folder) == pid]

    def torn_tail(self, pid: int) -> bytes:
        """What a killed process left behind its last whole line."""
        for folder in self.streams_of(pid):
            try:
                names = segment_ordinals(os.listdir(folder))
                last = (folder / f"seg-{names[-1]:010d}.ndjson").read_bytes() if names else b""
            except FileNotFoundError:  # a neighbour delivered and removed it meanwhile
                continue
            if last and not last.endswith(b"\n"):
                return last.rpartition(b"\n")[2]
        return b""

    def leftovers(self) -> list[str]:
        """What lies in the spool besides delivered-to-the-end bookkeeping, by path."""
        waiting = [*self.spool.glob("streams/*"), *self.spool.glob("quarantine/**/*")]
        return sorted(str(path.relative_to(self.spool)) for path in waiting if not _is_half_made(path))


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _streams(spool: Path) -> list[Path]:
    return [folder for folder in spool.glob("streams/*") if not folder.name.startswith(".")]


def _is_half_made(path: Path) -> bool:
    """A stream folder whose maker was killed before it was one: swept by the next process, once a minute old."""
    return path.name.startswith(".new-") and not any(segment.stat().st_size for segment in path.glob("seg-*"))


def _pid_of(folder: Path) -> int:
    try:
        return msgspec.json.decode((folder / "meta.json").read_bytes())["pid"]
    except (OSError, msgspec.DecodeError):
        return -1


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
