"""What the journal's tests share: a recorder on a spool of its own, records, and a look at what was written."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from audit_middleware.config import Settings
from audit_middleware.journal.files import REAL_FILES
from audit_middleware.journal.recorder import Recorder
from audit_middleware.journal.segment import segment_ordinals
from audit_middleware.record import AuditRecord, Principal, Resource, Source, Trace
from audit_middleware.sealing.keys import Keyring
from audit_middleware.verify import Severity, verify_spool

KEYRING = Keyring({"k1": bytes(range(32))})
OTHER_KEYRING = Keyring({"k2": bytes(range(1, 33))})
COMMON = ("unclosed", "torn")


def record_of(number=0, **changes):
    given = {
        "service": "orders",
        "principal": Principal("alice", "user", "bearer"),
        "source": Source("192.0.2.1", "peer", "192.0.2.1"),
        "action": "orders.refund",
        "outcome": "success",
        "resource": Resource("order", str(number)),
        "trace": Trace(f"r{number}"),
    }
    return AuditRecord(**(given | changes))


class Clock:
    """A clock that stands still until it is told how much time passed."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def settings_for(spool, **changes):
    return Settings(**({"service": "orders", "spool_dir": Path(spool), "spool_min_free": 0} | changes))


def recorder_for(spool, *, files=REAL_FILES, monotonic=None, keyring=KEYRING, **changes):
    given = {} if monotonic is None else {"monotonic": monotonic}
    return Recorder(settings_for(spool, **changes), keyring, service="orders", files=files, **given)


def append(recorder, count=1):
    return [recorder.append(b"event", record_of(number)) for number in range(count)]


def folders(spool):
    return sorted(path for path in (spool / "streams").iterdir() if not path.name.startswith("."))


def segments(folder):
    return [folder / f"seg-{ordinal:010d}.ndjson" for ordinal in segment_ordinals(os.listdir(folder))]


def lines_of(folder):
    """The whole lines of a stream, in the order of its files."""
    return [line for segment in segments(folder) for line in segment.read_bytes().split(b"\n")[:-1]]


def parsed(folder):
    return [json.loads(line) for line in lines_of(folder)]


def numbers(folder):
    return [line["seq"] for line in parsed(folder)]


def findings(spool, *, keyring=KEYRING, besides=COMMON):
    """What verification finds, as (severity, rule), what every crash leaves left out."""
    report = verify_spool(spool, keyring)
    return [(finding.severity.value, finding.rule) for finding in report.findings if finding.rule not in besides]


def tampering(spool, keyring=KEYRING):
    return [finding for finding in verify_spool(spool, keyring).findings if finding.severity is Severity.TAMPERING]


def in_child(work, *, seconds=20):
    """Run ``work`` in a forked child and return what it returned (JSON); a child that hangs is killed and fails."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        finish_child(work, writer)
    os.close(writer)
    return answer_of(pid, reader, seconds)


def finish_child(work, writer):
    """The end of a forked child: nothing of pytest runs in it."""
    signal.alarm(15)  # SIGALRM ends a child that waits for ever
    answer = b""
    try:
        answer = json.dumps({"value": work()}).encode()
    except BaseException as error:
        answer = json.dumps({"error": repr(error)}).encode()
    finally:
        os.write(writer, answer)
        os._exit(0)


def answer_of(pid, reader, seconds=20):
    with open(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert not os.WIFSIGNALED(status), f"the child hung and was ended by signal {os.WTERMSIG(status)}"
    answer = json.loads(text)
    assert "error" not in answer, answer
    return answer["value"]
