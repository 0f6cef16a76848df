"""Dramatiq and APScheduler in one process; their records as they lie in the journal."""

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

import dramatiq
import pytest
from apscheduler.executors.pool import ProcessPoolExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import ActorNotFound

from audit_integrations import apscheduler as of_apscheduler
from audit_integrations import dramatiq as of_dramatiq
from audit_middleware import ConfigurationError, Principal, audited
from audit_middleware.capture import Exchange, enter, leave
from audit_middleware.testing import FaultyFiles
from tests.capture.kit import make_pipeline, records


def until(is_so):
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Actors:
    """A broker in memory and what it runs."""

    def __init__(self, folder, **given):
        self.folder = folder
        self.pipeline = make_pipeline(folder, **given)
        self.broker = StubBroker()
        self.broker.emit_after("process_boot")
        self.audit = of_dramatiq.Audit(self.broker, pipeline=self.pipeline)

    def actor(self, function, **options):
        return dramatiq.actor(function, broker=self.broker, min_backoff=10, **options)

    def send(self, actor, *arguments):
        exchange = Exchange("web", "1", "POST", "/orders", 0)
        exchange.gate, exchange.user, exchange.source = (
            self.pipeline,
            Principal("alice", "user", "session"),
            ("203.0.113.7", "peer", "203.0.113.7"),
        )
        token = enter(exchange)
        try:
            return actor.send(*arguments)
        finally:
            leave(token)

    def work(self, count):
        worker = dramatiq.Worker(self.broker, worker_timeout=50, worker_threads=1)
        worker.start()
        try:
            until(lambda: len(records(self.folder, "task")) >= count)
        finally:
            worker.stop()
        found = records(self.folder, "task")
        assert len(found) == count
        return found


def test_an_actor_acts_for_whoever_sent_the_message_through_retries_and_pipelines(tmp_path):
    actors = Actors(tmp_path)
    calls = []

    def flaky(number):
        calls.append(number)
        if len(calls) == 1:
            raise ValueError("secret")
        done.send(number)

    done = actors.actor(lambda number: None, actor_name="done")
    sent = actors.send(actors.actor(flaky), 7)
    found = actors.work(3)
    assert [(each["action"], each["task"]["ended"], each["task"]["run"], each["outcome"]) for each in found] == [
        ("flaky", "retry", 1, "unknown"), ("flaky", "complete", 2, "success"), ("done", "complete", 1, "success"),
    ]  # fmt: skip
    assert {each["principal"]["id"] for each in found} == {"alice"}
    assert [each["task"]["id"] for each in found[:2]] == [sent.message_id] * 2
    assert found[0]["reason"] == "ValueError"
    assert [each for each in found if "defects" in each] == []


def test_an_actor_that_fails_is_late_or_is_skipped_is_on_record(tmp_path):
    actors = Actors(tmp_path)

    def fail():
        raise ValueError

    def late():
        while True:
            time.sleep(0.01)

    old = actors.actor(lambda: None, actor_name="old", max_age=1)
    for actor in (actors.actor(fail, max_retries=0), actors.actor(late, time_limit=50, max_retries=0), old):
        actors.send(actor)
    time.sleep(0.1)
    found = actors.work(3)
    assert {each["action"]: (each["task"]["ended"], each["outcome"]) for each in found} == {
        "fail": ("exception", "failure"), "late": ("timeout", "failure"), "old": ("revoked", "denied"),
    }  # fmt: skip


def test_a_message_that_cannot_be_recorded_does_not_run_and_comes_again(tmp_path, monkeypatch):
    monkeypatch.setattr(of_dramatiq, "DEFER_S", 0)
    files = FaultyFiles()
    actors = Actors(tmp_path, files=files)
    ran, refused = [], threading.Event()
    actor = actors.actor(lambda: ran.append(1), actor_name="strict")
    again = actors.broker.enqueue

    def enqueue(message, *, delay=None):
        if delay is not None:  # it was refused once: there is room again
            assert ran == []
            files.room = None
            refused.set()
        return again(message, delay=delay)

    actors.broker.enqueue = enqueue
    actors.send(actor)
    files.room = 0
    (record,) = actors.work(1)
    assert refused.is_set()
    assert (ran, record["principal"]["id"], record.get("defects")) == ([1], "alice", None)


def test_a_forged_context_beside_a_message_is_a_defect(tmp_path):
    actors = Actors(tmp_path)
    actor = actors.actor(lambda: None, actor_name="refund")
    sealed = actors.send(actor).options["audit_context"]
    actor.send_with_options(audit_context=sealed)
    first, second = actors.work(2)
    assert (first["principal"]["id"], second["principal"]["id"], second["defects"]) == (
        "alice",
        "orders",
        ["context.misplaced"],
    )


def test_dramatiq_still_says_that_there_is_no_such_actor(tmp_path):
    actors = Actors(tmp_path)
    with pytest.raises(ActorNotFound):
        actors.broker.get_actor("nobody")


@pytest.fixture
def scheduler(tmp_path):
    made = BackgroundScheduler(timezone=UTC)
    of_apscheduler.Audit(made, pipeline=make_pipeline(tmp_path))
    made.start()
    yield made
    made.shutdown()


def test_each_run_of_a_job_is_on_record(scheduler, tmp_path):
    def fail():
        raise LookupError("secret")

    scheduler.add_job(audited("orders.tidy", principal="cron")(lambda: None), "interval", seconds=0.2, id="tidy")
    scheduler.add_job(fail, id="fail")
    until(lambda: len(records(tmp_path, "task")) >= 3)
    found = records(tmp_path, "task")
    tidy = [each for each in found if each["action"] == "orders.tidy"]
    (failed,) = [each for each in found if each["task"]["id"] == "fail"]
    assert len(tidy) >= 2
    assert (tidy[0]["task"]["kind"], tidy[0]["principal"]["id"], tidy[0]["outcome"]) == ("schedule", "cron", "success")
    assert (failed["task"]["ended"], failed["reason"], failed["principal"]["type"]) == (
        "exception",
        "LookupError",
        "service",
    )


def test_a_run_that_was_missed_is_on_record_and_did_not_take_place(scheduler, tmp_path):
    ran = []
    late = datetime.now(UTC) - timedelta(seconds=60)
    scheduler.add_job(lambda: ran.append(1), "date", run_date=late, id="late", misfire_grace_time=1)
    until(lambda: records(tmp_path, "task"))
    (record,) = records(tmp_path, "task")
    assert (record["task"]["ended"], record["reason"], ran) == ("revoked", "missed", [])


def test_a_job_that_cannot_be_recorded_does_not_run_and_comes_again(tmp_path, monkeypatch):
    monkeypatch.setattr(of_apscheduler, "DEFER_S", 0.2)
    files, ran = FaultyFiles(), []
    scheduler = BackgroundScheduler(timezone=UTC)
    of_apscheduler.Audit(scheduler, pipeline=make_pipeline(tmp_path, files=files))
    files.room = 0
    scheduler.start()
    scheduler.add_job(ran.append, args=[1])
    time.sleep(0.5)
    assert ran == []
    files.room = None
    until(lambda: ran)
    scheduler.shutdown()
    assert [each["task"]["ended"] for each in records(tmp_path, "task")] == ["complete"]


def test_coroutines_of_an_asyncio_scheduler_are_on_record(tmp_path):
    async def tidy():
        await asyncio.sleep(0)

    async def main():
        scheduler = AsyncIOScheduler(timezone=UTC)
        of_apscheduler.Audit(scheduler, pipeline=make_pipeline(tmp_path))
        scheduler.start()
        scheduler.add_job(tidy)
        for _ in range(200):
            if records(tmp_path, "task"):
                break
            await asyncio.sleep(0.02)
        scheduler.shutdown()

    asyncio.run(main())
    (record,) = records(tmp_path, "task")
    assert record["task"]["ended"] == "complete"


def test_a_pool_of_processes_is_refused_and_not_passed_over(tmp_path):
    scheduler = BackgroundScheduler(executors={"default": ProcessPoolExecutor(1)}, timezone=UTC)
    with pytest.raises(ConfigurationError, match=r"audit\.E016"):
        of_apscheduler.Audit(scheduler, pipeline=make_pipeline(tmp_path))
