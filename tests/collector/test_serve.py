import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit_middleware.collector.serve import bind
from audit_middleware.errors import ConfigurationError
from audit_middleware.sealing.keys import new_key, read_key_file
from tests.collector.kit import App

PROGRAM = """
import sys
from contextlib import contextmanager
from pathlib import Path
from audit_middleware.collector.serve import serve
from tests.collector.kit import settings_for
serve(settings_for(Path(sys.argv[1]), port=0), lambda collector, url: print(url, flush=True))
"""


def test_sigterm_ends_a_served_collector_cleanly_and_soon(tmp_path):
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            url = process.stdout.readline().strip()
            app = App()
            request = urllib.request.Request(f"{url}/v1/records", data=app.lines[0], method="POST")
            with urllib.request.urlopen(request, timeout=5) as response:
                assert json.load(response)["accepted"] == 1
                assert "server" not in response.headers
        finally:
            started = time.monotonic()
            os.kill(process.pid, signal.SIGTERM)
            process.wait(10)
    assert time.monotonic() - started < 3
    lines = b"".join(path.read_bytes() for path in (tmp_path / "data/log").glob("*/*/tile/entries/000.p/*"))
    assert b'"type":"close"' in lines


SOUND = '[[retention]]\nkeep = "2y"\n'
MAIN = "from audit_middleware.cli import main; main()"


def test_sighup_takes_a_sound_configuration_and_names_the_line_of_one_that_is_not(tmp_path):
    config, keys = tmp_path / "collector.toml", tmp_path / "keys"
    keys.write_text(new_key("k1") + "\n")
    keys.chmod(0o600)
    config.write_text(f'data = "{tmp_path / "data"}"\nkey_file = "{keys}"\nlisten = "127.0.0.1:0"\n' + SOUND)
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "collect", "--config", str(config), "--json"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            app = App(read_key_file(keys))
            assert receipt_of(url, app.lines[0])["accepted"] == 1
            config.write_text(config.read_text().replace('"2y"', '"soon"'))
            process.send_signal(signal.SIGHUP)
            said = process.stderr.readline()
            assert "collector.toml, line 4: retention[0] (class 'default'): keep 'soon'" in said
            assert "what runs goes on as it is" in said
            assert receipt_of(url, app.request())["accepted"] == 1

            config.write_text(config.read_text().replace('"soon"', '"3y"') + '[[tokens]]\nname = "shop"\n')
            process.send_signal(signal.SIGHUP)
            assert "tokens[0]" in process.stderr.readline()
            config.write_text(config.read_text().partition("[[tokens]]")[0])
            process.send_signal(signal.SIGHUP)
            again = json.loads(process.stdout.readline())["url"]
            assert receipt_of(again, *app.lines)["duplicates"] == 2
            with urllib.request.urlopen(f"{again}/v1/retention", timeout=5) as response:
                assert b'"3y"' in response.read()
        finally:
            process.terminate()
            assert process.wait(10) == 0


def receipt_of(url, *lines):
    request = urllib.request.Request(f"{url}/v1/records", data=b"\n".join(lines), method="POST")
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.load(response)


def test_an_address_in_use_is_named():
    with bind("127.0.0.1", 0) as listener, pytest.raises(ConfigurationError, match="cannot listen on 127"):
        bind("127.0.0.1", listener.getsockname()[1])


def test_an_answer_does_not_wait_until_the_client_acknowledges_its_head():
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


CROWDED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 256))
""" + PROGRAM.replace("port=0", "port=0, limits=Limits(head_seconds=float(sys.argv[2]))").replace(
    "import sys", "from audit_middleware.collector.limits import Limits"
)


@contextmanager
def served(tmp_path, program, *arguments):
    """A collector as a process; gives it and its URL, and ends it."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.terminate()
            process.stdin = None
            assert process.wait(10) == 0


def deliver(url, line):
    return receipt_of(url, line)["accepted"]


def half_heads(url, number):
    host, port = url.removeprefix("http://").split(":")
    found = []
    for _ in range(number):
        found.append(socket.create_connection((host, int(port)), timeout=5))
        found[-1].sendall(b"POST /v1/records HTTP/1.1\r\nHost: x\r\n")
    return found


def test_idle_connections_do_not_keep_deliveries_out(tmp_path):
    with served(tmp_path, CROWDED, "60") as (_, url):
        held = half_heads(url, 200)
        for _ in range(3):
            assert deliver(url, App().lines[0]) == 1
        limit = 256 - 160
        assert sum(not is_closed(each) for each in held) <= limit
        for each in held:
            each.close()
        assert deliver(url, App().lines[0]) == 1


def test_a_head_that_does_not_come_ends_the_connection(tmp_path):
    with served(tmp_path, CROWDED, "0.3") as (_, url):
        with half_heads(url, 1)[0] as held:
            assert held.recv(1) == b""
        with socket.create_connection(held_address(url), timeout=5) as kept:
            for _ in range(2):
                kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = b""
                while not answer.endswith(b"}"):
                    answer += kept.recv(4096)
                assert answer.startswith(b"HTTP/1.1 200")
            kept.sendall(b"G")
            assert kept.recv(1) == b""


def held_address(url):
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def is_closed(connection):
    connection.settimeout(0.001)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_thousand_bad_lines_need_no_thousand_descriptors(tmp_path):
    with served(tmp_path, CROWDED, "60") as (_, url):
        body = b"\n".join(b"rubbish %d" % number for number in range(1000))
        assert deliver(url, body) == 0
        assert deliver(url, App().lines[0]) == 1


def test_a_client_that_is_still_sending_at_the_end_is_no_failure(tmp_path):
    with served(tmp_path, CROWDED, "60") as (process, url), socket.create_connection(held_address(url)) as slow:
        slow.sendall(b"POST /v1/records HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        time.sleep(0.2)
        process.terminate()
        process.wait(10)
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_collector_with_0(tmp_path, number):
    with served(tmp_path, PROGRAM) as (process, _):
        process.send_signal(number)
        assert process.wait(10) == 0
