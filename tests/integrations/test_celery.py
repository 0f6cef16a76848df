"""Celery in one process: a broker in memory, a solo worker in a thread, records as they lie in the journal."""

import json
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery, Task, chain, chord, group
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from audit_integrations.celery import Audit, running
from audit_middleware import ConfigurationError, Principal, audited, current_audit
from audit_middleware.capture import Exchange, enter, leave
from audit_middleware.testing import FaultyFiles
from tests.capture.kit import journal_lines, make_pipeline, records


def nothing():
    pass


ALICE = Principal("alice", "user", "session")


class Shop:
    """An app, its worker and its journal."""

    def __init__(self, folder, *, backend="cache+memory://", **given):
        self.folder = folder
        self.pipeline = make_pipeline(folder, **given)
        self.app = Celery("shop", broker="memory://", backend=backend)
        self.app.conf.update(task_default_queue=folder.name, broker_transport_options={"polling_interval": 0.02})
        self.audit = Audit(self.app, pipeline=self.pipeline)

    def task(self, *function, **options):
        """Make a task of this app only: Celery's decorator shares it with those of other tests."""
        return self.app.task(*function, shared=False, **options)

    @contextmanager
    def working(self):
        with start_worker(self.app, perform_ping_check=False, pool="solo"):
            yield

    @contextmanager
    def request(self):
        """A request of alice's, at hand."""
        exchange = Exchange("web", self.pipeline.recorder.new_request_id(), "POST", "/orders", 0)
        exchange.gate, exchange.user, exchange.source = self.pipeline, ALICE, ("203.0.113.7", "peer", "203.0.113.7")
        token = enter(exchange)
        try:
            yield exchange
        finally:
            leave(token)

    def wait(self, count):
        """Wait for as many task records and return them."""
        deadline = time.monotonic() + 20
        while len(found := records(self.folder, "task")) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(found) == count, journal_lines(self.folder)
        return found


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


def test_a_task_acts_for_whoever_made_the_request_that_sent_it(shop):
    seen = []

    @shop.task
    def refund(number):
        seen.append([line["type"] for line in journal_lines(shop.folder)])
        current_audit().details["number"] = number

    with shop.request() as exchange:
        sent = refund.delay(7)
    with shop.working():
        (record,) = shop.wait(1)
    assert seen == [["open", "attempt"]]
    assert (record["principal"]["id"], record["source"]["ip"], record["source"]["verdict"]) == (
        "alice",
        "203.0.113.7",
        "carried",
    )
    assert (record["cause"]["service"], record["cause"]["request_id"]) == ("web", exchange.request_id)
    assert (record["trace"]["trace_id"], record["trace"]["parent_span_id"]) == exchange.trace[:2]
    assert (record["action"], record["outcome"], record["details"]) == (refund.name, "success", {"number": 7})
    assert record["task"] | {"duration_us": 0} == {
        "name": refund.name, "kind": "task", "id": sent.id, "queue": shop.folder.name, "run": 1, "duration_us": 0, "ended": "complete",
    }  # fmt: skip


def test_chains_chords_callbacks_and_retries_act_for_the_same_principal(shop):
    @shop.task(bind=True)
    def twice(self, number):
        if self.request.retries == 0:
            raise self.retry(countdown=0, exc=ValueError("secret"))
        return number

    @shop.task
    def one(*numbers):
        return 1

    @shop.task
    def fail():
        raise ValueError

    with shop.request():
        chain(twice.s(1), one.s(), one.s())()
        chord(group(one.s(), one.s()), one.s())()
        one.apply_async(link=one.s())
        fail.apply_async(link_error=one.si())
    with shop.working():
        found = shop.wait(4 + 3 + 2 + 2)
    assert {record["principal"]["id"] for record in found} == {"alice"}
    assert [record for record in found if "defects" in record] == []
    retried, *_ = [record for record in found if record["task"]["ended"] == "retry"]
    assert (retried["outcome"], retried["reason"]) == ("unknown", "ValueError")
    again = next(record for record in found if record["task"].get("run") == 2)
    assert (again["task"]["id"], again["cause"]["request_id"]) == (
        retried["task"]["id"],
        retried["trace"]["request_id"],
    )


def test_the_body_of_a_chord_that_waits_by_polling_acts_for_whoever_sent_the_chord(tmp_path):
    (tmp_path / "results").mkdir()
    shop = Shop(tmp_path, backend=f"file://{tmp_path}/results")

    def add(*numbers):
        return 1

    header, body = shop.task(add, name="shop.header"), shop.task(add, name="shop.body")
    with shop.request():
        chord(group(header.s(), header.s()), body.s())(countdown=0, interval=0.1)
    with shop.working():
        found = shop.wait(3)
    assert [(each["action"], each["principal"]["id"]) for each in found][-1] == ("shop.body", "alice")
    assert [each for each in found if "defects" in each] == []


@pytest.mark.parametrize(
    ("error", "ended", "outcome"),
    [
        (LookupError("secret"), "exception", "failure"),
        (SoftTimeLimitExceeded(), "timeout", "failure"),
        (Ignore(), "complete", "success"),
        (Reject("secret"), "exception", "failure"),
    ],
)
def test_how_a_task_ends_is_on_record_and_its_message_is_not(shop, error, ended, outcome):
    @shop.task
    def fail():
        raise error

    fail.delay()
    with shop.working():
        (record,) = shop.wait(1)
    assert (record["task"]["ended"], record["outcome"], record["reason"]) == (ended, outcome, type(error).__name__)
    assert record["principal"] == {"id": "orders", "type": "service", "auth": "none"}
    assert "secret" not in json.dumps(record)


def test_a_task_that_runs_eagerly_in_an_app_that_was_never_finalized_is_on_record(tmp_path):
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_always_eager = True
    before = app.task(shared=False, name="before")(nothing)
    Audit(app, pipeline=make_pipeline(tmp_path))
    after = app.task(shared=False, name="after")(nothing)
    for task in (before, after):
        task.delay()
    before()
    assert not app.finalized
    app.register_task(
        type("ByClass", (Task,), {"name": "class", "run": lambda self: None})()
    ).delay()  # finalizes first
    after.delay()
    assert [record["task"]["name"] for record in records(tmp_path, "task")] == [
        "before", "after", "before", "class", "after",
    ]  # fmt: skip


def test_a_task_called_as_a_function_or_eagerly_is_a_part_of_the_request(shop):
    @shop.task
    def one():
        current_audit().details["n"] = 1
        return 1

    shop.app.finalize()
    with shop.request() as exchange:
        assert (one(), one.apply().get()) == (1, 1)
    assert exchange.details == {"n": 1}
    assert records(shop.folder, "task") == []
    assert (one(), one.apply().get()) == (1, 1)
    assert len(records(shop.folder, "task")) == 2


def test_a_base_class_that_calls_celerys_own_call_is_one_run(shop):
    class Ours(Task):
        def __call__(self, *arguments, **named):
            return super().__call__(*arguments, **named)

    @shop.task(base=Ours)
    def one():
        return 1

    one.delay()
    with shop.working():
        shop.wait(1)
    assert len(records(shop.folder, "attempt")) == 1


def test_a_revoked_or_expired_task_is_on_record_and_did_not_run(shop):
    ran = []

    @shop.task
    def task():
        ran.append(1)

    with shop.request():
        task.apply_async(expires=datetime.now(UTC) - timedelta(seconds=9))
    with shop.working():
        (record,) = shop.wait(1)
    assert (record["task"]["ended"], record["outcome"], record["reason"]) == ("revoked", "denied", "expired")
    assert (record["principal"]["id"], ran, records(shop.folder, "attempt")) == ("alice", [], [])


def test_a_task_that_cannot_be_recorded_does_not_run_and_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "DEFER_S", 0.2)
    files = FaultyFiles()
    shop = Shop(tmp_path, files=files)
    ran = []

    @shop.task
    def strict():
        ran.append("strict")

    @shop.task
    @audited(on_failure="allow")
    def easy():
        ran.append("easy")

    files.room = 0
    with shop.request():
        strict.delay()
        easy.delay()
    with shop.working():
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            time.sleep(0.1)
        assert ran == ["easy"]
        files.room = None
        deadline = time.monotonic() + 20
        while "strict" not in ran and time.monotonic() < deadline:
            time.sleep(0.05)
        record = shop.wait(1)[0]
    assert ran == ["easy", "strict"]
    assert (record["task"]["run"], record["principal"]["id"], record.get("defects")) == (1, "alice", None)


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        (lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"), "context.forged"),
        (lambda text: text, "context.misplaced"),
        (lambda text: 7, "context.malformed"),
    ],
)
def test_a_forged_or_moved_context_is_a_defect_and_no_principal(shop, change, defect):
    task = shop.task(nothing, name="shop.refund")
    with shop.request():
        sealed = shop.audit.runs.seal("shop.refund", "another")
    task.apply_async(headers={"audit_context": change(sealed)})
    with shop.working():
        (record,) = shop.wait(1)
    assert (record["defects"], record["principal"]["id"]) == ([defect], "orders")
    assert "cause" not in record


def test_a_context_is_good_for_one_run(shop):
    task = shop.task(nothing, name="shop.refund")
    with shop.request():
        sealed = shop.audit.runs.seal("shop.refund", "7")
    for _ in range(2):
        task.apply_async(task_id="7", headers={"audit_context": sealed})
    with shop.working():
        first, second = shop.wait(2)
    assert (first["principal"]["id"], first.get("defects")) == ("alice", None)
    assert (second["principal"]["id"], second["defects"]) == ("orders", ["context.replayed"])


def test_what_is_audited_by_name_or_exempt_is_so_in_a_task(shop):
    @shop.task
    @audited("orders.refund", resource="order:{number}", principal="cron")
    def refund(number):
        pass

    quiet = shop.task(audited(exempt="once a second")(nothing), name="shop.tick")
    quiet.delay()
    quiet.delay()
    refund.delay(7)
    with shop.working():
        (record,) = shop.wait(1)
    assert (record["action"], record["resource"], record["principal"]["id"]) == (
        "orders.refund",
        {"type": "order", "id": "7"},
        "cron",
    )
    (event,) = records(shop.folder, "event")
    assert (event["action"], event["resource"]["id"]) == ("audit.exempt", "shop.tick")


def test_a_second_audit_or_a_wrong_setting_is_said_at_once(shop):
    with pytest.raises(ConfigurationError, match=r"audit\.E012"):
        Audit(shop.app)
    with pytest.raises(ConfigurationError, match=r"audit\.E001"):
        Audit(Celery("other"), nonsense=1)
