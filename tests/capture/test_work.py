"""Work outside of requests: functions, blocks and background tasks become records, with who they act for."""

import asyncio
import json
import threading

import pytest
from fastapi import BackgroundTasks, FastAPI
from starlette.testclient import TestClient

from audit_middleware import AuditMiddleware, ConfigurationError, Principal, audited, current_audit
from audit_middleware.capture.calls import Outgoing
from audit_middleware.capture.carrying import HEADER, Replays, sealed_context, task_purpose
from audit_middleware.capture.current import enter, leave
from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.work import Work, run
from audit_middleware.errors import RequestRefused
from audit_middleware.testing import FaultyFiles
from tests.capture.kit import journal_lines, make_pipeline, records

ALICE = Principal("alice", "user", "session")


@pytest.fixture
def pipeline(tmp_path):
    return make_pipeline(tmp_path, internal_hosts="billing.internal,*.svc.internal")


@pytest.fixture
def task(pipeline, tmp_path):
    """The one ``task`` record."""

    def read():
        (record,) = records(tmp_path, "task")
        return record

    return read


def full():
    files = FaultyFiles()
    files.room = 0
    return files


def request(pipeline):
    exchange = Exchange(pipeline.service, pipeline.recorder.new_request_id(), "POST", "/orders", 0)
    exchange.gate = pipeline
    exchange.user = ALICE
    exchange.source = ("203.0.113.7", "peer", "203.0.113.7")
    return exchange


def test_a_function_outside_of_requests_has_an_attempt_before_it_and_a_record_after_it(pipeline, tmp_path):
    seen = []

    @audited("orders.clean_up", resource="table:{name}", principal="cron")
    def clean_up(name):
        seen.append([line["type"] for line in journal_lines(tmp_path)])
        current_audit().details["rows"] = 3
        return name

    assert clean_up("old") == "old"
    assert seen == [["open", "attempt"]]
    attempt, task = journal_lines(tmp_path)[1:]
    rec = task["rec"]
    assert (rec["attempt"], attempt["rec"]["outcome"]) == (attempt["seq"], "unknown")
    assert (rec["action"], rec["resource"], rec["principal"]["id"]) == (
        "orders.clean_up",
        {"type": "table", "id": "old"},
        "cron",
    )
    assert (rec["outcome"], rec["details"], rec["source"]["verdict"]) == ("success", {"rows": 3}, "local")
    assert (rec["task"]["kind"], rec["task"]["ended"]) == ("function", "complete")
    assert "defects" not in rec


def test_nobody_named_is_the_service_itself_and_an_error_is_a_failure(task):
    @audited()
    async def fail():
        raise LookupError("secret")

    with pytest.raises(LookupError):
        asyncio.run(fail())
    record = task()
    assert record["principal"] == {"id": "orders", "type": "service", "auth": "none"}
    assert (record["outcome"], record["reason"], record["task"]["ended"]) == ("failure", "LookupError", "exception")
    assert "secret" not in json.dumps(record)
    assert record["action"].endswith("fail")


def test_a_block_of_code_is_work_of_its_own_outside_and_a_part_of_the_request_inside(pipeline, tmp_path):
    with audited("orders.import", resource="file:orders.csv") as audit:
        audit.details["lines"] = 2
    exchange = request(pipeline)
    token = enter(exchange)
    with audited("orders.refund"):
        pass
    leave(token)
    assert exchange.action == "orders.refund"
    (record,) = records(tmp_path, "task")
    assert (record["action"], record["resource"]["id"], record["details"]) == (
        "orders.import",
        "orders.csv",
        {"lines": 2},
    )
    with pytest.raises(ConfigurationError, match="needs a name"), audited():
        pass


def test_a_generator_is_on_record_from_its_first_value_to_its_last(task):
    @audited("orders.walk")
    def walk():
        yield 1
        yield 2
        return 3

    def whole():
        return (yield from walk())

    assert list(whole()) == [1, 2]
    assert task()["task"]["ended"] == "complete"


def test_a_background_task_acts_for_whoever_made_the_request(tmp_path):
    app = FastAPI()
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))

    @audited("orders.mail", resource="order:{number}")
    def mail(number):
        pass

    @app.post("/orders")
    async def order(tasks: BackgroundTasks):
        current_audit().principal = ALICE
        tasks.add_task(mail, 7)

    TestClient(app).post("/orders")
    (request,), (task,) = records(tmp_path), records(tmp_path, "task")
    assert (task["principal"], task["action"]) == (request["principal"], "orders.mail")
    assert task["cause"]["request_id"] == request["trace"]["request_id"]
    assert task["source"]["ip"] == request["source"]["ip"]


def test_another_thread_is_outside_of_the_request(pipeline, task):
    token = enter(request(pipeline))
    thread = threading.Thread(target=audited("orders.index")(lambda: None))
    thread.start()
    thread.join()
    leave(token)
    assert task()["principal"]["type"] == "service"


def test_a_full_disk_keeps_work_from_running_unless_it_may(tmp_path):
    make_pipeline(tmp_path, files=full())
    ran = []
    with pytest.raises(RequestRefused):
        audited("orders.clean_up")(lambda: ran.append(1))()
    assert ran == []
    audited("orders.clean_up", on_failure="allow")(lambda: ran.append(2))()
    assert ran == [2]


def test_an_exempt_function_is_on_record_once(pipeline, tmp_path):
    tick = audited("orders.tick", exempt="once a second")(lambda: None)
    for _ in range(3):
        tick()
    (event,) = records(tmp_path, "event")
    assert (event["action"], event["resource"]["id"], event["reason"]) == (
        "audit.exempt",
        "orders.tick",
        "once a second",
    )
    assert records(tmp_path, "task") == []


def run_task(pipeline, sealed, *, name="refund", id_="7", **given):
    work = Work(pipeline, name, "task", id=id_, **given)
    work.believe(sealed, pipeline)
    with run(work, pipeline):
        pass


def test_a_task_acts_for_whom_its_sealed_context_names(pipeline, task):
    exchange = request(pipeline)
    run_task(
        pipeline, sealed_context(exchange, pipeline.recorder.keyring, task_purpose("refund", "7")), queue="q", tries=2
    )
    record = task()
    assert record["principal"] == {"id": "alice", "type": "user", "auth": "session"}
    assert record["source"] == {"ip": "203.0.113.7", "verdict": "carried", "peer": "unknown"}
    assert record["cause"] == {"service": "orders", "request_id": exchange.request_id, "span_id": exchange.trace[1]}
    assert record["trace"]["trace_id"] == exchange.trace[0]
    assert record["trace"]["parent_span_id"] == exchange.trace[1]
    assert (record["task"]["id"], record["task"]["queue"], record["task"]["run"]) == ("7", "q", 2)


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        (lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"), "context.forged"),
        (lambda text: text.replace("v1.test.", "v1.else."), "context.unknown_key"),
        (lambda text: "alice", "context.malformed"),
        (lambda text: None, "context.misplaced"),
    ],
)
def test_a_forged_or_moved_context_is_a_defect_and_no_principal(pipeline, task, change, defect):
    sealed = sealed_context(request(pipeline), pipeline.recorder.keyring, task_purpose("refund", "7"))
    changed = change(sealed)
    run_task(pipeline, changed or sealed, id_="7" if changed else "8")
    assert task()["defects"] == [defect]
    assert task()["principal"]["id"] == "orders"
    assert "cause" not in task()


def call(*headers, pipeline):
    """A request of another service with these headers, through the middleware."""
    app = FastAPI()
    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    app.post("/invoices")(lambda: None)
    for each in headers:
        TestClient(app).post("/invoices", headers=each)


def test_a_call_and_the_request_that_it_is_to_another_service_are_joined(pipeline, tmp_path):
    exchange = request(pipeline)
    token = enter(exchange)
    outgoing = Outgoing("http", "POST", "billing.internal", route="/invoices")
    outgoing.finish(201)
    outgoing.finish(500)
    leave(token)
    (tmp_path / "callee").mkdir()
    call(outgoing.headers, pipeline=make_pipeline(tmp_path / "callee"))
    (made,), (served,) = records(tmp_path, "call"), records(tmp_path / "callee")
    assert made["call"] | {"duration_us": 0} == {
        "kind": "http", "method": "POST", "host": "billing.internal", "route": "/invoices", "status": 201,
        "duration_us": 0, "ended": "complete", "carried": True,
    }  # fmt: skip
    assert (made["principal"]["id"], made["trace"]["request_id"]) == ("alice", exchange.request_id)
    assert served["principal"] == {"id": "orders", "type": "service", "auth": "context", "on_behalf_of": "alice"}
    assert served["cause"]["span_id"] == made["trace"]["span_id"] == served["trace"]["parent_span_id"]
    assert served["trace"]["trace_id"] == made["trace"]["trace_id"] == exchange.trace[0]


def test_a_context_is_good_for_one_call_and_goes_to_no_stranger(pipeline, tmp_path):
    outgoing = Outgoing("http", "POST", "orders.svc.internal")
    (tmp_path / "callee").mkdir()
    call(outgoing.headers, outgoing.headers, pipeline=make_pipeline(tmp_path / "callee"))
    first, second = records(tmp_path / "callee")
    assert "defects" not in first
    assert (second["defects"], second["principal"]["id"]) == (["context.replayed"], "anonymous")
    for host in ("example.com", "svc.internal", "evil-billing.internal", "billing.internal.example.com"):
        assert HEADER not in Outgoing("http", "GET", host).headers


def test_a_call_that_fails_is_a_failure_and_a_full_disk_does_not_fail_it(tmp_path):
    pipeline = make_pipeline(tmp_path)
    Outgoing("http", "GET", "example.com").finish(error=TimeoutError("to 10.0.0.9"))
    (record,) = records(tmp_path, "call")
    assert (record["outcome"], record["reason"], record["call"]["ended"]) == ("failure", "TimeoutError", "exception")
    assert (record["principal"]["id"], "10.0.0.9" in json.dumps(record)) == ("orders", False)
    assert "carried" not in record["call"]
    make_pipeline(tmp_path / "full", files=full())
    Outgoing("http", "GET", "example.com").finish(200)
    assert pipeline.problem_count == 0


def test_of_threads_that_bring_one_context_at_once_one_is_believed_and_memory_is_bounded():
    replays, believed = Replays(limit=5000), []
    start = threading.Barrier(8)

    def bring():
        start.wait()
        believed.extend(text for text in map(str, range(40)) if not replays.is_seen(text))
        start.wait()
        for number in range(2000):
            replays.is_seen(f"{threading.get_ident()} {number}")

    threads = [threading.Thread(target=bring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {believed.count(text) for text in map(str, range(40))} == {1}
    assert len(replays._seen) <= 5000
    replays.is_seen("again")
    assert replays.is_seen("again")
    replays.forget("again")
    assert not replays.is_seen("again")
