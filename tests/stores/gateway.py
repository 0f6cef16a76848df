"""An S3 gateway in memory, honest or not: it can ignore what it is told, silently, and fail in every way a network does."""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

PRECONDITION, CHECKSUM, LOCK, VERSIONS = "precondition", "checksum", "lock", "versions"
DELETION, SHORTENING, DOWNGRADE, PROLONGING = "deletion", "shortening", "downgrade", "prolonging"
EVERYTHING = frozenset({PRECONDITION, CHECKSUM, LOCK, VERSIONS, DELETION, SHORTENING, DOWNGRADE})


@dataclass
class Version:
    id: str
    data: bytes | None  # None: a delete marker
    mode: str | None = None
    until: datetime | None = None
    tags: str = ""
    is_held: bool = False
    checksum: str | None = None

    @property
    def is_locked(self) -> bool:
        return self.is_held or (self.until is not None and self.until > datetime.now(UTC))


@dataclass
class Gateway:
    """``ignores`` names what it is told in vain. ``faults`` are used up, one a request; ``fault`` stays.

    "500", "503", "lost" (nothing happens, no answer), "answer lost" (it happens, no answer), "slow" (it happens, too late).
    """

    ignores: frozenset[str] = frozenset()
    has_lock: bool = True
    slowness: float = 0.0
    fault: str | None = None
    faults: deque[str] = field(default_factory=deque)
    objects: dict[str, list[Version]] = field(default_factory=dict)  # oldest version first
    requests: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self):
        self._turn = threading.Lock()
        self._numbers = itertools.count(1)
        handler = type("Bound", (_Handler,), {"gateway": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def next_fault(self):
        with self._turn:
            return self.faults.popleft() if self.faults else self.fault

    def latest(self, key):
        versions = self.objects.get(key)
        return versions[-1] if versions and versions[-1].data is not None else None

    def put(self, key, data, headers):
        with self._turn:
            if headers.get("If-None-Match") == "*" and self.latest(key) and PRECONDITION not in self.ignores:
                return 412, "PreconditionFailed"
            checksum = headers.get("x-amz-checksum-sha256")
            real = base64.b64encode(hashlib.sha256(data).digest()).decode()
            if checksum and checksum != real and CHECKSUM not in self.ignores:
                return 400, "BadDigest"
            version = Version(f"v{next(self._numbers)}", data, tags=headers.get("x-amz-tagging", ""), checksum=checksum)
            mode = headers.get("x-amz-object-lock-mode")
            if mode and not self.has_lock:
                return 400, "InvalidRequest"
            if mode and LOCK not in self.ignores:
                version.mode = mode
                version.until = _time(headers["x-amz-object-lock-retain-until-date"])
            version.is_held = headers.get("x-amz-object-lock-legal-hold") == "ON"
            if VERSIONS in self.ignores:
                self.objects[key] = [version]
            else:
                self.objects.setdefault(key, []).append(version)
            return 200, version

    def find(self, key, version):
        with self._turn:
            if version is None:
                return self.latest(key)
            return next((each for each in self.objects.get(key, []) if each.id == version), None)

    def delete(self, key, version):
        with self._turn:
            versions = self.objects.get(key, [])
            if version is None and VERSIONS not in self.ignores:
                self.objects.setdefault(key, []).append(Version(f"v{next(self._numbers)}", None))
                return 204
            found = next((each for each in versions if version in {each.id, None}), None)
            if found is not None and found.is_locked and DELETION not in self.ignores:
                return 403
            if found is not None:
                versions.remove(found)
            return 204

    def retain(self, key, version, mode, until):
        with self._turn:
            found = next((each for each in self.objects.get(key, []) if each.id == version), None)
            if found is None:
                return 404
            is_shorter = found.until is not None and until < found.until
            is_weaker = found.mode == "COMPLIANCE" and mode != "COMPLIANCE"
            if (is_shorter and SHORTENING not in self.ignores) or (is_weaker and DOWNGRADE not in self.ignores):
                return 403
            if PROLONGING not in self.ignores and LOCK not in self.ignores:
                found.mode, found.until = mode, until
            return 200


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """A client that has hung up is what some of these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    gateway: Gateway

    def log_message(self, *_):
        pass

    def _serve(self):
        url = urlsplit(self.path)
        key = unquote(url.path).lstrip("/").partition("/")[2]
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.gateway.requests.append((self.command, key))
        fault = self.gateway.next_fault()
        if self.gateway.slowness:
            time.sleep(self.gateway.slowness)
        if fault == "lost":
            self.close_connection = True
            return
        if fault in {"500", "503"}:
            self._error(int(fault), "SlowDown" if fault == "503" else "InternalError")
            return
        status, body, headers = self._answer(key, query, data)
        if fault == "slow":
            time.sleep(1)
        if fault == "answer lost":
            self.close_connection = True
            return
        self._send(status, body, headers)

    def do_GET(self):
        self._serve()

    def do_PUT(self):
        self._serve()

    def do_DELETE(self):
        self._serve()

    def _answer(self, key, query, data):
        if self.command == "GET":
            return self._get(key, query)
        gateway = self.gateway
        if self.command == "PUT" and query.keys() & {"retention", "tagging", "legal-hold"}:
            return self._change(key, query, data)
        if self.command == "PUT":
            status, made = gateway.put(key, data, self.headers)
            if status != 200:
                return _problem(status, made)
            return 200, b"", {} if VERSIONS in gateway.ignores else {"x-amz-version-id": made.id}
        status = gateway.delete(key, query.get("versionId"))
        return (status, b"", {}) if status == 204 else _problem(status, "AccessDenied")

    def _change(self, key, query, data):
        texts = {node.tag.rpartition("}")[2]: node.text for node in ET.fromstring(data).iter()}
        if "retention" in query:
            until = _time(texts["RetainUntilDate"])
            status = self.gateway.retain(key, query.get("versionId"), texts["Mode"], until)
            return (status, b"", {}) if status == 200 else _problem(status, "AccessDenied")
        found = self.gateway.find(key, query.get("versionId"))
        if found is None:
            return _problem(404, "NoSuchKey")
        if "legal-hold" in query:
            found.is_held = texts["Status"] == "ON"
            return 200, b"", {}
        found.tags = f"{texts['Key']}={texts['Value']}"
        return 200, b"", {}

    def _get(self, key, query):
        if "versions" in query:
            return 200, self._versions(query), {}
        if "list-type" in query:
            return 200, self._keys(query), {}
        found = self.gateway.find(key, query.get("versionId"))
        if found is None or found.data is None:
            return _problem(404, "NoSuchKey")
        headers = {"x-amz-version-id": found.id, "Content-Type": "application/octet-stream"}
        if found.checksum:
            headers |= {"x-amz-checksum-sha256": found.checksum}
        if found.mode:
            headers |= {"x-amz-object-lock-mode": found.mode}
            headers |= {"x-amz-object-lock-retain-until-date": f"{found.until:%Y-%m-%dT%H:%M:%S}Z"}
        return 200, found.data, headers

    def _versions(self, query):
        """Two to a page, so that every reader has to turn pages."""
        every = []
        for key in sorted(self.gateway.objects):
            if key.startswith(query.get("prefix", "")):
                every += [(key, each) for each in reversed(self.gateway.objects[key])]
        marker = (query.get("key-marker", ""), query.get("version-id-marker", ""))
        start = next((at + 1 for at, (key, each) in enumerate(every) if (key, each.id) == marker), 0)
        page, rest = every[start : start + 2], every[start + 2 :]
        tags = "".join(
            f"<{kind}><Key>{escape(key)}</Key><VersionId>{each.id}</VersionId><IsLatest>false</IsLatest></{kind}>"
            for key, each in page
            for kind in ["Version" if each.data is not None else "DeleteMarker"]
        )
        if rest:
            key, last = page[-1]
            tags += f"<NextKeyMarker>{escape(key)}</NextKeyMarker><NextVersionIdMarker>{last.id}</NextVersionIdMarker>"
        return _xml("ListVersionsResult", f"<IsTruncated>{str(bool(rest)).lower()}</IsTruncated>{tags}")

    def _keys(self, query):
        names = sorted(key for key in self.gateway.objects if self.gateway.latest(key))
        names = [key for key in names if key.startswith(query.get("prefix", ""))]
        start = int(query.get("continuation-token", 0))
        page, rest = names[start : start + 2], names[start + 2 :]
        tags = "".join(f"<Contents><Key>{escape(key)}</Key><Size>1</Size></Contents>" for key in page)
        if rest:
            tags += f"<NextContinuationToken>{start + 2}</NextContinuationToken>"
        return _xml("ListBucketResult", f"<IsTruncated>{str(bool(rest)).lower()}</IsTruncated>{tags}")

    def _error(self, status, code):
        self._send(*_problem(status, code))

    def _send(self, status, body, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Last-Modified", formatdate(usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _problem(status, code):
    return status, _xml("Error", f"<Code>{code}</Code><Message>said the simulator</Message>"), {}


def _xml(name, inner):
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}>{inner}</{name}>'.encode()


def _time(text):
    return datetime.fromisoformat(text)
