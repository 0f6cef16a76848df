"""`HTTPTransport` over real sockets: what it says, what it believes, how long it waits."""

import contextlib
import gzip
import os
import socket
import threading
import time

import pytest

from audit_middleware.errors import DeliveryError
from audit_middleware.shipping.delivery import MAX_ANSWER_BYTES, HTTPTransport

BODY = b"one\ntwo\n"


@pytest.fixture
def transport_to():
    made = []

    def make(*urls, timeout=0.3, **changes):
        transport = HTTPTransport(urls, **({"token": None, "compress": "auto"} | changes))
        transport.read_timeout_s = timeout
        made.append(transport)
        return transport

    yield make
    for transport in made:
        transport.close()


def headers_of(served, number=-1):
    return {name.lower(): value for name, value in served.requests[number][2].items()}


def answering(status=200, body=b"{}", headers=()):
    def handle(request, _body):
        request.send(status, body, headers)
        return True

    return handle


def test_a_batch_is_posted_with_token_type_and_what_was_seen(served, transport_to):
    served.handle = answering()
    transport_to(served.url + "/", token="s3cret").post(BODY, {"a.example/log": 7, "b.example/log": 9})
    method, path, _, body = served.requests[0]
    headers = headers_of(served)
    assert (method, path, body) == ("POST", "/v1/records", BODY)
    assert headers["authorization"] == "Bearer s3cret"
    assert headers["content-type"] == "application/x-ndjson"
    assert headers["audit-tree-size"] == "a.example/log 7, b.example/log 9"
    assert headers["user-agent"].startswith("audit-ready/")


def test_without_token_and_without_sizes_nothing_is_said_of_them(served, transport_to):
    served.handle = answering()
    transport_to(served.url).post(BODY, {})
    assert not {"authorization", "audit-tree-size", "content-encoding"} & set(headers_of(served))


def test_batches_are_compressed_when_told_to_and_not_to_loopback_by_default(served, transport_to):
    served.handle = answering()
    transport_to(served.url, compress="on").post(BODY, {})
    assert headers_of(served)["content-encoding"] == "gzip"
    assert gzip.decompress(served.requests[0][3]) == BODY
    for compress in ("auto", "off"):
        transport_to(served.url, compress=compress).post(BODY, {})
        assert served.requests[-1][3] == BODY


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://localhost:1", False),
        ("http://127.8.8.8:1", False),
        ("http://[::1]:1", False),
        ("http://collector.internal:1", True),
        ("http://192.0.2.1:1", True),
    ],
)
def test_auto_compresses_what_leaves_this_host(url, wanted):
    assert HTTPTransport((url,), token=None)._is_compressing() is wanted


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_answer_and_is_not_followed(served, transport_to, status):
    """A redirect would carry token and records to whoever it names."""
    served.handle = answering(status, headers=[("location", served.url + "/elsewhere")])
    answer = transport_to(served.url, token="s3cret").post(BODY, {})
    assert answer.status == status
    assert len(served.requests) == 1


def test_a_proxy_variable_of_the_application_carries_nothing_elsewhere(served, transport_to, monkeypatch, black_hole):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, black_hole)
    served.handle = answering()
    assert transport_to(served.url).post(BODY, {}).status == 200


def test_who_answers_and_when_to_come_back_is_read(served, transport_to):
    served.handle = answering(503, b"busy", [("retry-after", "12")])
    answer = transport_to(served.url).post(BODY, {})
    assert (answer.status, answer.body, answer.retry_after, answer.is_collector) == (503, b"busy", 12, True)


def test_an_answer_without_end_is_refused(served, transport_to):
    served.handle = answering(body=b"x" * (MAX_ANSWER_BYTES + 1))
    with pytest.raises(DeliveryError, match="more than"):
        transport_to(served.url, timeout=5).post(BODY, {})


def test_a_compressed_answer_without_end_is_refused(served, transport_to):
    served.handle = answering(
        body=gzip.compress(b"x" * (40 * MAX_ANSWER_BYTES)), headers=[("content-encoding", "gzip")]
    )
    with pytest.raises(DeliveryError, match="more than"):
        transport_to(served.url, timeout=5).post(BODY, {})


def test_an_answer_that_drips_is_given_up(served, transport_to):
    def drip(request, _body):
        request.send_response(200)
        request.send_header("content-length", "100000")
        request.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(100):
                request.wfile.write(b"x")
                time.sleep(0.05)
        return True

    served.handle = drip
    began = time.monotonic()
    with pytest.raises(DeliveryError, match="takes too long"):
        transport_to(served.url).post(BODY, {})
    assert time.monotonic() - began < 2


def test_a_black_hole_is_given_up(black_hole, transport_to):
    began = time.monotonic()
    with pytest.raises(DeliveryError, match="Timeout"):
        transport_to(black_hole).post(BODY, {})
    assert time.monotonic() - began < 2


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.mark.parametrize("url", ["refused", "http://collector.invalid:1", "http://[::1", "nonsense", "http://"])
def test_whatever_is_wrong_with_a_url_is_a_delivery_error(transport_to, url):
    url = f"http://127.0.0.1:{closed_port()}" if url == "refused" else url
    with pytest.raises(DeliveryError):
        transport_to(url, compress="off").post(BODY, {})


def half_answers():
    return {
        "reset at once": b"",
        "half a status line": b"HTTP/1.1 2",
        "half a header": b"HTTP/1.1 200 OK\r\ncontent-le",
        "half a body": b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"accepted"',
        "garbage": b"\x16\x03\x01\x00\x00garbage\r\n\r\n",
        "half a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nabc",
        "bad gzip": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd",
    }


@pytest.mark.parametrize("said", half_answers().values(), ids=half_answers().keys())
def test_half_an_answer_is_a_delivery_error(served, transport_to, said):
    def handle(request, _body):
        request.connection.sendall(said)
        request.close_connection = True
        request.connection.shutdown(socket.SHUT_RDWR)
        return True

    served.handle = handle
    with pytest.raises(DeliveryError):
        transport_to(served.url).post(BODY, {})


def hang_up(request, _body):
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)
    return True


def test_it_stays_with_one_url_until_that_fails_and_then_goes_on(served, transport_to):
    served.handle = answering()
    transport = transport_to(f"http://127.0.0.1:{closed_port()}", served.url)
    with pytest.raises(DeliveryError):
        transport.post(BODY, {})
    for _ in range(3):
        assert transport.post(BODY, {}).status == 200
    assert len(served.requests) == 3
    served.handle = hang_up
    with pytest.raises(DeliveryError):
        transport.post(BODY, {})
    with pytest.raises(DeliveryError, match="Connect"):
        transport.post(BODY, {})
    served.handle = answering()
    assert transport.post(BODY, {}).status == 200


def test_connections_are_made_anew_after_five_failures_and_none_is_leaked(served, transport_to):
    transport = transport_to(f"http://127.0.0.1:{closed_port()}")
    clients = set()
    for _ in range(5):
        with pytest.raises(DeliveryError):
            transport.post(BODY, {})
        clients.add(id(transport._client))
    assert transport._client is None
    before = len(os.listdir("/proc/self/fd"))
    served.handle = answering(body=b"x" * (MAX_ANSWER_BYTES + 1))
    transport = transport_to(served.url, timeout=5)
    for _ in range(6):
        with pytest.raises(DeliveryError):
            transport.post(BODY, {})
    transport.close()
    deadline = time.monotonic() + 3
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_one_connection_serves_many_batches(served, transport_to):
    ports = set()

    def handle(request, _body):
        ports.add(request.client_address[1])
        request.send(200, b"{}")
        return True

    served.handle = handle
    transport = transport_to(served.url, timeout=5)
    for _ in range(5):
        transport.post(BODY, {})
    assert len(ports) == 1


def test_log_keys_are_asked_of_a_collector_only(served, transport_to):
    transport = transport_to(served.url, timeout=5)
    assert transport.log_keys() == [served.collector.vkey]
    served.handle = answering(404)
    with pytest.raises(DeliveryError, match="is this a collector"):
        transport.log_keys()

    def portal(request, _body):
        request.send_response(200)
        request.send_header("content-length", "5")
        request.end_headers()
        request.wfile.write(b"hello")
        return True

    served.handle = portal
    with pytest.raises(DeliveryError, match="is this a collector"):
        transport.log_keys()


def test_no_thread_is_left_by_a_transport(transport_to, served):
    before = threading.active_count()
    served.handle = answering()
    transport = transport_to(served.url)
    transport.post(BODY, {})
    transport.close()
    time.sleep(0.05)
    assert threading.active_count() <= before + 1  # the server's thread for this connection
