"""``audit-ready alerts test`` as a program."""

import json
import os
import subprocess
import sys

import pytest

from tests.collector.alerts.receivers import HttpReceiver

SECRET = "a-secret-0123456789abcdef"


@pytest.fixture
def receiver():
    receiver = HttpReceiver()
    yield receiver
    receiver.close()


def run(file, *arguments):
    command = [sys.executable, "-m", "audit_middleware", "alerts", "test", "--config", str(file), *arguments]
    done = subprocess.run(command, env=os.environ | {"S": SECRET}, capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done


def test_every_sink_is_tried_and_says_what_came_back(receiver, tmp_path):
    file = tmp_path / "collector.toml"
    table = '[[alerts]]\nkind = "webhook"\nname = "{}"\nurl = "{}"\nsecret_env = "S"\n'
    file.write_text(table.format("good", receiver.url) + table.format("bad", "http://127.0.0.1:9"))
    done = run(file, "--json")
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert done.returncode == 2
    assert (found["good"]["sent"], found["bad"]["sent"]) == (True, False)
    assert "ConnectError" in found["bad"]["answer"]
    assert receiver.taken[0].json["test"] is True
    assert run(file, "good").returncode == 0
    missing = run(file, "nobody")
    assert (missing.returncode, "there are: good, bad" in missing.stderr) == (2, True)
