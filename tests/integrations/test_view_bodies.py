"""The fields of a body that a view names in `@audited`, under every framework."""

import io
import json

import pytest
from fastapi import FastAPI, Request
from flask import Flask
from flask import request as flask_request
from starlette.testclient import TestClient

from audit_integrations.flask import Audit
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, audited
from audit_middleware.capture import ROUTE
from audit_middleware.capture.body import MAX_BODY
from tests.capture.kit import records

FIELDS = audited(body=["amount", "customer.id", "tags"])


def body_fastapi(pipeline):
    app = FastAPI()

    @app.post("/raw")
    @FIELDS
    async def raw(request: Request):
        return len(await request.body())

    app.post("/form")(raw)

    @app.post("/unread")
    @FIELDS
    def unread():
        return "ok"

    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    client = TestClient(app)
    return lambda path, body, kind: client.post(path, content=body, headers={"content-type": kind}).status_code


def body_flask(pipeline):
    app = Flask("shop")

    @app.post("/raw")
    @FIELDS
    def raw():
        return str(len(flask_request.get_data()))

    @app.post("/form")
    @FIELDS
    def form():
        return flask_request.form["amount"]

    @app.post("/unread")
    @FIELDS
    def unread():
        return "ok"

    Audit(app, pipeline=pipeline)
    return lambda path, body, kind: app.test_client().post(path, data=body, content_type=kind).status_code


def body_wsgi(pipeline):
    """An application that reads line by line."""

    @FIELDS
    def app(environ, start_response):
        if environ["PATH_INFO"] != "/unread":
            first = environ["wsgi.input"].readline()
            rest = [*environ["wsgi.input"], *environ["wsgi.input"].readlines()]
            assert first or not rest
        start_response("200 OK", [])
        return [b"ok"]

    wrapped = AuditWSGIMiddleware(app, pipeline=pipeline)

    def call(path, body, kind):
        stream = io.BytesIO(body)
        environ = {
            "REQUEST_METHOD": "POST", "PATH_INFO": path, "wsgi.input": stream, "CONTENT_TYPE": kind,
            "REMOTE_ADDR": "10.1.2.3", ROUTE: (path, {}),
        }  # fmt: skip
        list(wrapped({**environ, "CONTENT_LENGTH": str(len(body))}, lambda *_: None))
        return 200

    return call


def body_django(pipeline):
    from django.test import Client

    return lambda path, body, kind: Client().generic("POST", f"/rules{path}", body, content_type=kind).status_code


BODY_ADAPTERS = [body_fastapi, body_flask, body_wsgi, body_django]
JSON = b'{"amount": 12.50, "customer": {"id": 7, "name": "Eve"}, "secret": "s3cret"}'
MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="amount"\r\n\r\n12.50\r\n'
    b'--x\r\nContent-Disposition: form-data; name="secret"\r\n\r\ns3cret\r\n'
    b'--x\r\nContent-Disposition: form-data; name="tags"; filename="t.txt"\r\n\r\ns3cret\r\n--x--\r\n'
)
ENCODED = b"amount=12.50&secret=s3cret&tags=a&tags=b%20c"


@pytest.mark.parametrize("adapter", BODY_ADAPTERS)
@pytest.mark.parametrize(
    ("path", "kind", "body", "recorded"),
    [
        ("/raw", "application/json; charset=utf-8", JSON, {"amount": "12.50", "customer.id": 7}),
        ("/raw", "application/problem+json", b'{"tags": [1, true, null]}', {"tags": [1, True, None]}),
        ("/form", "application/x-www-form-urlencoded", ENCODED, {"amount": ["12.50"], "tags": ["a", "b c"]}),
        ("/form", "multipart/form-data; boundary=x", MULTIPART, {"amount": ["12.50"]}),
        ("/raw", "application/json", b'{"secret": "s3cret"}', None),
        ("/raw", "application/json", b"[1, 2]", None),
        ("/raw", "application/json", b"", None),
    ],
)
def test_the_fields_a_view_names_are_recorded_and_no_others(audit, tmp_path, adapter, path, kind, body, recorded):
    pipeline, _ = audit()
    assert adapter(pipeline)(path, body, kind) == 200
    (record,) = records(tmp_path)
    assert record.get("details") == ({"body": recorded} if recorded else None)
    assert record.get("defects") is None
    assert "s3cret" not in json.dumps(record)


@pytest.mark.parametrize("adapter", BODY_ADAPTERS)
@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/raw", "application/json", b'{"amount": '),
        ("/raw", "application/json", b'{"amount": "\xff"}'),
        ("/raw", "application/json", b"[" * 5000),
        ("/raw", "application/json", b'{"amount": "' + b"x" * MAX_BODY + b'"}'),
        ("/raw", "application/octet-stream", b"\x00\x01"),
        ("/raw", "", b"amount=1"),
        ("/raw", "multipart/form-data", b"amount=1"),
        ("/raw", "application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(2000))),
    ],
)
def test_a_body_that_cannot_be_read_is_a_defect_and_no_error(audit, tmp_path, adapter, path, kind, body):
    pipeline, _ = audit()
    assert adapter(pipeline)(path, body, kind) == 200
    (record,) = records(tmp_path)
    assert record["defects"] == ["details.body"]
    assert "details" not in record


@pytest.mark.parametrize("adapter", [body_flask, body_wsgi, body_fastapi])
def test_a_body_that_the_view_did_not_read_is_not_read_for_it(audit, tmp_path, adapter):
    pipeline, _ = audit()
    adapter(pipeline)("/unread", JSON, "application/json")
    (record,) = records(tmp_path)
    assert record["defects"] == ["details.body"]


def test_django_rest_framework_parses_what_was_read_before_it(audit, tmp_path):
    from django.test import Client

    audit()
    for kind, body in (("application/json", b'{"amount": 5}'), ("multipart/form-data; boundary=x", MULTIPART)):
        response = Client().generic("POST", "/rules/api", body, content_type=kind)
        assert response.status_code == 200
        assert "amount" in response.json()
    assert [record["details"]["body"] for record in records(tmp_path)] == [{"amount": 5}, {"amount": ["12.50"]}]


def test_a_form_that_the_csrf_check_has_parsed_is_on_record(audit, tmp_path):
    from django.test import Client

    audit()
    client = Client(enforce_csrf_checks=True)
    token = client.get("/rules/csrf").content.decode()
    field = b'--x\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\n' + token.encode() + b"\r\n"
    response = client.generic("POST", "/rules/csrf", field + MULTIPART, content_type="multipart/form-data; boundary=x")
    assert response.status_code == 200
    assert records(tmp_path)[-1]["details"] == {"body": {"amount": ["12.50"]}}
