"""``audit-ready reconcile``: an access log against the records; what bypassed auditing is listed, and nothing else."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit_middleware.cli.access_log import Witnessed, read_line
from audit_middleware.cli.matching import Recorded, match
from audit_middleware.collector.auth import OPEN_DOOR
from audit_middleware.collector.collector import Collector
from audit_middleware.sealing.text import b64url
from tests.cli.test_findings import READER, Server
from tests.collector.kit import KEY, App, rec_of, settings_for

MOMENT = datetime(2026, 11, 24, 7, 0, 1, tzinfo=UTC)
AT = MOMENT.timestamp()
ID = "KvT281oLAJhERs3ao6hx-Q.15"
COMBINED = (
    '203.0.113.7 - alice [24/Nov/2026:07:00:01 +0000] "POST /orders/7?x=1 HTTP/1.1" 201 27 "https://a.test/" "curl/8"'
)
ALB = (
    "https 2026-11-24T07:00:01.000000Z app/lb/1 192.0.2.1:2817 10.0.0.1:80 0.0 0.0 0.0 201 201 34 366 "
    '"POST https://shop.test:443/orders/7?x=1 HTTP/1.1" "curl/8" ECDHE TLSv1.2 arn:aws "Root=1-58" "-" "-" 0 '
    '2026-11-24T07:00:00.900000Z "forward" "-" "-" "10.0.0.1:80" "201" "-" "-"'
)


@pytest.mark.parametrize(
    ("line", "at", "id_"),
    [
        (COMBINED, AT, None),
        (f'{COMBINED} "{ID}"', AT, ID),
        (f"{COMBINED} 0.003 {ID}", AT, ID),
        ('10.0.0.1 - - [24/Nov/2026:09:00:01 +0200] "POST /orders/7 HTTP/1.1" 201 -', AT, None),
        ('INFO:     127.0.0.1:51234 - "POST /orders/7?x=1 HTTP/1.1" 201 Created', None, None),
        ('127.0.0.1:51234 - "POST /orders/7 HTTP/1.1" 201', None, None),
        (
            ALB,
            AT,
            None,
        ),
        (
            json.dumps({
                "time_iso8601": "2026-11-24T07:00:01+00:00", "request": "POST /orders/7?x=1 HTTP/1.1", "status": "201",
                "sent_http_x_request_id": ID,
            }),
            AT,
            ID,
        ),
        (
            json.dumps({
                "start_time": "2026-11-24T07:00:01.000Z", "method": "POST", "path": "/orders/7?x=1",
                "response_code": 201, "x-request-id": ID, "duration": 3,
            }),
            AT,
            ID,
        ),
        (json.dumps({"msec": "1795503601.000", "request_method": "POST", "uri": "/orders/7", "status": 201}), AT, None),
    ],
    ids=["nginx", "nginx with id", "nginx with time and id", "common", "uvicorn", "uvicorn bare", "alb", "nginx json", "envoy", "msec"],
)  # fmt: skip
def test_each_format_is_read(line, at, id_):
    assert read_line(3, line) == Witnessed(3, at, "POST", "/orders/7", 201, id_)


@pytest.mark.parametrize(
    "line",
    [
        r'1.2.3.4 - - [24/Nov/2026:07:00:01 +0000] "\x16\x03\x01" 400 0 "-" "-"',
        '1.2.3.4 - - [yesterday] "GET / HTTP/1.1" 200 0',
        "{", "[]", "{}", '{"a":' * 100_000, '{"status": {}, "method": "GET", "path": "/"}', "nonsense", "\0", "[" * 50_000,
    ],
    ids=["tls", "no time", "cut", "list", "empty", "deep", "objects", "words", "nul", "brackets"],
)  # fmt: skip
def test_what_is_no_request_is_unreadable_and_nothing_worse(line):
    began = time.monotonic()
    assert read_line(1, line) is None
    assert time.monotonic() - began < 5


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text):
    for line in (
        text,
        f"{COMBINED} {text}",
        f'1.2.3.4 - {text} [24/Nov/2026:07:00:01 +0000] "GET {text} HTTP/1.1" 200 1',
    ):
        read_line(1, line)


@pytest.mark.parametrize(
    ("target", "path"),
    [("/a%20b?q", "/a b"), ("/%C3%BC", "/ü"), (r"/\xC3\xBC", "/ü"), ("http://h/x?y", "/x"), ("//a//b", "//a//b")],
)
def test_paths_are_spelled_as_applications_see_them(target, path):
    line = f'1.2.3.4 - - [24/Nov/2026:07:00:01 +0000] "GET {target} HTTP/1.1" 200 1'
    assert read_line(1, line).path == path


def test_an_id_in_what_the_client_says_is_not_believed():
    line = f'1.2.3.4 - - [24/Nov/2026:07:00:01 +0000] "GET /?id={ID} HTTP/1.1" 200 1 "{ID}" "{ID}"'
    assert read_line(1, line).request_id is None


# ------------------------------------------------------------------ one to one


def line(number, at, path="/a", status=200, id_=None):
    return Witnessed(number, at, "GET", path, status, id_)


def record(at, path="/a", status=200, *ids, took=0.0):
    return Recorded(at - took, at, "GET", path, status, ids)


def numbers(result):
    return [each.number for each in result.bypassed]


def test_a_record_accounts_for_one_line_only():
    assert numbers(match([line(1, 10), line(2, 10)], [record(10.5)], 1)) == [2]


def test_the_id_of_another_request_accounts_for_nothing():
    result = match([line(1, 500, "/evil", 200, "a.1")], [record(500, "/a", 200, "a.1")], 1)
    assert numbers(result) == [1]


def test_another_status_is_taken_last_and_is_told():
    result = match([line(1, 10, status=499), line(2, 10, status=200)], [record(10), record(10, status=201)], 1)
    assert (result.recorded, result.differing, numbers(result)) == (2, 1, [])


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["/a", "/b"]), st.integers(0, 6)), max_size=12),
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["/a", "/b"]), st.integers(0, 6)), max_size=6),
)
def test_what_is_on_record_is_never_listed_however_long_it_ran(kept, others):
    """Each record has its line; a line more than records at a path is a bypass, whichever of them it is."""
    records = [record(at + took, path, 200, took=took) for at, path, took in kept]
    lines = [line(number, at + took, path) for number, (at, path, took) in enumerate(kept)]
    assert match(lines, records, 0).bypassed == []
    more = [line(100 + number, at, path) for number, (at, path, _) in enumerate(others)]
    assert len(match([*lines, *more], records, 0).bypassed) == len(more)


@given(st.lists(st.integers(0, 8), max_size=5), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), max_size=5))
def test_as_many_lines_as_can_be_are_accounted_for(times, spans):
    lines = [line(number, at) for number, at in enumerate(times)]
    records = [record(began + took, took=took) for began, took in spans]

    def best(left, free):
        if not left:
            return 0
        fits = [n for n in free if records[n].began - 1 <= left[0].at <= records[n].ended]
        return max([best(left[1:], free), *(1 + best(left[1:], free - {n}) for n in fits)])

    assert match(lines, records, 0).recorded == best(lines, frozenset(range(len(records))))


# ------------------------------------------------------------------ as a program


def http(path, status, method="GET"):
    return {"method": method, "route": path, "path": path, "status": status, "duration_us": 1000, "ended": "complete"}


def lines_of():
    """Two requests that ended, and one whose process was killed."""
    app = App()
    for second, path in ((1, "/orders"), (2, "/orders/7")):
        app.request(f"2026-11-24T07:00:0{second}.500000Z", http=http(path, 200))
    lost = {name: value for name, value in http("/pay", 0, "POST").items() if name in {"method", "route", "path"}}
    app.say("attempt", rec_of(http=lost, outcome="unknown"), "2026-11-24T07:00:03.000000Z")
    return app.lines


def logged(second, request, status):
    moment = (MOMENT + timedelta(seconds=second - 1)).strftime("%d/%b/%Y:%H:%M:%S +0000")
    return f'203.0.113.7 - - [{moment}] "{request} HTTP/1.1" {status} 2 "-" "curl/8"'


ALL = [logged(1, "GET /orders?page=2", 200), logged(2, "GET /orders/7", 200), logged(4, "POST /pay", 502)]
BYPASS = logged(2, "GET /orders/7", 200)


@pytest.fixture
def data(tmp_path):
    with Collector(settings_for(tmp_path)).open() as collector:
        collector.deliver(lines_of(), OPEN_DOOR)
    return tmp_path / "data"


def run(*arguments, given=()):
    done = subprocess.run(
        [sys.executable, "-m", "audit_middleware", "reconcile", *map(str, arguments)],
        input="\n".join(given), env=os.environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_log_that_is_all_on_record_exits_0(data):
    done = run("-", "--data", data, given=ALL)
    assert (done.returncode, "3 on record (1 with another status), 0 bypassed" in done.stdout) == (0, True)


def test_a_request_that_bypassed_auditing_is_listed_with_its_line_and_exits_1(data):
    done = run("-", "--data", data, given=[*ALL, BYPASS, "nonsense", logged(2, "GET /static/x.css", 200)])
    assert (done.returncode, "2 bypassed auditing" in done.stdout, "unreadable: lines 5" in done.stderr) == (
        1,
        True,
        True,
    )
    assert done.stdout.splitlines()[1].split()[0:4] == ["4", "2026-11-24T07:00:02+00:00", "GET", "/orders/7"]
    done = run(
        "-",
        "--data",
        data,
        "--ignore",
        "/static/*",
        "--json",
        given=[*ALL, BYPASS, logged(2, "GET /static/x.css", 200)],
    )
    said = json.loads(done.stdout)
    assert (said["recorded"], said["bypassed"], said["ignored"], said["unreadable"]) == (3, 1, 1, 0)
    assert said["requests"][0]["number"] == 4


def test_a_path_that_the_proxy_cuts_is_compared_without_its_prefix(data):
    done = run("-", "--data", data, "--prefix", "/shop", given=[logged(1, "GET /shop/orders", 200)])
    assert done.returncode == 0


def test_a_log_of_no_known_format_proves_nothing(data):
    done = run("-", "--data", data, given=["nonsense", "more of it"])
    assert (done.returncode, "known format" in done.stderr) == (2, True)


def test_a_collector_is_asked_as_a_folder_is(tmp_path):
    server = Server(tmp_path)
    try:
        server.deliver(*lines_of())
        file = tmp_path / "access.log"
        file.write_text("\n".join([*ALL, BYPASS]))
        done = server.run("reconcile", str(file), "--json")
        assert (done.returncode, json.loads(done.stdout)["bypassed"]) == (1, 1)
        assert server.run("reconcile", str(file), "--service", "else", "--json").returncode == 1
    finally:
        server.end()


APP = """
from fastapi import FastAPI
from audit_middleware import AuditMiddleware
app = FastAPI()
app.get("/orders/{number}")(lambda number: number)
app.add_middleware(AuditMiddleware)
audited = app

async def outer(scope, receive, send):
    await (bare if scope.get("path") == "/back/door" else audited)(scope, receive, send)

bare = FastAPI()
bare.get("/back/door")(lambda: "open")
"""
SERVERS = {
    "uvicorn": ["uvicorn", "shop:outer", "--port", "{port}", "--no-use-colors"],
    "gunicorn": [
        "gunicorn",
        "shop:outer",
        "-k",
        "uvicorn.workers.UvicornWorker",
        "-b",
        "127.0.0.1:{port}",
        "--access-logfile",
        "-",
    ],
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_back_door_is_found_by_the_access_log_of_a_real_server(server, tmp_path):
    collector = Server(tmp_path / "collector")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "shop.py").write_text(APP)
    environ = {"AUDIT_COLLECTOR_URL": collector.url, "AUDIT_TOKEN": READER, "AUDIT_SPOOL_DIR": str(tmp_path / "spool")}
    environ |= {"AUDIT_KEYS": f"k1:{b64url(KEY).decode()}", "AUDIT_SERVICE": "shop"}
    log = tmp_path / "access.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", *(part.format(port=port) for part in SERVERS[server])]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=os.environ | environ, stdout=file, stderr=subprocess.DEVNULL
        )
    try:
        until = time.monotonic() + 20
        for path in ("/orders/1", "/orders/a%20b?secret=1", "/back/door", "/orders/2"):
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
                    break
                except OSError:
                    assert time.monotonic() < until
                    time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(20)
    try:
        said = json.loads(collector.run("reconcile", str(log), "--json").stdout)
        assert [(each["path"], each["status"]) for each in said["requests"]] == [("/back/door", 200)]
        assert (said["lines"], said["recorded"], said["status_differs"]) == (4, 3, 0)
    finally:
        collector.end()
