"""The ASGI adapter, message by message: what is observed, what is forwarded, and in which order."""

import asyncio
import contextlib
import errno
import gc
import threading

import pytest

from audit_middleware import AuditMiddleware, ConfigurationError, Principal, Resource, current_audit
from audit_middleware.capture.said import NoAudit
from audit_middleware.journal.files import Files
from tests.capture.kit import Harness, hello, journal_lines, make_pipeline, records

pytestmark = pytest.mark.anyio


async def test_a_response_becomes_one_record_with_every_required_member(tmp_path):
    harness = Harness(tmp_path, hello)
    await harness(harness.scope(path="/greet", headers={"User-Agent": "curl/8"}))
    record = harness.record
    assert record["service"] == "orders"
    assert record["principal"] == {"id": "anonymous", "type": "anonymous", "auth": "none"}
    assert record["source"] == {
        "ip": "10.1.2.3", "verdict": "peer", "peer": "10.1.2.3", "port": 4711, "user_agent": "curl/8",
    }  # fmt: skip
    assert record["outcome"] == "success"
    assert record["http"]["status"] == 200
    assert record["http"]["response_bytes"] == 5
    assert record["http"]["ended"] == "complete"
    assert record["defects"] == ["http.route"]
    assert record["trace"]["request_id"].startswith(harness.pipeline.recorder.stream)


async def test_the_record_is_in_the_journal_before_the_last_body_message_is_forwarded(tmp_path):
    async def streaming(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    harness = Harness(tmp_path, streaming)
    on_record = []
    harness.on_send = lambda message: on_record.append(len(harness.records))
    await harness()
    assert on_record == [0, 0, 0, 1]
    assert harness.record["http"]["response_bytes"] == 2


async def test_the_first_byte_is_not_delayed_and_nothing_is_buffered(tmp_path):
    """What the app sends reaches the server before the app goes on."""
    seen = []

    async def streaming(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        seen.append(len(harness.sent))
        for number in range(3):
            await send({"type": "http.response.body", "body": b"x" * 10, "more_body": number < 2})
            seen.append(len(harness.sent))

    harness = Harness(tmp_path, streaming)
    await harness()
    assert seen == [1, 2, 3, 4]


async def test_a_long_stream_keeps_memory_flat(tmp_path):
    chunk = b"x" * 65536

    async def streaming(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    harness = Harness(tmp_path, streaming)
    sizes = []

    async def drop(message):
        sizes.append(len(message.get("body", b"")))

    async def receive():
        return {"type": "http.request", "body": b""}

    gc.collect()
    before = len(gc.get_objects())
    await harness.middleware(harness.scope(), receive, drop)
    gc.collect()
    assert len(gc.get_objects()) - before < 500
    assert sum(sizes) == 400 * 65536 == harness.record["http"]["response_bytes"]


async def test_messages_are_forwarded_unchanged_but_for_the_request_id(tmp_path):
    body = {"type": "http.response.body", "body": b"hello", "custom": 1}

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 201, "headers": [(b"X-Own", b"1")], "custom": 2})
        await send(body)

    harness = Harness(tmp_path, app)
    start, last = await harness()
    assert last is body
    assert start["custom"] == 2
    assert start["headers"] == [(b"X-Own", b"1"), (b"x-request-id", harness.record["trace"]["request_id"].encode())]


async def test_the_clients_request_id_is_kept_and_not_taken_over(tmp_path):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Request-Id", b"the apps own")]})
        await send({"type": "http.response.body", "body": b""})

    harness = Harness(tmp_path, app)
    start, _ = await harness(harness.scope(headers={"x-request-id": "chosen by the client"}))
    trace = harness.record["trace"]
    assert trace["client_request_id"] == "chosen by the client"
    assert trace["request_id"] != "chosen by the client"
    assert start["headers"] == [(b"x-request-id", trace["request_id"].encode())]


async def test_the_request_id_header_can_be_renamed_and_left_out(tmp_path):
    renamed = Harness(tmp_path / "a", hello, request_id_header="X-Audit-Id")
    assert dict((await renamed())[0]["headers"]).keys() == {b"x-audit-id"}
    without = Harness(tmp_path / "b", hello, request_id_header="")
    assert (await without())[0]["headers"] == []


async def test_an_exception_is_recorded_and_raised_again(tmp_path):
    async def broken(scope, receive, send):
        raise LookupError("secret detail")

    harness = Harness(tmp_path, broken)
    with pytest.raises(LookupError, match="secret detail"):
        await harness()
    record = harness.record
    assert (record["outcome"], record["http"]["status"], record["http"]["ended"]) == ("failure", 500, "exception")
    assert record["reason"] == "LookupError"  # the message could hold anything


async def test_an_exception_after_the_response_began_keeps_its_status(tmp_path):
    async def breaks_midway(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    harness = Harness(tmp_path, breaks_midway)
    with pytest.raises(RuntimeError):
        await harness()
    http = harness.record["http"]
    assert (http["status"], http["response_bytes"], http["ended"]) == (200, 4, "exception")
    assert harness.record["outcome"] == "failure"


async def test_an_exception_after_the_last_byte_leaves_the_record_as_it_is(tmp_path):
    async def background_task_fails(scope, receive, send):
        await hello(scope, receive, send)
        raise RuntimeError("in a background task")

    harness = Harness(tmp_path, background_task_fails)
    with pytest.raises(RuntimeError):
        await harness()
    assert harness.record["http"]["ended"] == "complete"


async def test_a_client_that_leaves_is_recorded_as_disconnected(tmp_path):
    async def long_poll(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    harness = Harness(tmp_path, long_poll)
    await harness()
    assert harness.record["http"]["ended"] == "disconnected"
    assert harness.record["outcome"] == "failure"


async def test_a_connection_that_breaks_while_sending_is_recorded_as_disconnected(tmp_path):
    async def streaming(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    harness = Harness(tmp_path, streaming)

    def broken(message):
        if message["type"] == "http.response.body":
            raise OSError(errno.EPIPE, "gone")

    harness.on_send = broken
    with pytest.raises(OSError, match="gone"):
        await harness()
    assert harness.record["http"]["ended"] == "disconnected"


async def test_a_cancelled_request_is_recorded(tmp_path):
    async def slow(scope, receive, send):
        await asyncio.sleep(60)

    harness = Harness(tmp_path, slow)
    task = asyncio.create_task(harness())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert harness.record["http"]["ended"] == "exception"


async def test_an_app_that_returns_without_an_answer_is_a_failure_and_a_defect(tmp_path):
    async def app(scope, receive, send):
        pass

    harness = Harness(tmp_path, app)
    await harness(harness.scope())
    record = harness.record
    assert (record["http"].get("status"), record["outcome"]) == (None, "failure")
    assert "http.status" in record["defects"]


async def test_head_counts_no_body_bytes(tmp_path):
    harness = Harness(tmp_path, hello)
    await harness(harness.scope("HEAD"))
    assert harness.record["http"]["response_bytes"] == 0


async def test_request_bytes_are_counted_as_the_app_reads_them(tmp_path):
    async def reads(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await hello(scope, receive, send)

    harness = Harness(tmp_path, reads)
    chunks = [{"type": "http.request", "body": b"12345", "more_body": True}, {"type": "http.request", "body": b"678"}]
    await harness(harness.scope("POST"), chunks)
    assert harness.record["http"]["request_bytes"] == 8


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "FOO"])
async def test_an_unsafe_method_has_an_attempt_on_record_before_the_app_runs(tmp_path, method):
    attempts = []

    async def app(scope, receive, send):
        attempts.extend(records(tmp_path, "attempt"))
        await hello(scope, receive, send)

    harness = Harness(tmp_path, app)
    await harness(harness.scope(method, "/orders"))
    (attempt,) = attempts
    assert attempt["outcome"] == "unknown"
    assert attempt["http"]["path"] == "/orders"
    (line,) = [line for line in journal_lines(tmp_path) if line["type"] == "attempt"]
    assert harness.record["attempt"] == line["seq"]
    assert harness.record["trace"] == attempt["trace"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_a_safe_method_has_no_attempt_unless_policy_wants_all(tmp_path, method):
    safe = Harness(tmp_path / "a", hello)
    await safe(safe.scope(method))
    assert records(tmp_path / "a", "attempt") == []
    every = Harness(tmp_path / "b", hello, attempts="all")
    await every(every.scope(method))
    assert len(records(tmp_path / "b", "attempt")) == 1


async def test_no_attempts_when_policy_wants_none(tmp_path):
    harness = Harness(tmp_path, hello, attempts="none")
    await harness(harness.scope("POST"))
    assert records(tmp_path, "attempt") == []
    assert "attempt" not in harness.record


class FullDisk(Files):
    """A disk that takes ``left`` more writes of lines."""

    left = 0

    def write(self, fd, data):
        if data.startswith(b'{"v":1') and b'"type":"open"' not in data:
            if self.left <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.left -= 1
        return super().write(fd, data)


def full(tmp_path, app, left=0, **settings):
    harness = Harness(tmp_path, app, **settings)
    files = FullDisk()
    files.left = left
    harness.pipeline = make_pipeline(tmp_path, files=files, **settings)
    harness.middleware._observer.pipeline = harness.pipeline
    return harness, files


@pytest.mark.parametrize(
    ("policy", "method", "served"),
    [("auto", "POST", False), ("auto", "GET", True), ("deny", "POST", False), ("allow", "POST", True)],
)
async def test_a_full_disk_refuses_what_policy_denies_before_the_app_runs(tmp_path, policy, method, served):
    calls = []

    async def app(scope, receive, send):
        calls.append(1)
        await hello(scope, receive, send)

    harness, _ = full(tmp_path, app, on_failure=policy)
    start, *_ = await harness(harness.scope(method))
    assert bool(calls) is served
    assert start["status"] == (200 if served else 503)
    if not served:
        assert dict(start["headers"])[b"retry-after"] == b"5"


async def test_under_deny_a_safe_request_whose_record_is_lost_is_not_completed(tmp_path):
    """Who got a complete answer is on record, so an answer without record must not be complete."""
    harness, _ = full(tmp_path, hello, on_failure="deny")
    sent = await harness()
    assert [message["type"] for message in sent] == ["http.response.start"]
    refused = await harness()
    assert refused[0]["status"] == 503


async def test_records_given_up_are_explained_once_the_disk_has_room(tmp_path, monkeypatch):
    harness, files = full(tmp_path, hello, on_failure="allow")
    await harness()
    await harness()
    files.left = 100
    monkeypatch.setattr(harness.pipeline.recorder._writer, "_retry_at", 0.0)
    await harness()
    drops = records(tmp_path, "drop")
    assert sum(drop["count"] for drop in drops) == 2
    assert "No space left" in drops[0]["reason"]
    lines = journal_lines(tmp_path)
    assert [line["type"] for line in lines][-1] == "request"


async def test_a_websocket_becomes_one_record(tmp_path):
    async def echo(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"] * 2})
        await send({"type": "websocket.close", "code": 1000})

    harness = Harness(tmp_path, echo)
    scope = harness.scope(path="/live", type="websocket")
    del scope["method"]
    await harness(scope, [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "abc"}])
    http = harness.record["http"]
    assert (http["protocol"], http["close_code"], http["status"]) == ("websocket", 1000, 101)
    assert (http["request_bytes"], http["response_bytes"]) == (3, 6)
    assert harness.record["outcome"] == "success"
    assert len(records(tmp_path, "attempt")) == 1  # a websocket can carry anything


async def test_a_websocket_closed_before_it_was_accepted_is_denied(tmp_path):
    async def rejects(scope, receive, send):
        await receive()
        await send({"type": "websocket.close", "code": 1008})

    harness = Harness(tmp_path, rejects)
    await harness(harness.scope(type="websocket"), [{"type": "websocket.connect"}])
    assert harness.record["outcome"] == "denied"


async def test_a_websocket_the_client_leaves_is_on_record_before_the_app_hears_of_it(tmp_path):
    heard = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        heard.append(len(records(tmp_path)))

    harness = Harness(tmp_path, app)
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}]
    await harness(harness.scope(type="websocket"), incoming)
    assert heard == [1]
    assert harness.record["http"]["close_code"] == 1001


async def test_trailers_end_a_response(tmp_path):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        await send({"type": "http.response.body", "body": b"x"})
        await send({"type": "http.response.trailers", "headers": []})

    harness = Harness(tmp_path, app)
    on_record = []
    harness.on_send = lambda message: on_record.append(len(harness.records))
    await harness()
    assert on_record == [0, 0, 1]


async def test_two_middlewares_write_one_record(tmp_path):
    inner = Harness(tmp_path, hello)
    outer = AuditMiddleware(inner.middleware, pipeline=inner.pipeline)
    inner.middleware = outer
    await inner()
    assert len(inner.records) == 1


async def test_unknown_connection_types_pass_untouched(tmp_path):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    harness = Harness(tmp_path, app)
    scope = {"type": "custom"}
    await harness.middleware(scope, "receive", "send")
    assert seen == [(scope, "receive", "send")]


async def test_the_end_of_the_lifespan_closes_the_stream(tmp_path):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await hello(scope, receive, send)

    harness = Harness(tmp_path, app)
    await harness()
    await harness({"type": "lifespan"})
    assert [line["type"] for line in journal_lines(tmp_path)] == ["open", "request", "close"]


async def test_what_the_application_says_wins_over_what_was_seen(tmp_path):
    async def app(scope, receive, send):
        scope["user"] = "somebody else"
        audit = current_audit()
        audit.principal = Principal(id="alice", type="user", auth="session", tenant="acme", privileged=True)
        audit.action = "orders.refund"
        audit.resource = Resource("order", "7")
        audit.outcome = "denied"
        audit.reason = "limit reached"
        audit.details["amount"] = 12
        await hello(scope, receive, send)

    harness = Harness(tmp_path, app)
    await harness()
    record = harness.record
    assert record["principal"] == {
        "id": "alice", "type": "user", "auth": "session", "tenant": "acme", "privileged": True,
    }  # fmt: skip
    assert (record["action"], record["outcome"], record["reason"]) == ("orders.refund", "denied", "limit reached")
    assert record["resource"] == {"type": "order", "id": "7"}
    assert record["details"] == {"amount": 12}


@pytest.mark.parametrize("said", [object(), {"amount": float("nan")}, {1: 2}, {"x": "\ud800"}, {"n": 10**5000}, 7])
async def test_nothing_the_application_says_can_break_the_request(tmp_path, said):
    class Hostile:
        def __str__(self):
            raise ValueError

    async def app(scope, receive, send):
        audit = current_audit()
        audit.details = said
        audit.principal = Hostile()
        audit.resource = Hostile()
        audit.outcome = "great"
        audit.reason = Hostile()
        audit.action = Hostile()
        await hello(scope, receive, send)

    harness = Harness(tmp_path, app)
    assert len(await harness()) == 2
    assert {"principal.id", "resource", "outcome", "reason", "action"} <= set(harness.record["defects"])


async def test_hostile_scopes_are_served_and_recorded(tmp_path):
    harness = Harness(tmp_path, hello)
    scope = harness.scope("GET", "/\udcff\x00\u202e" + "x" * 100_000, {"user-agent": "é" * 70_000})
    scope["headers"] += [(b"x-forwarded-for", b"\xff\xfe, not an address")] * 100
    scope["client"] = ["10.0.0.1", "80 "]
    assert len(await harness(scope)) == 2
    record = harness.record
    assert {"http.path", "source.user_agent"} <= {cut["field"] for cut in record["truncated"]}
    assert "http.path" in "".join(record["defects"])


@pytest.mark.parametrize("client", [None, (), ("10.0.0.1",), "nonsense", ["10.0.0.1", "4711"], ("10.0.0.1", 1)])
async def test_every_way_a_server_may_name_the_client(tmp_path, client):
    harness = Harness(tmp_path, hello)
    assert len(await harness(harness.scope(client=client))) == 2
    assert harness.record["source"]["ip"] in {"10.0.0.1", "unknown"}


async def test_identify_names_the_principal_after_the_app_ran(tmp_path):
    async def app(scope, receive, send):
        scope["session"] = {"user": "carol"}
        await hello(scope, receive, send)

    harness = Harness(tmp_path, app, identify=lambda scope: scope["session"]["user"])
    await harness()
    assert harness.record["principal"]["id"] == "carol"


async def test_identify_may_be_a_coroutine_function(tmp_path):
    async def identify(scope):
        return Principal(id="carol", type="service", auth="mtls")

    harness = Harness(tmp_path, hello, identify=identify)
    await harness()
    assert harness.record["principal"] == {"id": "carol", "type": "service", "auth": "mtls"}


async def test_identify_that_raises_or_hangs_is_a_defect_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr("audit_middleware.capture.identify.IDENTIFY_TIMEOUT_S", 0.01)

    async def hangs(scope):
        await asyncio.sleep(60)

    def blocks(scope):
        released.wait(60)

    def raises(scope):
        raise KeyError

    def exits(scope):
        raise SystemExit

    released = threading.Event()
    for number, identify in enumerate((hangs, blocks, raises, exits)):
        harness = Harness(tmp_path / str(number), hello, identify=identify)
        assert len(await harness()) == 2
        assert "principal.id" in harness.record["defects"]
    released.set()


async def test_an_identify_that_blocks_does_not_block_the_event_loop(tmp_path):
    released = threading.Event()

    def blocks(scope):
        assert released.wait(5)
        return "carol"

    harness = Harness(tmp_path, hello, identify=blocks)
    request = asyncio.create_task(harness())
    await asyncio.sleep(0.01)
    released.set()
    await request
    assert harness.record["principal"]["id"] == "carol"


async def test_query_parameters_are_recorded_by_allow_list_only(tmp_path):
    query = {"query_string": b"page=2&token=secret&page=3"}
    none = Harness(tmp_path / "a", hello)
    await none(none.scope(**query))
    assert "details" not in none.record
    some = Harness(tmp_path / "b", hello, query_parameters="page")
    await some(some.scope(**query))
    assert some.record["details"] == {"query": {"page": ["2", "3"]}}


async def test_no_header_value_body_or_query_reaches_a_record_by_default(tmp_path):
    harness = Harness(tmp_path, hello)
    headers = {"Authorization": "Bearer s3cret", "Cookie": "sid=s3cret", "X-Api-Key": "s3cret", "X-Other": "s3cret"}
    body = [{"type": "http.request", "body": b"s3cret"}]
    await harness(harness.scope("POST", headers=headers, query_string=b"q=s3cret"), body)
    assert "s3cret" not in str(journal_lines(tmp_path))


async def test_outside_a_request_current_audit_is_harmless():
    audit = current_audit()
    assert isinstance(audit, NoAudit)
    audit.principal = "alice"
    audit.details["x"] = 1
    assert current_audit().principal is None
    assert current_audit().details == {}


def test_a_wrong_setting_stops_at_start_up():
    with pytest.raises(ConfigurationError, match=r"audit\.E001.*durabilty"):
        AuditMiddleware(hello, durabilty="fsync")
    with pytest.raises(ConfigurationError, match=r"audit.E002.*durability 'sometimes'.*journal, fsync"):
        AuditMiddleware(hello, durability="sometimes")
    with pytest.raises(ConfigurationError, match=r"audit\.E005"):
        AuditMiddleware(hello, durability="collector")


async def test_mode_fsync_forwards_the_last_byte_after_the_sync(tmp_path):
    synced = []

    class Watched(Files):
        def datasync(self, fd):
            super().datasync(fd)
            synced.append(fd)

    harness = Harness(tmp_path, hello, durability="fsync")
    harness.pipeline = type(harness.pipeline)(harness.pipeline.settings, "orders", files=Watched())
    harness.middleware._observer.pipeline = harness.pipeline
    before_last = []
    harness.on_send = lambda message: before_last.append(len(synced))
    await harness()
    assert before_last[0] == 0
    assert before_last[1] >= 1
    harness.pipeline.close()


async def test_mode_collector_withholds_the_end_when_nothing_acknowledges(tmp_path):
    settings = {"durability": "collector", "collector_url": "http://127.0.0.1:9", "wait_timeout": 0.05}
    denied = Harness(tmp_path / "a", hello, on_failure="deny", **settings)
    assert [message["type"] for message in await denied()] == ["http.response.start"]
    allowed = Harness(tmp_path / "b", hello, on_failure="allow", **settings)
    assert len(await allowed()) == 2
    for harness in (denied, allowed):
        with contextlib.suppress(Exception):
            harness.pipeline.close()
