"""The committing thread, with work that fails as a store does."""

import threading
import time

import pytest

from audit_middleware.collector import committer as committing
from audit_middleware.collector.auth import OPEN_DOOR
from audit_middleware.collector.committer import Committer
from audit_middleware.collector.group import Batch
from audit_middleware.collector.limits import Limits
from audit_middleware.collector.problems import Problem
from audit_middleware.errors import AlreadyStored, RollbackDetected, StorageError, StoreUnavailable


class Work:
    """Commits into a list; ``errors`` are raised one after the other, by the step that is named."""

    def __init__(self, **errors):
        self.errors, self.steps, self.committed = errors, [], []

    def _do(self, step):
        self.steps.append(step)
        if (queue := self.errors.get(step)) and (error := queue.pop(0)) is not None:
            raise error

    def start(self):
        self._do("start")

    def commit(self, batches):
        self._do("commit")
        for batch in batches:
            self.committed += batch.lines
            batch.done.set_result(None)

    def recover(self):
        self._do("recover")

    def beat(self):
        self._do("beat")

    def stop(self):
        self._do("stop")


AWAY = StoreUnavailable("the bucket is away")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(committing, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(committing, "LONGEST_PAUSE", 0.02)


def run(work, **limits):
    committer = Committer(work, Limits(**limits))
    committer.start()
    committer.wait_until_ready(10)
    return committer


def submit(committer, *lines):
    batch = Batch(list(lines), OPEN_DOOR)
    committer.submit(batch)
    return batch.done.result(10)


def wait_for(committer, state):
    deadline = time.monotonic() + 10
    while committer.state != state:
        assert time.monotonic() < deadline, committer.state
        time.sleep(0.002)


def test_what_the_store_did_not_take_is_given_back_and_the_next_is_taken_after_a_recovery():
    work = Work(commit=[AWAY], recover=[AWAY, AWAY])
    committer = run(work)
    with pytest.raises(Problem, match="nobody knows how far") as refused:
        submit(committer, b"1")
    assert refused.value.headers == {"Retry-After": "5"}
    wait_for(committer, "ready")
    submit(committer, b"2")
    committer.close()
    assert work.steps == ["start", "commit", "recover", "recover", "recover", "commit", "stop"]
    assert (work.committed, committer.state) == ([b"2"], "closed")


def test_what_waits_is_given_back_too_and_nothing_is_taken_meanwhile():
    entered, go = threading.Event(), threading.Event()

    class Slow(Work):
        def commit(self, batches):
            entered.set()
            go.wait(10)
            super().commit(batches)

        def recover(self):
            super().recover()
            raise AWAY

    committer = run(Slow(commit=[AWAY]))
    first, second = Batch([b"1"], OPEN_DOOR), Batch([b"2"], OPEN_DOOR)
    committer.submit(first)
    entered.wait(10)
    committer.submit(second)
    go.set()
    for batch in (first, second):
        with pytest.raises(Problem):
            batch.done.result(10)
    wait_for(committer, "recovering")
    with pytest.raises(Problem, match="the store takes nothing now: the bucket is away"):
        submit(committer, b"3")
    assert committer.queue_bytes == 0
    committer.close()
    assert committer.state == "closed"


@pytest.mark.parametrize("step", ["start", "beat", "stop"])
def test_a_store_that_is_away_at_any_other_time_ends_nothing_either(step):
    work = Work(**{step: [AWAY]})
    committer = run(work, beat_seconds=0.02, idle_beat_seconds=0.02)
    wait_for(committer, "ready")
    submit(committer, b"1")
    deadline = time.monotonic() + 10
    while step == "beat" and "recover" not in work.steps:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    committer.close()
    assert committer.state == "closed"
    assert b"1" in work.committed


@pytest.mark.parametrize(
    "error", [AlreadyStored("other bytes"), RollbackDetected("older"), StorageError("I/O error"), ValueError("a bug")]
)
@pytest.mark.parametrize("step", ["commit", "recover"])
def test_anything_else_ends_accepting_for_good(step, error):
    errors = {"commit": [AWAY if step == "recover" else error]} | ({"recover": [error]} if step == "recover" else {})
    committer = run(Work(**errors))
    with pytest.raises(Problem):
        submit(committer, b"1")
    wait_for(committer, "failed")
    assert str(error) in committer.reason
    with pytest.raises(Problem, match="has stopped accepting"):
        submit(committer, b"2")
    committer.close()


def test_closing_ends_a_recovery_at_once(monkeypatch):
    monkeypatch.setattr(committing, "FIRST_PAUSE", 60)
    committer = run(Work(commit=[AWAY]))
    with pytest.raises(Problem):
        submit(committer, b"1")
    wait_for(committer, "recovering")
    began = time.monotonic()
    committer.close()
    assert time.monotonic() - began < 5
