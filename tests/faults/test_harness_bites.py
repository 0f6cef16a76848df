"""The harness finds what it is there to find: each variant of the product breaks one promise on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.harness import Run, Slots
from tests.faults.oracle import Verdict

pytestmark = pytest.mark.faults

AT_MOST = 60  # kills within which a fault has to be found; no scale, for it ends at the first finding
PER_ROUND = 10


def hunt(run: Run, slots: Slots, found: Callable[[Verdict], list]) -> None:
    """Kill, drain and ask the oracle, until it finds the fault or there were `AT_MOST` kills."""
    rate = run.relay.rate
    for kills in range(0, AT_MOST, PER_ROUND):
        run.relay.rate = rate
        slots.kill(PER_ROUND, again=f" after {kills}")
        run.drain()
        verdict = run.judge(verify=False)
        if found(verdict):
            break
    run.report(verdict, f"found: {found(verdict)[:2]}")
    assert found(verdict), f"the fault was not found within {AT_MOST} kills"


def lost(verdict: Verdict) -> list:
    return verdict.lost


def test_a_writer_that_buffers_in_user_space_is_found_to_lose(tmp_path):
    with Run("mutant-buffered", tmp_path) as run:
        hunt(run, Slots(run, module="mutant_app", environ={"FAULT_MUTANT": "buffered"}), lost)


def test_a_cursor_moved_before_the_post_is_found_to_lose(tmp_path):
    with Run("mutant-cursor-first", tmp_path) as run:
        environ = {"FAULT_MUTANT": "cursor_first"}
        hunt(run, Slots(run, module="mutant_app", lifetimes=(0.4, 1.2), environ=environ), lost)


def test_a_shipper_that_takes_any_answer_for_an_acknowledgement_is_found_to_lose(tmp_path):
    with Run("mutant-any-answer", tmp_path) as run:
        environ = {"FAULT_MUTANT": "any_answer"}
        hunt(run, Slots(run, module="mutant_app", lifetimes=(0.4, 1.2), environ=environ), lost)


def test_a_collector_without_dedupe_is_found_to_store_twice(tmp_path):
    with Run("mutant-no-dedupe", tmp_path, collector="tests.faults.mutant_collector") as run:
        hunt(run, Slots(run, lifetimes=(0.4, 1.2)), lambda verdict: verdict.stored_twice)
