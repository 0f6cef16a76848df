"""Whoever received a response completely is on record, whatever dies; and nothing is on record twice."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.faults.harness import Run, Slots, beside, scaled
from tests.faults.processes import listens

pytestmark = pytest.mark.faults


def test_200_kills_of_the_app_lose_no_completed_response(tmp_path):
    with Run("kill-apps", tmp_path) as run:
        slots = Slots(run)
        with beside(run):
            slots.kill(scaled(200))
            run.wait_for_acks(scaled(20_000))  # a slow machine takes longer, it does not prove less
        drained = run.drain()
        verdict = run.judge()
        short = f"{slots.acknowledged:,} acknowledgements by apps that lived for less than half a second"
        run.report(verdict, short, f"at the end: {drained}; adopters named {verdict.torn_tails_adopted} torn tails")
        verdict.require_clean()
        assert run.tally.kills["app"] == scaled(200)
        assert sum(load.unacknowledged for load in run.loads) == 0


def test_an_app_killed_while_its_stream_begins_leaves_nothing_that_looks_like_tampering(tmp_path):
    with Run("kill-at-birth", tmp_path) as run:
        slots = Slots(run, clients=1, lifetimes=(0.0, 0.02))
        slots.kill(scaled(60))
        drained = run.drain()
        verdict = run.judge()
        run.report(verdict, f"at the end: {drained}")
        verdict.require_clean()


def test_50_kills_of_the_collector_lose_and_duplicate_nothing(tmp_path):
    with Run("kill-collector", tmp_path) as run:
        apps = [_serving(run, clients=2, pause_s=0.006, FAULT_LONGEST_BACKOFF_S="0.2") for _ in range(2)]
        moments = run.random("collector")
        for _ in range(scaled(50)):
            if moments.random() < 0.3:  # while it starts: recovery itself is killed
                time.sleep(moments.uniform(0.05, 1.5))
            else:
                run.site.wait_until_ready(run.collector)
                time.sleep(moments.uniform(0.02, 1.5))
            run.kill(run.collector, "collector")
            run.start_collector()
        run.site.wait_until_ready(run.collector)
        run.wait_for_acks(scaled(20_000))
        for app in apps:
            app.terminate(within=5)
        drained = run.drain()
        verdict = run.judge()
        run.report(verdict, f"at the end: {drained}")
        verdict.require_clean()
        assert run.tally.kills["collector"] == scaled(50)
        assert run.tally.in_flight > 0, "no kill hit a delivery: the collector was killed while idle"
        assert {app.pid for app in apps} <= verdict.closed_pids


def test_workers_killed_one_by_one_lose_nothing_and_sigterm_ends_the_rest_cleanly(tmp_path):
    with Run("kill-workers", tmp_path) as run:
        server = _serving(run, "--workers", "2", clients=4, pause_s=0.002)
        moments = run.random("workers")
        for _ in range(scaled(20)):
            writing = _both_writing(run, server)
            time.sleep(moments.uniform(0.02, 0.4))
            victim = moments.choice(writing)
            run.tally.in_flight += run.relay.in_flight > 0
            os.kill(victim, signal.SIGKILL)
            server.wait_until(lambda gone=victim: gone not in server.workers(), f"rid of worker {victim}")
            run.tally.killed("worker")
            run.note_torn_tail(victim)
        last = _both_writing(run, server)
        took = server.terminate(within=3)
        drained = run.drain()
        verdict = run.judge()
        run.report(verdict, f"at the end: {drained}; SIGTERM took {took:.2f} s")
        verdict.require_clean()
        assert set(last) <= verdict.closed_pids, "a worker that ended at SIGTERM has no close record"


def _serving(run: Run, *options: str, clients: int, pause_s: float, **environ: str):
    """An app that serves under load."""
    load = run.load(run.site.free_port(), clients=clients, pause_s=pause_s)
    app = run.site.start_app(load.port, *options, **environ)
    app.wait_until(lambda: listens(load.port), "listening")
    load.open()
    return app


def _both_writing(run: Run, server) -> list[int]:
    """Wait until two workers have a stream each; return their pids."""
    found: list[int] = []

    def is_so() -> bool:
        found[:] = [pid for pid in server.workers() if run.site.streams_of(pid)]
        return len(found) == 2

    server.wait_until(is_so, "writing with two workers")
    return found
