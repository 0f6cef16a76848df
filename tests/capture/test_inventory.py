"""What a process declares: when it is said, how often, how large it gets, and that nothing waits for it."""

import errno
import os
from contextlib import asynccontextmanager
from datetime import date

import msgspec
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from audit_middleware import AuditMiddleware, audited
from audit_middleware.capture.coverage import EntryPoint
from audit_middleware.capture.entry_points import entry_points
from audit_middleware.capture.exemption import Exemption
from audit_middleware.capture.inventory import MAX_PARTS, MAX_SETTING, in_parts, inventory_head, spelled
from audit_middleware.journal.files import Files
from audit_middleware.record import MAX_LINE
from audit_middleware.sealing.seal import MAX_REC
from audit_middleware.verify import verify_spool
from tests.capture.kit import journal_lines, make_pipeline, records
from tests.shipping.kit import wait_until

HEAD = inventory_head(service="orders", component="own", version="1", policy="0" * 64, rules=None, packages=["nope"])


def many(count, length=200):
    return [EntryPoint("http", "GET", f"/{number:05}/".ljust(length, "x"), f"view{number}") for number in range(count)]


def said(folder):
    return records(folder, "coverage")


def app_of(**named):
    app = FastAPI(**named)

    @app.get("/orders/{pk}")
    async def order(pk: int):
        return pk

    @app.post("/ping")
    @audited(exempt="a probe", until="2020-01-01")
    async def ping():
        return None

    return app


def test_five_thousand_long_routes_fit_into_parts_that_are_complete():
    parts = in_parts(HEAD, many(5000))
    assert [part.part for part in parts] == list(range(1, len(parts) + 1))
    assert {part.parts for part in parts} == {len(parts)}
    assert all(len(msgspec.json.encode(part)) <= MAX_REC for part in parts)
    assert {point.route for part in parts for point in part.entry_points} == {point.route for point in many(5000)}
    assert {part.beyond for part in parts} == {None}


def test_what_has_no_room_is_counted_and_in_the_digest():
    parts = in_parts(HEAD, many(20_000, 1000))
    kept = sum(len(part.entry_points) for part in parts)
    assert len(parts) == MAX_PARTS
    assert {part.beyond for part in parts} == {20_000 - kept}
    assert in_parts(HEAD, many(19_999, 1000))[0].digest != parts[0].digest


def test_the_order_in_which_a_router_has_its_routes_changes_nothing():
    assert in_parts(HEAD, reversed(many(300))) == in_parts(HEAD, many(300))


def test_the_settings_that_decide_are_said_and_no_secret(tmp_path):
    pipeline = make_pipeline(tmp_path, trusted_proxies="10.0.0.0/8,192.0.2.1", attempts="all", token="hush-hush")
    pipeline.declare("own", lambda: many(1))
    pipeline.announce()
    pipeline.close()
    (inventory,) = said(tmp_path)
    assert inventory["settings"] == {
        "attempts": "all", "durability": "journal", "forwarded_header": "auto", "internal_hosts": "", "on_failure": "auto",
        "query_parameters": "", "request_id_header": "X-Request-ID", "rules": "", "trusted_proxies": "10.0.0.0/8, 192.0.2.1",
    }  # fmt: skip
    assert "hush-hush" not in str(journal_lines(tmp_path))


def test_a_long_setting_that_differs_at_its_end_still_differs():
    long = tuple(f"10.0.{number}.0/24" for number in range(250))
    one, other = spelled(long), spelled((*long, "192.0.2.1/32"))
    assert one != other
    assert max(len(one), len(other)) <= MAX_SETTING
    head = inventory_head(
        service="orders", component="own", version="1", policy="0" * 64, rules=None, packages=[],
        settings={f"setting{number}": long for number in range(9)},
    )  # fmt: skip
    assert all(len(msgspec.json.encode(part)) <= MAX_REC for part in in_parts(head, many(500)))


def test_an_exemption_is_said_with_its_end_even_when_it_is_over():
    point = EntryPoint("http", "GET", "/", "", Exemption("a probe", date(2020, 1, 1)))
    (part,) = in_parts(HEAD, [point])
    assert (part.entry_points[0].exempt, part.entry_points[0].until) == ("a probe", "2020-01-01")


def test_nothing_to_declare_is_no_record():
    assert in_parts(HEAD, []) == []


def test_a_kind_that_is_none_is_an_error_and_no_line_that_is_refused_later():
    with pytest.raises(ValueError, match="'gopher'"):
        in_parts(HEAD, [EntryPoint("gopher", "GET", "/", "")])


texts = st.text(st.characters(), max_size=40) | st.text(st.sampled_from("a\x00\ud800é𝕏"), max_size=5000)


@given(st.lists(st.tuples(texts, texts, texts, texts), max_size=40))
def test_whatever_names_hold_every_part_has_room_and_is_text(rows):
    points = [EntryPoint("http", method, route, name, Exemption(reason)) for method, route, name, reason in rows]
    for part in in_parts(HEAD, points):
        encoded = msgspec.json.encode(part)
        assert len(encoded) <= MAX_REC
        assert msgspec.json.decode(encoded, type=type(part)) == part


def test_a_service_without_traffic_is_known_when_its_lifespan_has_begun(tmp_path):
    app = app_of(title="Orders")
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
    with TestClient(app):
        wait_until(lambda: said(tmp_path))
        assert records(tmp_path) == []
    (record,) = said(tmp_path)
    assert record["component"] == "fastapi Orders"
    assert {"python", "audit-ready", "fastapi", "starlette"} <= set(record["versions"])
    found = {(each["kind"], each["method"], each["route"]) for each in record["entry_points"]}
    assert found == {point[:3] for point in entry_points(app)}
    (exempt,) = (each for each in record["entry_points"] if "exempt" in each)
    assert (exempt["route"], exempt["exempt"], exempt["until"]) == ("/ping", "a probe", "2020-01-01")
    types = [line["type"] for line in journal_lines(tmp_path)]
    assert types == ["open", "coverage", "close"]


def test_without_a_lifespan_it_is_said_once_with_the_first_request(tmp_path):
    app = app_of()
    pipeline = make_pipeline(tmp_path)
    client = TestClient(AuditMiddleware(app, pipeline=pipeline))
    for _ in range(3):
        client.get("/orders/1")
    pipeline.close()
    assert len(records(tmp_path)) == 3
    assert [record["component"] for record in said(tmp_path)] == ["fastapi"]
    client.get("/orders/1")
    pipeline.close()
    assert len(said(tmp_path)) == 1


def test_constructing_an_app_opens_nothing(tmp_path):
    app = app_of()
    pipeline = make_pipeline(tmp_path)
    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    pipeline.close()
    assert not (tmp_path / "spool").exists()


def test_a_lifespan_that_fails_fails_as_before_and_declares_nothing(tmp_path):
    @asynccontextmanager
    async def lifespan(app):
        raise RuntimeError("no database")
        yield

    app = app_of(lifespan=lifespan)
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
    with pytest.raises(RuntimeError, match="no database"), TestClient(app):
        pass
    assert not (tmp_path / "spool").exists()


def test_an_app_whose_routes_cannot_be_seen_declares_nothing(tmp_path):
    async def bare(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    pipeline = make_pipeline(tmp_path)
    TestClient(AuditMiddleware(bare, pipeline=pipeline)).get("/")
    pipeline.close()
    assert said(tmp_path) == []


def test_a_walk_that_raises_is_counted_and_reaches_nobody(tmp_path):
    class Broken(Starlette):
        @property
        def routes(self):
            raise RuntimeError("no database")

    pipeline = make_pipeline(tmp_path)
    pipeline.declare("own", lambda: 1 // 0)
    client = TestClient(AuditMiddleware(Broken(), pipeline=pipeline))
    assert client.get("/").status_code == 404
    pipeline.close()
    assert said(tmp_path) == []
    assert len(records(tmp_path)) == 1
    assert pipeline.problem_count == 2


def test_on_a_full_disk_it_waits_and_uses_up_no_number(tmp_path, monkeypatch):
    class Full(Files):
        is_full = True

        def write(self, fd, data):
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(fd, data)

    monkeypatch.setattr("audit_middleware.capture.declared.AGAIN_AFTER_S", 0.05)
    files = Full()
    pipeline = make_pipeline(tmp_path, files=files)
    pipeline.declare("own", lambda: many(10))
    pipeline.announce()
    files.is_full = False
    wait_until(lambda: said(tmp_path))
    pipeline.close()
    assert [line["type"] for line in journal_lines(tmp_path)] == ["open", "coverage", "close"]


def test_a_forked_child_that_writes_says_the_same_with_the_same_digest(tmp_path):
    pipeline = make_pipeline(tmp_path)
    pipeline.declare("own", lambda: many(1000))
    pipeline.announce()
    wait_until(lambda: len(said(tmp_path)) > 1)
    pid = os.fork()
    if pid == 0:
        pipeline.announce()
        pipeline.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    pipeline.close()
    assert len({line["stream"] for line in journal_lines(tmp_path)}) == 2
    found = said(tmp_path)
    assert len({record["digest"] for record in found}) == 1
    assert len(found) == 2 * found[0]["parts"]
    lines = [line for file in tmp_path.glob("spool/streams/*/seg-*") for line in file.read_bytes().splitlines()]
    assert max(map(len, lines)) <= MAX_LINE
    report = verify_spool(tmp_path / "spool", pipeline.recorder.keyring)
    assert report.exit_code == 0, report


def test_what_is_declared_under_one_name_is_said_as_one(tmp_path):
    pipeline = make_pipeline(tmp_path)
    pipeline.declare("own", lambda: many(2))
    pipeline.declare("own", lambda: [EntryPoint("model", "read", "Patient", "")])
    pipeline.announce()
    pipeline.close()
    (record,) = said(tmp_path)
    assert len(record["entry_points"]) == 3
