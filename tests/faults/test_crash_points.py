"""Not at random moments but at each one: whatever system call a process dies at, what it promised is kept."""

from __future__ import annotations

import pytest

from tests.faults.acks import read_ack
from tests.faults.harness import Run

pytestmark = pytest.mark.faults


def test_writers_and_adopters_killed_at_each_of_their_system_calls_lose_and_duplicate_nothing(tmp_path):
    with Run("crash-points", tmp_path, rate=0.0) as run:
        promised = tmp_path / "acks"
        program = run.site.start("crash-points", "-m", "tests.faults.crash_points", str(run.site.spool), str(promised))
        assert program.wait(120) == 0, program.last_words()
        drained = run.drain()
        verdict = run.judge([ack for line in promised.read_bytes().splitlines() if (ack := read_ack(line))])
        run.report(verdict, program.last_words().strip().splitlines()[-1], f"at the end: {drained}")
        verdict.require_clean()
        assert sorted(path.name for path in run.site.spool.iterdir()) == ["last.json", "logs.json", "streams"]
        assert list((run.site.spool / "streams").iterdir()) == []
        assert verdict.compared > 500
