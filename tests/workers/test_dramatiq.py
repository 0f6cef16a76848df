"""Dramatiq's workers as real processes on a real broker."""

import os
import signal

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker

from audit_integrations.dramatiq import Audit

pytestmark = pytest.mark.workers


class Sender:
    """An application that sends messages and does not run them."""

    def __init__(self, place):
        self.place = place
        self.broker = RedisBroker(url=place.url)
        Audit(self.broker, pipeline=place.pipeline)

    def message(self, name, *arguments, **options):
        return dramatiq.Message(queue_name="default", actor_name=name, args=arguments, kwargs={}, options=options)

    def send(self, name, *arguments):
        self.broker.declare_queue("default")
        with self.place.request():
            return self.broker.enqueue(self.message(name, *arguments))


@pytest.fixture
def sender(place):
    opened = Sender(place)
    yield opened
    opened.broker.close()


def start(place):
    return place.start("dramatiq", "tests.workers.shop_dramatiq", "--processes", "1", "--threads", "2")


def test_every_run_is_on_record_for_whom_its_message_was_sent(place, sender):
    sent = [sender.send("add", number).message_id for number in range(10)]
    sender.send("fail")
    sender.send("late")
    start(place)
    found = place.wait(13)
    place.stop()
    ends = {(each["action"], each["task"]["run"], each["task"]["ended"]) for each in found}
    assert ends == {("add", 1, "complete"), ("fail", 1, "retry"), ("fail", 2, "exception"), ("late", 1, "timeout")}
    assert sorted(each["task"]["id"] for each in found if each["action"] == "add") == sorted(sent)
    assert {each["principal"]["id"] for each in found} == {"alice"}
    assert [each for each in found if "defects" in each] == []
    place.verify()


def test_a_killed_worker_leaves_the_attempt_and_loses_no_record(place, sender):
    done = sender.send("add", 1).message_id
    process = start(place)
    place.wait(1)
    hung = sender.send("hang", "hung").message_id
    os.kill(place.mark("hung"), signal.SIGKILL)
    process.wait(30)
    assert [each["task"]["id"] for each in place.lines("attempt")] == [done, hung]
    assert [each["task"]["id"] for each in place.lines("task")] == [done]
    place.verify()


def test_a_moved_or_forged_context_is_a_defect_and_no_principal(place, sender):
    sealed = sender.send("add", 1).options["audit_context"]
    for context in (sealed, sealed[:-2] + "AA"):
        sender.broker.enqueue(sender.message("add", 1, audit_context=context))
    start(place)
    found = place.wait(3)
    said = sorted((each["principal"]["id"], each.get("defects")) for each in found)
    assert said == [("alice", None), ("shop", ["context.forged"]), ("shop", ["context.misplaced"])]
