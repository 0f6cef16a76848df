"""Who reads what the collector keeps is on record in the same ledger, and so is who was not let in."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from audit_middleware.collector.access import MAX_KEYS, OTHERS, AccessBook, Accesses, Key, RateLimit
from audit_middleware.collector.app import create_app
from audit_middleware.collector.auth import parse_tokens
from audit_middleware.collector.collector import Collector
from audit_middleware.collector.limits import Limits
from audit_middleware.collector.problems import busy
from audit_middleware.errors import StoreUnavailable
from tests.collector.kit import PERIOD, App, own_lines, settings_for

TOKENS = (
    "app:app-0123456789abcdef:orders:ingest,rea:rea-0123456789abcdef:orders:reader,"
    "aud:aud-0123456789abcdef:*:auditor,adm:adm-0123456789abcdef:*:admin"
)


@pytest.fixture
def collector(tmp_path):
    with Collector(settings_for(tmp_path, tokens=parse_tokens(TOKENS), limits=Limits(reads_per_second=1000))) as opened:
        yield opened


@pytest.fixture
def ask(collector):
    with TestClient(create_app(collector), client=("203.0.113.9", 4711)) as client:

        def ask(path, who=None, method="GET", purpose=None, **more):
            headers = {"authorization": f"Bearer {who}-0123456789abcdef"} if who else {}
            headers |= {"audit-purpose": purpose} if purpose else {}
            return client.request(method, path, headers=headers, **more)

        yield ask


def said(collector):
    collector._open.accesses.flush()
    collector.deliver(App().lines)  # committed in order: what was flushed is on record before this
    return [(line["rec"]["kind"], line["rec"]["by"], line["rec"]["what"], line["rec"]["count"])
            for line in own_lines(collector, "access")]  # fmt: skip


def test_a_search_is_on_record_before_its_answer_leaves(collector, ask):
    app = App()
    app.requests(3)
    collector.deliver(app.lines)
    assert len(ask("/v1/records?principal=alice&limit=2", "rea").json()["records"]) == 2
    (record,) = own_lines(collector, "access")
    assert record["rec"]["what"] == "principal=alice&limit=2: 2 records"
    assert (record["rec"]["by"], record["rec"]["source"], record["rec"]["kind"]) == ("rea", "203.0.113.9", "search")


@pytest.mark.parametrize(("purpose", "kind"), [("verify", "verify"), ("denied", "read"), (None, "read")])
def test_what_one_verification_reads_is_one_record_that_says_so(collector, ask, purpose, kind):
    collector.deliver(App().lines)
    for path in ("checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1"):
        ask(f"/log/default/{PERIOD}/{path}", "aud", purpose=purpose)
    assert said(collector) == [(kind, "aud", f"default/{PERIOD}", 3)]


def test_a_search_that_gives_lines_or_proofs_away_is_an_export(collector, ask):
    collector.deliver(App().lines)
    for include in ("line", "proof", "line,proof"):
        assert ask(f"/v1/records?type=open&include={include}", "rea").status_code == 200
    kinds = [record["rec"]["kind"] for record in own_lines(collector, "access")]
    assert kinds == ["export", "export", "export"]


@pytest.mark.parametrize(
    "path",
    [
        f"/log/default/{PERIOD}/checkpoint",
        "/v1/retention",
        "/v1/findings?service=billing",
        "/v1/coverage?service=billing",
    ],
)
def test_what_a_reader_of_other_services_is_refused_is_on_record_as_denied_and_not_as_read(collector, ask, path):
    collector.deliver(App().lines)
    assert ask(path, "rea").status_code == 403
    until, found = time.monotonic() + 5, []
    while not found and time.monotonic() < until:
        found = said(collector)
    assert found == [("denied", "rea", f"GET {path.partition('?')[0]}", 1)]


def test_whoever_is_not_let_in_is_on_record_without_what_they_showed(collector, ask):
    assert ask("/v1/records").status_code == 401
    assert ask("/v1/records", "xxx").status_code == 401
    assert ask("/v1/records", "app").status_code == 403
    assert ask("/v1/records?service=billing", "rea").status_code == 403
    assert ask("/v1/findings/x", "aud", "POST", content="{}").status_code == 403
    assert ask("/log.vkey", "xxx").status_code == 401
    found = said(collector)
    assert ("denied", "unknown", "GET /v1/records", 2) in found
    assert ("denied", "app", "GET /v1/records", 1) in found
    assert ("denied", "rea", "GET /v1/records", 1) in found
    assert ("denied", "unknown", "GET /log.vkey", 1) in found
    assert ("denied", "aud", "POST /v1/findings/x", 1) in found
    assert "0123456789abcdef" not in json.dumps(own_lines(collector))


@pytest.mark.parametrize(
    ("who", "path", "method", "status"),
    [
        ("aud", "/v1/records", "GET", 200), ("aud", "/v1/findings", "GET", 200), ("aud", "/v1/status", "GET", 200),
        ("aud", f"/log/default/{PERIOD}/checkpoint", "GET", 200), ("aud", "/v1/retention", "GET", 200),
        ("aud", "/v1/records", "POST", 403), ("aud", "/v1/holds", "POST", 403), ("aud", "/v1/retention", "POST", 403),
        ("rea", "/v1/records", "GET", 200), ("rea", f"/log/default/{PERIOD}/checkpoint", "GET", 403),
        ("rea", "/v1/retention", "GET", 403), ("app", "/v1/findings", "GET", 403), ("adm", "/v1/records", "GET", 403),
    ],
)  # fmt: skip
def test_an_auditor_reads_everything_and_changes_nothing(collector, ask, who, path, method, status):
    collector.deliver(App().lines)
    assert ask(path, who, method).status_code == status


def test_a_token_that_reads_too_much_has_to_wait(tmp_path):
    limits = Limits(reads_per_second=2)
    with Collector(settings_for(tmp_path, tokens=parse_tokens(TOKENS), limits=limits)) as collector:
        client = TestClient(create_app(collector))
        headers = {"authorization": "Bearer aud-0123456789abcdef"}
        answers = [client.get("/v1/status", headers=headers) for _ in range(6)]
        assert [answer.status_code for answer in answers][:4] == [200] * 4
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert client.get("/v1/records", headers={"authorization": "Bearer rea-0123456789abcdef"}).status_code == 200


def test_a_token_that_delivers_too_much_has_to_wait_and_the_others_do_not(tmp_path):
    tokens = parse_tokens("one:one-0123456789abcdef:orders,two:two-0123456789abcdef:orders")
    limits = Limits(records_per_second=20)
    with Collector(settings_for(tmp_path, tokens=tokens, limits=limits)) as collector:
        client, apps = TestClient(create_app(collector)), {name: App() for name in ("one", "two")}
        for app in apps.values():
            app.requests(70)

        def post(who):
            headers = {"authorization": f"Bearer {who}-0123456789abcdef"}
            return client.post("/v1/records", content=b"\n".join(apps[who].lines) + b"\n", headers=headers)

        assert post("one").status_code == 200  # on credit: a batch is taken whole
        refused = post("one")
        assert (refused.status_code, refused.json()["title"]) == (429, "Too many requests")
        assert 1 <= int(refused.headers["retry-after"]) <= 3
        assert post("two").status_code == 200


def test_what_the_committer_cannot_take_is_counted_again():
    taken, is_busy = [], [True]

    def submit(batch):
        if is_busy[0]:
            raise busy("queue-full", "later")
        taken.extend(batch.said)

    accesses = Accesses(submit)
    for _ in range(3):
        accesses.note("aud", "read", "default/2026h2", "::1")
    accesses.flush()
    accesses.note("aud", "read", "default/2026h2", "::1")
    is_busy[0] = False
    accesses.stop()
    assert [(each.payload.by, each.payload.count) for each in taken] == [("aud", 4)]


def test_accesses_of_a_commit_that_failed_are_said_again():
    batches = []
    accesses = Accesses(batches.append)
    for _ in range(3):
        accesses.note("aud", "read", "default/2026h2", "::1")
    accesses.flush()
    batches[0].done.set_exception(StoreUnavailable("the bucket does not answer"))
    accesses.flush()
    batches[1].done.set_result(None)
    accesses.stop()
    assert [[each.payload.count for each in batch.said] for batch in batches] == [[3], [3]]


@given(st.lists(st.tuples(st.integers(0, 2 * MAX_KEYS), st.just("read"))))
def test_no_access_is_lost_however_many_there_are(seen):
    book = AccessBook()
    for name, kind in seen:
        book.note(Key(str(name), kind, "x", "::1"), "t")
    taken = book.take()
    assert sum(each.count for each in taken) == len(seen)
    assert book.take() == []


def test_a_flood_of_names_costs_bounded_memory():
    book = AccessBook()
    for number in range(5 * MAX_KEYS):
        book.note(Key("unknown", "denied", f"/{number}", "::1"), "t")
    taken = book.take()
    assert len(taken) == MAX_KEYS + 1
    assert max(taken, key=lambda each: each.count).what == OTHERS


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 5))
def test_no_name_gets_more_than_its_rate_and_burst(pauses, rate):
    now = [0.0]
    limit = RateLimit(rate, clock=lambda: now[0])
    granted = 0
    for pause in pauses:
        now[0] += pause
        wait = limit.wait("a")
        granted += wait == 0
        assert 0 <= wait <= 1 / rate + 1e-9
    assert granted <= 2 * rate + now[0] * rate + 1e-6


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 1000)), max_size=60), st.integers(1, 500))
def test_what_is_taken_on_credit_is_waited_for(turns, rate):
    now, taken, last = [0.0], 0, 0
    limit = RateLimit(rate, clock=lambda: now[0])
    for pause, cost in turns:
        now[0] += pause
        if limit.wait("a", cost) == 0:
            taken, last = taken + cost, cost
    assert taken - last <= 2 * rate + now[0] * rate + 1e-6


def test_a_limit_of_nothing_is_none():
    limit = RateLimit(0.0, clock=lambda: 0.0)
    assert [limit.wait("a", 10**6) for _ in range(3)] == [0.0] * 3
