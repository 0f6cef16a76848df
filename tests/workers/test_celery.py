"""Celery's workers as real processes on a real broker, killed and revoked while they work."""

import os
import secrets
import signal

import pytest
from celery import Celery

from audit_integrations.celery import Audit
from tests.capture.kit import journal_lines
from tests.workers.broker import free_port
from tests.workers.conftest import Place

pytestmark = pytest.mark.workers
TOKEN = secrets.token_urlsafe(24)
APP = (
    "celery",
    "-A",
    "tests.workers.shop_celery",
    "worker",
    "--without-gossip",
    "--without-mingle",
    "--without-heartbeat",
)


class Sender:
    """An application that sends tasks and does not run them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.app = Celery("web", broker=place.url, backend=place.url)
        self.audit = Audit(self.app, pipeline=place.pipeline)

    def send(self, name, *arguments, **options):
        with self.place.request():
            return self.app.send_task(f"tests.workers.shop_celery.{name}", arguments, **options)


@pytest.fixture
def sender(place):
    opened = Sender(place)
    yield opened
    opened.app.close()


def start(place, pool, *more):
    return place.start(*APP, "-P", pool, "-c", "1" if pool == "solo" else "2", *more)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_every_run_in_every_pool_is_on_record_for_whom_it_was_sent(place, sender, pool):
    sent = [sender.send("add", number).id for number in range(20)]
    sender.send("twice")
    start(place, pool)
    found = place.wait(22)
    place.stop()
    assert {record["principal"]["id"] for record in found} == {"alice"}
    assert sorted(record["task"]["id"] for record in found if record["action"].endswith("add")) == sorted(sent)
    runs = {(record["task"]["run"], record["task"]["ended"]) for record in found if record["action"].endswith("twice")}
    assert runs == {(1, "retry"), (2, "complete")}
    assert [record for record in found if "defects" in record] == []
    place.verify()


def test_one_process_for_each_task_loses_no_record(place, sender):
    for number in range(12):
        sender.send("add", number)
    start(place, "prefork", "--max-tasks-per-child=1")
    found = place.wait(12)
    place.stop()
    assert len(place.lines("attempt")) == 12
    assert len({record["trace"]["request_id"].partition(".")[0] for record in found}) == 12
    assert len([line for line in journal_lines(place.folder) if line["type"] == "close"]) >= 12
    place.verify()


def test_what_a_process_leaves_behind_is_delivered_by_the_main_process(place, sender):
    """The last process of the pool that ran a task is gone, and no other one writes a record after it."""
    url = f"http://127.0.0.1:{free_port()}"
    data = place.folder / "data"
    listen = (
        "--data",
        str(data),
        "--listen",
        url.removeprefix("http://"),
        "--name",
        "test",
        "--guard",
        str(place.folder / "guard"),
    )
    place.start("audit_middleware", "collect", *listen, AUDIT_TOKENS=f"apps:{TOKEN}:shop:ingest")
    place.environ |= {"AUDIT_COLLECTOR_URL": url, "AUDIT_TOKEN": TOKEN}
    start(place, "prefork", "--max-tasks-per-child=1")
    sent = [sender.send("add", number).id.encode() for number in range(4)]

    def is_delivered():
        entries = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file() and "log" in path.parts)
        return all(id_ + b'","queue":"celery","run":1,"duration_us"' in entries for id_ in sent)

    place.until(is_delivered)


def test_a_killed_process_is_on_record_and_its_task_is_named(place, sender):
    start(place, "prefork")
    killed = sender.send("hang", "killed").id
    left = sender.send("leave").id
    os.kill(place.mark("killed"), signal.SIGKILL)
    found = place.wait(2)
    assert {record["task"]["id"] for record in found} == {killed, left}
    for record in found:
        assert (record["task"]["ended"], record["outcome"], record["reason"]) == (
            "killed",
            "failure",
            "WorkerLostError",
        )
        assert (record["principal"]["id"], record["task"]["run"]) == ("alice", 1)
    place.stop()
    assert len(place.lines("attempt")) == 2
    place.verify()


def test_time_limits_soft_and_hard_are_timeouts(place, sender):
    start(place, "prefork")
    hard = sender.send("hang", "hard", time_limit=1).id
    soft = sender.send("hang", "soft", soft_time_limit=1).id
    found = place.wait(2)
    reasons = {record["task"]["id"]: (record["task"]["ended"], record["reason"]) for record in found}
    assert reasons == {hard: ("timeout", "TimeLimitExceeded"), soft: ("timeout", "SoftTimeLimitExceeded")}


def test_a_revoked_task_is_on_record_whether_it_had_begun_or_not(place, sender):
    start(place, "prefork")
    begun = sender.send("hang", "begun").id
    late = sender.send("add", 1, countdown=5).id
    place.mark("begun")
    sender.app.control.revoke(late)
    sender.app.control.revoke(begun, terminate=True)
    found = place.wait(2)
    said = {record["task"]["id"]: (record["task"]["ended"], record["outcome"], record["reason"]) for record in found}
    assert said == {begun: ("revoked", "failure", "terminated"), late: ("revoked", "denied", "revoked")}
    assert {record["principal"]["id"] for record in found} == {"alice"}


def test_a_forged_moved_or_replayed_context_in_a_message_is_a_defect_and_no_principal(place, sender):
    with place.request():
        sealed = sender.audit.runs.seal("tests.workers.shop_celery.add", "7")
    for id_, context in (("7", sealed), ("7", sealed), ("8", sealed), ("9", sealed[:-2] + "AA")):
        sender.app.send_task("tests.workers.shop_celery.add", (1,), task_id=id_, headers={"audit_context": context})
    start(place, "solo")
    found = place.wait(4)
    said = [(record["task"]["id"], record["principal"]["id"], record.get("defects")) for record in found]
    assert said == [
        ("7", "alice", None),
        ("7", "shop", ["context.replayed"]),
        ("8", "shop", ["context.misplaced"]),
        ("9", "shop", ["context.forged"]),
    ]
