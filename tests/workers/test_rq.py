"""RQ's workers as real processes on a real broker; their work-horses are killed and stopped while they work."""

import os
import signal

import pytest
import redis
from rq import Queue, Retry
from rq.command import send_stop_job_command

from audit_integrations.rq import AuditJob, configure
from tests.capture.kit import journal_lines
from tests.workers import shop_rq

pytestmark = pytest.mark.workers


@pytest.fixture
def queue(place):
    connection = redis.Redis.from_url(place.url)
    configure(pipeline=place.pipeline)
    yield Queue(connection=connection, job_class=AuditJob)
    connection.close()


def send(place, queue, name, *arguments, **options):
    with place.request():
        return queue.enqueue(getattr(shop_rq, name), *arguments, **options).id


def start(place, worker="AuditWorker"):
    return place.start("rq.cli", "worker", "--url", place.url, "--worker-class", f"audit_integrations.rq.{worker}")


@pytest.mark.parametrize("worker", ["AuditWorker", "AuditSimpleWorker"])
def test_every_run_is_on_record_for_whom_it_was_enqueued(place, queue, worker):
    sent = [send(place, queue, "add", number) for number in range(5)]
    send(place, queue, "again")
    send(place, queue, "fail", retry=Retry(max=1))
    late = send(place, queue, "hang", "late", job_timeout=1)
    start(place, worker)
    found = place.wait(10)
    place.stop()
    ends = [(each["action"].rpartition(".")[2], each["task"]["run"], each["task"]["ended"]) for each in found]
    assert sorted(end for end in ends if end[0] != "add") == [
        ("again", 1, "retry"), ("again", 2, "complete"),
        ("fail", 1, "retry"), ("fail", 2, "exception"),
        ("hang", 1, "timeout"),
    ]  # fmt: skip
    assert sorted(each["task"]["id"] for each in found if each["action"].endswith("add")) == sorted(sent)
    assert late in {each["task"]["id"] for each in found}
    assert {each["principal"]["id"] for each in found} == {"alice"}
    assert [each for each in found if "defects" in each] == []
    closed = len([line for line in journal_lines(place.folder) if line["type"] == "close"])
    assert closed == len({each["trace"]["request_id"].partition(".")[0] for each in found})
    place.verify()


def test_a_killed_and_a_stopped_work_horse_are_on_record(place, queue):
    killed = send(place, queue, "hang", "killed")
    stopped = send(place, queue, "hang", "stopped")
    start(place)
    os.kill(place.mark("killed"), signal.SIGKILL)
    place.mark("stopped")
    send_stop_job_command(queue.connection, stopped)
    found = place.wait(2)
    said = {each["task"]["id"]: (each["task"]["ended"], each["outcome"], each["principal"]["id"]) for each in found}
    assert said == {killed: ("killed", "failure", "alice"), stopped: ("revoked", "failure", "alice")}
    place.stop()
    assert len(place.lines("attempt")) == 2
    place.verify()


def test_a_forged_or_moved_context_is_a_defect_and_no_principal(place, queue):
    send(place, queue, "add", 1, job_id="7")
    sealed = queue.fetch_job("7").meta["audit_context"]
    queue.enqueue(shop_rq.add, 1, job_id="8", meta={"audit_context": sealed})
    queue.enqueue(shop_rq.add, 1, job_id="9", meta={"audit_context": sealed[:-2] + "AA"})
    start(place)
    found = place.wait(3)
    said = [(each["task"]["id"], each["principal"]["id"], each.get("defects")) for each in found]
    assert sorted(said) == [
        ("7", "alice", None),
        ("8", "shop", ["context.misplaced"]),
        ("9", "shop", ["context.forged"]),
    ]


@pytest.mark.parametrize("worker", ["AuditWorker", "AuditSimpleWorker"])
def test_a_job_whose_record_cannot_be_kept_waits_and_runs_when_it_can_be(place, queue, worker):
    spool = place.folder / "spool"
    spool.write_text("not a folder")
    quick = send(place, queue, "quick", "ran", job_timeout=4)
    again = send(place, queue, "again", 1, job_timeout=4)
    start(place, worker)
    place.until(lambda: all(len(queue.fetch_job(each).results()) >= 2 for each in (quick, again)))
    assert not (place.folder / "ran").exists()
    assert {queue.fetch_job(each).get_status() for each in (quick, again)} <= {"queued", "started"}
    assert queue.failed_job_registry.get_job_ids() == []
    spool.unlink()
    found = place.wait(3)
    place.stop()
    ends = [(each["task"]["id"], each["task"]["run"], each["task"]["ended"]) for each in found]
    assert sorted(ends) == sorted([(quick, 1, "complete"), (again, 1, "retry"), (again, 2, "complete")])
    assert (place.folder / "ran").exists()
    assert {each["principal"]["id"] for each in found} == {"alice"}
    assert [each for each in found if "defects" in each] == []
    assert len(place.lines("attempt")) == 3
    place.verify()
