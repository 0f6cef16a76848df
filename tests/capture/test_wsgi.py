"""The WSGI adapter, call by call (PEP 3333): what is observed, what is handed on, and in which order."""

import errno
import io
import sys
import threading
from functools import partial
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from werkzeug.test import Client

from audit_middleware import AuditWSGIMiddleware, current_audit
from audit_middleware.errors import JournalError
from audit_middleware.journal.files import Files
from tests.capture.kit import journal_lines, make_pipeline, records


class Server:
    """What a server does with an app, step by step; notes how many records there are whenever a byte would leave."""

    def __init__(self, folder, app, *, identify=None, pipeline=None, **settings):
        self.folder = folder
        self.pipeline = pipeline or make_pipeline(folder, **settings)
        self.middleware = AuditWSGIMiddleware(app, pipeline=self.pipeline, identify=identify)
        self.status = None
        self.headers = []
        self.sent = []
        self.on_record = []

    def environ(self, method="GET", path="/", headers=None, **more):
        environ = {
            "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "", "REMOTE_ADDR": "10.1.2.3",
            "REMOTE_PORT": "4711", "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr,
            "wsgi.multithread": True, "wsgi.multiprocess": True, "wsgi.run_once": False,
        }  # fmt: skip
        named = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in (headers or {}).items()}
        return {**environ, **named, **more}

    def start_response(self, status, headers, exc_info=None):
        if exc_info is not None and self.sent:
            raise exc_info[1]
        assert exc_info is not None or self.status is None, "start_response twice without exc_info"
        self.status, self.headers = status, headers
        return self.send

    def send(self, data):
        self.on_record.append(len(self.records))
        self.sent.append(data)

    def __call__(self, environ=None, *, chunks=None):
        self.status, self.sent, self.on_record = None, [], []
        result = self.middleware(environ or self.environ(), self.start_response)
        try:
            for number, chunk in enumerate(result):
                if chunks is not None and number >= chunks:
                    break
                self.send(chunk)
            self.on_record.append(len(self.records))
        finally:
            if hasattr(result, "close"):
                result.close()
        return b"".join(self.sent)

    @property
    def records(self):
        return records(self.folder)

    @property
    def record(self):
        (record,) = self.records
        return record


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def test_a_response_becomes_one_record_with_every_required_member(tmp_path):
    server = Server(tmp_path, hello)
    assert server(server.environ(path="/greet", headers={"User-Agent": "curl/8"})) == b"hello"
    record = server.record
    assert record["service"] == "orders"
    assert record["principal"] == {"id": "anonymous", "type": "anonymous", "auth": "none"}
    assert record["source"] == {
        "ip": "10.1.2.3", "verdict": "peer", "peer": "10.1.2.3", "port": 4711, "user_agent": "curl/8",
    }  # fmt: skip
    assert record["outcome"] == "success"
    assert record["http"]["path"] == "/greet"
    assert record["http"]["status"] == 200
    assert record["http"]["response_bytes"] == 5
    assert record["http"]["ended"] == "complete"
    assert record["defects"] == ["http.route"]
    assert ("X-Request-ID", record["trace"]["request_id"]) in server.headers


def test_the_record_is_there_before_the_last_byte_however_a_response_is_made(tmp_path):
    def whole(environ, start_response):
        start_response("200 OK", [])
        return [b"a", b"b"]

    def declared(environ, start_response):
        start_response("200 OK", [("Content-Length", "3")])
        yield b"a"
        yield b"bc"
        yield b""

    def endless(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        yield b"b"

    def written(environ, start_response):
        write = start_response("200 OK", [("Content-Length", "2")])
        write(b"a")
        write(b"b")
        return []

    def empty(environ, start_response):
        start_response("200 OK", [("Content-Length", "0")])
        return iter([b""])

    seen = {}
    for app in (whole, declared, endless, written, empty):
        server = Server(tmp_path / app.__name__, app)
        server()
        seen[app.__name__] = server.on_record
        assert len(server.records) == 1
    assert seen == {
        "whole": [1, 1, 1], "declared": [0, 1, 1, 1], "endless": [0, 0, 1], "written": [0, 1, 1], "empty": [1, 1],
    }  # fmt: skip


def test_head_is_complete_with_its_headers(tmp_path):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        yield b"hello"

    server = Server(tmp_path, app)
    server(server.environ(method="HEAD"))
    assert server.on_record == [1, 1]
    assert server.record["http"]["response_bytes"] == 0
    assert server.record["http"]["ended"] == "complete"


def test_a_server_that_never_reads_the_body_of_a_head_leaves_a_complete_record(tmp_path):
    def app(environ, start_response):
        start_response("200 OK", [])
        return iter([b"hello"])

    server = Server(tmp_path, app)
    server(server.environ(method="HEAD"), chunks=0)
    assert server.record["http"]["ended"] == "complete"


def test_a_generator_is_streamed_and_its_first_chunk_is_not_delayed(tmp_path):
    made = []

    def app(environ, start_response):
        start_response("200 OK", [])
        for number in range(3):
            made.append(number)
            yield b"x" * 10

    server = Server(tmp_path, app)
    result = server.middleware(server.environ(), server.start_response)
    assert made == []
    assert next(result) == b"x" * 10
    assert made == [0]
    result.close()
    assert server.record["http"]["ended"] == "disconnected"
    assert server.record["http"]["response_bytes"] == 10


def test_the_iterable_is_closed_once_and_before_the_record_says_how_it_ended(tmp_path):
    closed = []

    class Result:
        def __iter__(self):
            return iter([b"a", b"b"])

        def close(self):
            closed.append(current_audit().request_id)

    def app(environ, start_response):
        start_response("200 OK", [])
        return Result()

    server = Server(tmp_path, app)
    server()
    assert closed == [server.record["trace"]["request_id"]]


def test_an_exception_is_recorded_and_raised(tmp_path):
    def app(environ, start_response):
        raise ValueError("secret")

    server = Server(tmp_path, app)
    with pytest.raises(ValueError, match="secret"):
        server()
    record = server.record
    assert (record["http"]["status"], record["http"]["ended"], record["reason"]) == (500, "exception", "ValueError")
    assert record["outcome"] == "failure"


def test_an_exception_while_iterating_or_closing_is_recorded_and_raised(tmp_path):
    class Result:
        def __init__(self, *, fails_in):
            self.fails_in = fails_in

        def __iter__(self):
            yield b"a"
            if self.fails_in == "next":
                raise OSError
            yield b"b"

        def close(self):
            if self.fails_in == "close":
                raise KeyError

    for number, fails_in in enumerate(("next", "close")):

        def app(environ, start_response, fails_in=fails_in):
            start_response("200 OK", [])
            return Result(fails_in=fails_in)

        server = Server(tmp_path / str(number), app)
        with pytest.raises((OSError, KeyError)):
            server(chunks=None if fails_in == "next" else 1)
        assert server.record["http"]["ended"] == "exception"
        assert server.record["outcome"] == "failure"


@pytest.mark.parametrize("result", [[], [b"a"], iter([b"a"])])
@pytest.mark.parametrize("status", [None, "abc"])
def test_an_answer_without_a_status_is_a_failure_and_a_defect(tmp_path, status, result):
    """Servers answer 500, or "HTTP/1.1 None", or the bare body."""

    def app(environ, start_response):
        if status is not None:
            start_response(status, [])
        return result

    server = Server(tmp_path, app)
    server()
    record = server.record
    assert (record["http"].get("status"), record["outcome"]) == (None, "failure")
    assert "http.status" in record["defects"]


def test_a_client_that_leaves_before_there_is_an_answer_is_no_defect(tmp_path):
    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"a"

    server = Server(tmp_path, app)
    server.middleware(server.environ(), server.start_response).close()
    record = server.record
    assert (record["http"].get("status"), record["http"]["ended"]) == (None, "disconnected")
    assert "http.status" not in record.get("defects", [])


def test_start_response_twice_with_exc_info_replaces_the_status(tmp_path):
    def app(environ, start_response):
        start_response("200 OK", [])
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    server = Server(tmp_path, app)
    assert server() == b"sorry"
    assert server.status == "500 Oops"
    assert server.record["http"]["status"] == 500
    assert [name for name, _ in server.headers] == ["Content-Type", "X-Request-ID"]


def test_start_response_after_the_headers_were_sent_raises_and_keeps_the_status(tmp_path):
    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        try:
            raise ValueError("late")
        except ValueError:
            start_response("500 Oops", [], sys.exc_info())

    server = Server(tmp_path, app)
    with pytest.raises(ValueError, match="late"):
        server()
    assert server.record["http"]["status"] == 200
    assert server.record["http"]["ended"] == "exception"


@pytest.mark.parametrize("wrapper", [FileWrapper, partial(FileWrapper)])
def test_the_servers_file_wrapper_gets_its_file_back_untouched(tmp_path, wrapper):
    """gunicorn's is a class, which it asks isinstance of; uWSGI's is a function."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "7")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"content"), 4)

    server = Server(tmp_path, app)
    environ = server.environ(**{"wsgi.file_wrapper": wrapper})
    result = server.middleware(environ, server.start_response)
    assert type(result) is FileWrapper
    assert not isinstance(wrapper, type) or environ["wsgi.file_wrapper"] is wrapper
    assert server.record["http"]["response_bytes"] == 7
    result.close()


@pytest.mark.parametrize("wrapper", [FileWrapper, partial(FileWrapper)])
@pytest.mark.parametrize(("is_file", "counted"), [(True, 7), (False, 0)])
def test_what_a_server_sends_of_a_file_without_a_length_is_counted_if_it_can_be_told(
    tmp_path, wrapper, is_file, counted
):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    opened = path.open("rb") if is_file else io.BytesIO(b"0123456789")
    opened.seek(3)

    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](opened)

    server = Server(tmp_path / "spool", app)
    result = server.middleware(server.environ(**{"wsgi.file_wrapper": wrapper}), server.start_response)
    assert b"".join(result) == b"3456789"
    assert server.record["http"]["response_bytes"] == counted
    result.close()


def test_lists_keep_their_length_for_servers_that_declare_it(tmp_path):
    server = Server(tmp_path, hello)
    assert server.middleware(server.environ(), server.start_response) == [b"hello"]


def test_the_applications_own_request_id_is_replaced(tmp_path):
    def app(environ, start_response):
        start_response("200 OK", [("x-request-id", "mine"), ("X-Other", "1")])
        return []

    server = Server(tmp_path, app)
    server(server.environ(headers={"X-Request-ID": "theirs"}))
    assert server.headers == [("X-Other", "1"), ("X-Request-ID", server.record["trace"]["request_id"])]
    assert server.record["trace"]["client_request_id"] == "theirs"


def test_an_unsafe_request_is_on_record_before_the_app_runs(tmp_path):
    def app(environ, start_response):
        assert records(tmp_path, "attempt")
        return hello(environ, start_response)

    server = Server(tmp_path, app)
    server(server.environ(method="POST", CONTENT_LENGTH="12"))
    (attempt,) = [line for line in journal_lines(tmp_path) if line["type"] == "attempt"]
    assert server.record["attempt"] == attempt["seq"]
    assert server.record["http"]["request_bytes"] == 12


class FullFiles(Files):
    """A disk that is full whenever ``is_full``."""

    is_full = False

    def write(self, fd, data):
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(fd, data)


def full_pipeline(tmp_path, **settings):
    files = FullFiles()
    return make_pipeline(tmp_path, files=files, spool_min_free=0, **settings), files


@pytest.mark.parametrize(
    ("policy", "method", "runs"),
    [("auto", "POST", False), ("auto", "GET", True), ("allow", "POST", True), ("deny", "GET", False)],
)
def test_a_full_disk_refuses_what_policy_denies_before_the_app_runs(tmp_path, policy, method, runs):
    ran = []

    def app(environ, start_response):
        ran.append(True)
        return hello(environ, start_response)

    pipeline, files = full_pipeline(tmp_path, on_failure=policy)
    server = Server(tmp_path, app, pipeline=pipeline)
    server()
    files.is_full = True
    server(server.environ(method=method))  # the first one may find out only when it is done
    ran.clear()
    body = server(server.environ(method=method))
    assert bool(ran) is runs
    if not runs:
        assert server.status == "503 Service Unavailable"
        assert b"not carried out" in body


@pytest.mark.parametrize("kind", ["whole", "declared", "endless"])
def test_an_answer_whose_record_is_lost_is_withheld_under_deny(tmp_path, kind):
    pipeline, files = full_pipeline(tmp_path, on_failure="deny")

    def app(environ, start_response):
        files.is_full = environ["PATH_INFO"] == "/full"
        start_response("200 OK", [] if kind == "endless" else [("Content-Length", "5")])
        return [b"hello"] if kind == "whole" else iter([b"hello"])

    server = Server(tmp_path, app, pipeline=pipeline)
    assert server() == b"hello"
    if kind == "whole":
        assert b"withheld" in server(server.environ(path="/full"))
        assert server.status == "503 Service Unavailable"
    else:
        with pytest.raises(JournalError, match="withheld"):
            server(server.environ(path="/full"))


def test_mode_fsync_hands_on_the_last_byte_after_the_sync(tmp_path):
    pipeline, _ = full_pipeline(tmp_path, durability="fsync")
    server = Server(tmp_path, hello, pipeline=pipeline)
    server()
    assert pipeline.recorder.synced.wait(0, 0)


@pytest.mark.parametrize(
    "strange",
    [
        {"REQUEST_METHOD": "FOO"},
        {"PATH_INFO": "/%zz/\xff\xfe"},
        {"PATH_INFO": "/\udc80"},
        {"HTTP_USER_AGENT": "x" * 65536},
        {"HTTP_USER_AGENT": "\u20ac\udcff"},
        {"HTTP_X_FORWARDED_FOR": ",,, ;;;"},
        {"HTTP_FORWARDED": "for=_hidden;;;=\x00"},
        {"HTTP_TRACEPARENT": "00-nonsense"},
        {"CONTENT_LENGTH": "many"},
        {"REMOTE_ADDR": "", "REMOTE_PORT": "x"},
    ],
)
def test_strange_requests_are_served_and_recorded(tmp_path, strange):
    server = Server(tmp_path, hello, trusted_proxies="10.0.0.0/8")
    assert server({**server.environ(), **strange}) == b"hello"
    assert server.record["http"]["status"] == 200


def test_a_path_of_bytes_that_are_no_text_is_replaced_and_named(tmp_path):
    server = Server(tmp_path, hello)
    server(server.environ(path="/caf\xe9/\xff"))
    assert server.record["http"]["path"] == "/caf\ufffd/\ufffd"
    assert "http.path" in server.record["defects"]


def test_a_missing_environ_variable_is_no_error(tmp_path):
    server = Server(tmp_path, hello)
    environ = server.environ()
    for name in ("REMOTE_ADDR", "REMOTE_PORT", "QUERY_STRING", "SCRIPT_NAME"):
        del environ[name]
    assert server(environ) == b"hello"
    assert server.record["source"]["ip"] == "unknown"


def test_the_path_is_the_one_the_client_sent_with_the_mount_point(tmp_path):
    server = Server(tmp_path, hello)
    server(server.environ(path="/caf\xc3\xa9", SCRIPT_NAME="/shop"))
    assert server.record["http"]["path"] == "/shop/café"


def test_current_audit_speaks_for_the_request_in_the_app_and_in_its_generator(tmp_path):
    def app(environ, start_response):
        current_audit().principal = "alice"
        start_response("200 OK", [])

        def chunks():
            current_audit().action = "orders.export"
            yield b"a"

        return chunks()

    server = Server(tmp_path, app)
    server()
    assert server.record["principal"]["id"] == "alice"
    assert server.record["action"] == "orders.export"
    assert current_audit().request_id == ""


def test_current_audit_can_name_the_route_of_a_framework_we_do_not_know(tmp_path):
    def app(environ, start_response):
        current_audit().route = "/orders/{id}"
        return hello(environ, start_response)

    server = Server(tmp_path, app)
    server(server.environ(path="/orders/7"))
    assert server.record["action"] == "GET /orders/{id}"


def test_identify_names_the_principal_and_may_hang_or_raise(tmp_path, monkeypatch):
    monkeypatch.setattr("audit_middleware.capture.identify.IDENTIFY_TIMEOUT_S", 0.05)
    released = threading.Event()
    named = Server(tmp_path / "named", hello, identify=lambda environ: environ["REMOTE_ADDR"])
    named()
    assert named.record["principal"]["id"] == "10.1.2.3"
    for name, identify in {"hangs": lambda environ: released.wait(30), "raises": lambda environ: environ["no"]}.items():
        server = Server(tmp_path / name, hello, identify=identify)
        assert server() == b"hello"
        assert "principal.id" in server.record["defects"]
    released.set()


def test_a_middleware_inside_another_stays_silent(tmp_path):
    inner = AuditWSGIMiddleware(hello, pipeline=make_pipeline(tmp_path / "inner"))
    server = Server(tmp_path, inner)
    server()
    assert len(server.records) == 1
    assert not (tmp_path / "inner" / "spool").exists()


def test_it_is_a_valid_wsgi_app_and_a_valid_wsgi_server(tmp_path):
    """The standard library's validator on both sides of us."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"a", b"b"])

    server = Server(tmp_path, validator(app))
    server.middleware = validator(server.middleware)
    environ = {**server.environ(), "HTTP_HOST": "localhost"}
    assert server(environ) == b"ab"
    assert server.record["http"]["status"] == 200


def test_the_allow_list_of_query_parameters_holds(tmp_path):
    server = Server(tmp_path, hello, query_parameters="page")
    server(server.environ(QUERY_STRING="page=2&token=secret"))
    assert server.record["details"] == {"query": {"page": ["2"]}}


def test_a_long_stream_keeps_memory_flat(tmp_path):
    chunk = b"x" * 65536

    def app(environ, start_response):
        start_response("200 OK", [])
        for _ in range(400):
            yield chunk

    server = Server(tmp_path, app)
    total = sum(len(data) for data in server.middleware(server.environ(), server.start_response))
    assert total == server.record["http"]["response_bytes"] == 400 * 65536


def test_an_app_whose_class_cannot_be_asked_for_is_wrapped_and_recorded_all_the_same(tmp_path):
    class Lazy:
        @property
        def __class__(self):
            raise RuntimeError("not ready")

        def __call__(self, environ, start):
            start("200 OK", [])
            return [b"done"]

    assert Client(AuditWSGIMiddleware(Lazy(), pipeline=make_pipeline(tmp_path))).get("/").text == "done"
    assert [record["http"]["status"] for record in records(tmp_path)] == [200]
