"""Receivers on loopback that fail as networks do, both ways: what was sent is lost, or taken and not confirmed."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

ANSWERS = {
    "/slack": (200, b"ok"),
    "/pagerduty": (202, b'{"status":"success","message":"Event processed"}'),
}


class Request(NamedTuple):
    method: str
    path: str
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class HttpReceiver:
    """``faults`` are taken one for each request: lost, unanswered, slow, garbage, redirect, or a status."""

    def __init__(self):
        self.taken = []
        self.faults = []
        self.attempts = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                receiver._handle(self)

            def do_GET(self):
                receiver._handle(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, is_enough, seconds=10.0):
        until = time.monotonic() + seconds
        while not is_enough(self):
            assert time.monotonic() < until, [request.body[:300] for request in self.taken]
            time.sleep(0.02)

    def _handle(self, handler):
        self.attempts += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault == "lost":
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        if fault is None or fault in {"unanswered", "slow"}:
            self.taken.append(Request(handler.command, handler.path, dict(handler.headers.items()), body))
        with contextlib.suppress(OSError):
            self._answer(handler, fault)

    def _answer(self, handler, fault):
        status, content = ANSWERS.get(handler.path, (200, b"{}"))
        if fault == "unanswered":
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "slow":
            time.sleep(1.0)
        if fault == "garbage":
            handler.wfile.write(b"\x00\xff not HTTP at all\r\n\r\n")
            return
        handler.send_response(302 if fault == "redirect" else fault if isinstance(fault, int) else status)
        if fault == "redirect":
            handler.send_header("Location", f"{self.url}/elsewhere")
        if fault is not None and fault != "slow":
            content = b"no \x1b[31m" + handler.headers.get("authorization", "").encode()
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


class MailReceiver:
    """Speaks as much SMTP as smtplib asks for; STARTTLS if ``certificate`` is given."""

    def __init__(self, certificate=None, fault=None):
        self.mails = []
        self.logins = []
        self.fault = fault
        receiver, context = self, None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                with contextlib.ExitStack() as opened, contextlib.suppress(OSError, ssl.SSLError):
                    receiver._talk(self.request, context, opened)

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def port(self):
        return self._server.server_address[1]

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _talk(self, connection, context, opened):
        reader, is_secret = opened.enter_context(connection.makefile("rb")), False

        def say(text):
            connection.sendall(text.encode() + b"\r\n")

        say("220 loopback")
        while line := reader.readline():
            command = line.split()[0].upper() if line.split() else b""
            if command == b"EHLO":
                say(
                    "250-loopback\r\n250-AUTH PLAIN"
                    + ("\r\n250 STARTTLS" if context and not is_secret else "\r\n250 OK")
                )
            elif command == b"STARTTLS":
                say("220 go on")
                secret = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                connection = opened.enter_context(secret)
                connection.do_handshake()
                reader, is_secret = opened.enter_context(connection.makefile("rb")), True
            elif command == b"AUTH":
                self.logins.append((is_secret, line.split()[-1]))
                say("535 no" if self.fault == "login" else "235 welcome")
            elif command == b"DATA":
                say("354 go on")
                mail = b""
                while (part := reader.readline()) not in {b".\r\n", b""}:
                    mail += part
                if self.fault == "lost":
                    connection.close()
                    return
                self.mails.append(mail)
                if self.fault == "unanswered":
                    self.fault = None
                    connection.shutdown(socket.SHUT_RDWR)
                    return
                say("250 taken")
            elif command == b"RCPT" and self.fault == "refuses":
                say("550 nobody of that name")
            elif command == b"QUIT":
                say("221 bye")
                return
            else:
                say("250 OK")
