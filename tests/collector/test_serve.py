import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from audit_middleware.collector.serve import bind
from audit_middleware.errors import ConfigurationError
from tests.collector.kit import App

PROGRAM = """
import sys
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


def test_an_address_in_use_is_named():
    with bind("127.0.0.1", 0) as listener, pytest.raises(ConfigurationError, match="cannot listen on 127"):
        bind("127.0.0.1", listener.getsockname()[1])
