"""``audit-ready trace``: one action through several services is one tree, whatever is missing or forged."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.cli.trace import MAX_SEARCHES, gather
from audit_middleware.cli.tree import nodes_of, prefix
from audit_middleware.collector.auth import OPEN_DOOR
from audit_middleware.collector.collector import Collector
from tests.cli.test_findings import Server
from tests.collector.kit import App, rec_of, settings_for

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = {"id": "orders", "type": "service", "auth": "context", "on_behalf_of": "alice"}


def http(method, path, status=None):
    answer = {"status": status, "duration_us": 1500, "ended": "complete"} if status else {}
    return {"method": method, "route": path, "path": path} | answer


def call_of(host, span, request_id, **changes):
    call = {"kind": "http", "method": "POST", "host": host, "status": 201, "duration_us": 900, "ended": "complete"}
    return rec_of(
        "orders",
        action=f"call {host} POST *",
        trace={"request_id": request_id, "trace_id": TRACE, "span_id": span},
        call=call | changes,
    )


def story():
    """Alice's order calls billing, which records; shipping, which does not; a stranger; and queues a task that dies."""
    orders, billing, worker = App(), App(service="billing"), App(service="worker")
    attempt = {"request_id": "o.1"}  # before the trace began
    orders.say("attempt", rec_of("orders", action="unknown", outcome="unknown", trace=attempt, http=http("POST", "/o")))
    orders.say("call", call_of("billing.internal", "aa" * 8, "o.1", carried=True))
    orders.say("call", call_of("shipping.internal", "bb" * 8, "o.1", carried=True))
    orders.say("call", call_of("example.com", "cc" * 8, "o.1"))
    trace = {"request_id": "o.1", "trace_id": TRACE, "span_id": "ee" * 8}
    orders.request(action="orders.place", trace=trace, attempt=1, http=http("POST", "/o", 201))
    billing.request(
        action="billing.charge\x1b[31m",
        principal=CALLER,
        cause={"service": "orders", "request_id": "o.1", "span_id": "aa" * 8},
        trace={"request_id": "b.1", "trace_id": TRACE, "parent_span_id": "aa" * 8},
        http=http("POST", "/b", 201),
    )
    task = {
        "cause": {"service": "orders", "request_id": "o.1", "span_id": "ee" * 8},
        "trace": {"request_id": "w.1", "trace_id": TRACE, "parent_span_id": "ee" * 8},
        "task": {"name": "mail", "kind": "task"},
    }
    last = "2026-11-23T07:00:09.000000Z"
    worker.say("attempt", rec_of("worker", action="worker.mail", outcome="unknown", **task), last)
    other = App(service="else")
    other.request(trace={"request_id": "x.1", "trace_id": "f" * 32})
    return [*orders.lines, *billing.lines, *worker.lines, *other.lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder that a collector left."""
    folder = tmp_path_factory.mktemp("told")
    with Collector(settings_for(folder)).open() as collector:
        collector.deliver(story(), OPEN_DOOR)
    return folder / "data"


def run(*arguments, **environ):
    command = [sys.executable, "-m", "audit_middleware", "trace", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def lines_of(text):
    head, *lines = text.splitlines()
    assert "3 services, 6 steps" in head
    return [line.split("  ")[0:2] for line in lines], lines


def test_a_request_id_leads_to_everything_that_came_of_it_also_what_was_recorded_before_the_trace_began(folder):
    done = run("o.1", "--data", folder)
    assert done.returncode == 0
    _, lines = lines_of(done.stdout)
    assert lines[0].startswith("orders  orders.place  alice  success 201  1.5 ms")
    assert lines[1].startswith("├─ orders  call billing.internal POST *  alice  success 201  0.9 ms")
    assert lines[2].startswith("│  └─ billing  billing.charge�[31m  orders for alice  success 201")
    assert lines[3].endswith("! not recorded by shipping.internal")
    assert "!" not in lines[4]
    assert (lines[4].startswith("├─ orders  call example.com"), lines[5].startswith("└─ worker")) == (True, True)
    assert lines[5].endswith("! no end on record")
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("id_", [TRACE, "b.1", "w.1"])
def test_any_id_of_the_story_tells_the_same_story(folder, id_):
    assert run(id_, "--data", folder).stdout == run("o.1", "--data", folder).stdout


@pytest.mark.parametrize("id_", ["-uY83zZGs-jm3xifHrm9hA.1", "--Y83zZGs-jm3xifHrm9hA.1", "-jY83zZGs-jm3xifHrm9hA.2"])
def test_an_id_may_begin_with_a_hyphen_as_base64url_does(tmp_path, id_):
    app = App()
    app.request(action="orders.ship", trace={"request_id": id_})
    with Collector(settings_for(tmp_path)) as collector:
        collector.deliver(app.lines)
    assert run(id_, "--data", tmp_path / "data").stdout == run("--data", tmp_path / "data", "--", id_).stdout
    assert "No such option" in run("--nope", "--data", tmp_path / "data").stderr
    done = run("--data", tmp_path / "data", id_)
    assert (done.returncode, "orders.ship" in done.stdout) == (0, True), done.stderr


def test_json_has_each_step_with_its_place_in_the_tree_and_in_the_ledger(folder):
    said = json.loads(run(TRACE, "--data", folder, "--json").stdout)
    assert said["is_whole"] is True
    assert [node["parent"] for node in said["nodes"]] == [None, 0, 1, 0, 0, 0]
    billing = said["nodes"][2]
    assert (billing["service"], billing["principal"], billing["status"]) == ("billing", CALLER, 201)
    assert (billing["depth"], billing["log"].startswith("audit.test/default/")) == (2, True)
    assert said["nodes"][3]["marks"] == ["not recorded by shipping.internal"]


def test_an_id_that_nobody_knows_exits_1_and_says_where_to_look(folder):
    done = run("nobody.7", "--data", folder)
    assert (done.returncode, done.stdout, "spool status" in done.stderr) == (1, "", True)
    assert json.loads(run("nobody.7", "--data", folder, "--json").stdout)["nodes"] == []


@pytest.mark.parametrize("id_", ["a b", "x" * 129, "*", "\x1b[31m"])
def test_what_cannot_be_an_id_is_said_in_words(folder, id_):
    done = run(id_, "--data", folder)
    assert (done.returncode, "X-Request-ID" in done.stderr) == (2, True)


def test_a_collector_tells_the_same_as_its_folder(tmp_path, folder):
    server = Server(tmp_path)
    try:
        server.deliver(*story())
        said = [json.loads(server.run("trace", "o.1", "--json").stdout)]
        said += [json.loads(run("o.1", "--data", folder, "--json").stdout)]
        places = {"log", "index", "ts"}
        one, two = ([{n: v for n, v in node.items() if n not in places} for node in each["nodes"]] for each in said)
        assert one == two
    finally:
        server.end()


IDS = st.sampled_from(["a", "b", "c", None])


@st.composite
def records(draw):
    """Records whose ids say anything, also that each is below the other."""
    found = []
    for number in range(draw(st.integers(0, 12))):
        type_ = draw(st.sampled_from(["attempt", "request", "event", "task", "call", "ingest"]))
        rec = rec_of(trace={"request_id": draw(IDS) or "d", "span_id": draw(IDS), "parent_span_id": draw(IDS)})
        if draw(st.booleans()):
            rec["cause"] = {"service": "x", "request_id": draw(IDS) or "d", "span_id": draw(IDS)}
        if type_ == "call":
            rec["call"] = {"kind": "http", "method": "GET", "host": "h", "carried": draw(st.booleans())}
        if type_ in {"request", "task"}:
            rec["attempt"] = draw(st.sampled_from([None, 0, 1, 2]))
        record = {"type": type_, "stream": draw(st.sampled_from(["s", "t"])), "seq": number, "rec": rec}
        record["ts"] = f"2026-11-24T00:00:{draw(st.integers(0, 59)):02d}.000000Z"
        found.append({"log": "l", "index": number, "record": record})
    return found


@given(records())
def test_every_record_is_in_the_tree_once_whatever_the_ids_say(found):
    nodes = nodes_of([*found, *found])
    drawn = [each["index"] for node in nodes for each in (node.found, node.attempt) if each is not None]
    assert sorted(drawn) == [each["index"] for each in found if each["record"]["type"] != "ingest"]
    seen = set()
    for node in nodes:
        assert node.parent is None or id(node.parent) in seen
        assert len(prefix(node)) == 3 * node.depth
        seen.add(id(node))


def test_a_trace_without_end_is_cut_and_says_so():
    def search(parameters, limit):
        number = int(parameters.get("request_id", "0"))
        rec = rec_of(trace={"request_id": str(number)}, cause={"service": "x", "request_id": str(number + 1)})
        record = {"type": "request", "stream": "s", "seq": number, "ts": "2026-11-24T00:00:00.000000Z", "rec": rec}
        yield {"log": "l", "index": number, "record": record}

    found, is_whole = gather("0", search)
    assert (len(found), is_whole) == (MAX_SEARCHES, False)
    assert len(nodes_of(found)) == MAX_SEARCHES
