"""No client has a complete answer whose record is not in the journal, however the answer is cut into messages.

A client is done when the length it was told is reached, or with the headers when there is no body to come; the
server's last message may be long after that.
"""

import asyncio

import pytest

from audit_middleware import AuditMiddleware, current_audit
from tests.capture.kit import Harness, records

pytestmark = pytest.mark.anyio


def answering(status, length, *chunks):
    headers = [(b"Content-Length", b"%d" % length)] if length is not None else []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize(
    ("method", "status", "length", "chunks", "on_record"),
    [
        ("GET", 204, None, [], [1, 1]),
        ("GET", 304, None, [], [1, 1]),
        ("HEAD", 200, 5, [], [1, 1]),
        ("GET", 303, 0, [], [1, 1]),
        ("GET", 200, 4, [b"ab", b"cd"], [0, 0, 1, 1]),
        ("GET", 200, None, [b"ab", b"cd"], [0, 0, 0, 1]),
    ],
)
async def test_what_completes_an_answer_leaves_after_its_record(tmp_path, method, status, length, chunks, on_record):
    harness = Harness(tmp_path, answering(status, length, *chunks))
    seen = []
    harness.on_send = lambda message: seen.append(len(harness.records))
    await harness(harness.scope(method=method))
    assert seen == on_record
    assert harness.sent[0]["type"] == "http.response.start"
    assert len(harness.records) == 1


@pytest.mark.parametrize(
    ("status", "length", "chunks"), [(204, None, []), (303, 0, []), (200, 4, [b"ab", b"cd"]), (200, None, [b"abcd"])]
)
async def test_an_answer_nobody_confirmed_is_never_complete_under_deny(tmp_path, status, length, chunks):
    harness = Harness(
        tmp_path, answering(status, length, *chunks), durability="collector", on_failure="deny", wait_timeout=0.05,
        collector_url="http://127.0.0.1:9",
    )  # fmt: skip
    sent = await harness()
    bodies = [message for message in sent if message["type"] == "http.response.body"]
    assert not length or sum(len(message["body"]) for message in bodies) < length
    assert not any(not message.get("more_body", False) for message in bodies)
    if status != 200:
        assert sent == []


async def test_a_client_that_leaves_while_identify_thinks_is_on_record(tmp_path):
    async def slow(scope):
        await asyncio.sleep(30)

    harness = Harness(tmp_path, answering(200, None, b"ab"), identify=slow)
    request = asyncio.create_task(harness())
    await asyncio.sleep(0.02)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert "principal.id" in harness.record["defects"]


async def test_an_identify_that_ignores_cancellation_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("audit_middleware.capture.identify.IDENTIFY_TIMEOUT_S", 0.01)
    released = asyncio.Event()

    async def stubborn(scope):
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    harness = Harness(tmp_path, answering(200, None, b"ab"), identify=stubborn)
    await asyncio.wait_for(harness(), 2)
    assert "principal.id" in harness.record["defects"]
    released.set()
    await asyncio.sleep(0)


async def test_path_parameters_that_raise_are_contained(tmp_path):
    class Bad:
        def __str__(self):
            raise ValueError

    class Route:
        path = "/r/{k}"

    async def app(scope, receive, send):
        scope.update(route=Route(), path_params={"k": Bad()}, root_path="/m/1")
        await answering(200, None)(scope, receive, send)

    harness = Harness(tmp_path, app)
    assert len(await harness()) == 2
    assert harness.record["http"]["status"] == 200


@pytest.mark.parametrize("meta", ['{"began_ns":"2026"}', '{"began_ns":null}', "[" * 3000, "[]", ""])
async def test_a_spoilt_hint_file_of_an_old_stream_switches_nothing_off(tmp_path, meta):
    first = Harness(tmp_path, answering(200, None), on_failure="deny")
    await first()
    first.pipeline.close()
    for file in (tmp_path / "spool" / "streams").glob("*/meta.json"):
        file.chmod(0o600)
        file.write_text(meta)
    second = Harness(tmp_path, answering(200, None), on_failure="deny")
    await second(second.scope(method="POST"))
    assert len(second.records) == 2


@pytest.mark.parametrize(("policy", "runs"), [("deny", False), ("allow", True)])
async def test_a_fault_of_ours_is_treated_like_a_full_disk(tmp_path, monkeypatch, policy, runs):
    ran = []

    async def app(scope, receive, send):
        ran.append(True)
        await answering(200, None)(scope, receive, send)

    harness = Harness(tmp_path, app, on_failure=policy)
    monkeypatch.setattr("audit_middleware.journal.writer.timestamp", lambda ns: 1 // 0)
    await harness(harness.scope(method="POST"))
    assert bool(ran) is runs
    monkeypatch.undo()
    monkeypatch.setattr(harness.pipeline.recorder._writer, "_retry_at", 0.0)
    await harness(harness.scope(method="POST"))
    assert records(tmp_path, "drop")


def test_a_key_file_that_turns_bad_after_the_start_fails_no_request(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("k1:" + "A" * 43 + "\n")
    keys.chmod(0o600)
    middleware = AuditMiddleware(answering(200, None), key_file=keys, service="orders", spool_dir=tmp_path / "spool")
    keys.chmod(0o644)
    assert middleware.pipeline({"type": "http"}).recorder is not None


def test_a_misconfiguration_is_logged_for_servers_that_swallow_it(tmp_path, caplog):
    with pytest.raises(Exception, match=r"audit\.E009"):
        AuditMiddleware(answering(200, None), durability="memory")
    assert "misconfigured" in caplog.text


async def test_what_is_too_long_is_cut_and_named(tmp_path):
    async def app(scope, receive, send):
        audit = current_audit()
        audit.principal, audit.action, audit.resource = "p" * 1000, "a" * 1000, ("t" * 1000, "i" * 1000)
        await answering(200, None)(scope, receive, send)

    harness = Harness(tmp_path, app)
    await harness()
    cut = {item["field"]: item["bytes"] for item in harness.record["truncated"]}
    assert cut == {"principal.id": 1000, "action": 1000, "resource.type": 1000, "resource.id": 1000}


@pytest.mark.parametrize("said", [{"principal": ""}, {"action": ""}, {"resource": ":"}, {"principal": {"id": ""}}])
async def test_empty_names_are_defects(tmp_path, said):
    async def app(scope, receive, send):
        for name, value in said.items():
            setattr(current_audit(), name, value)
        await answering(200, None)(scope, receive, send)

    harness = Harness(tmp_path, app)
    await harness()
    assert any(defect.startswith(next(iter(said))) for defect in harness.record["defects"])


async def test_a_query_too_long_to_read_is_a_defect_where_its_parameters_are_wanted(tmp_path):
    harness = Harness(tmp_path, answering(200, None), query_parameters="q")
    await harness(harness.scope(query_string=b"q=1&" + b"x=1&" * 200))
    assert "details.query" in harness.record["defects"]
