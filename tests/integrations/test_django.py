"""Django through its own test clients, as WSGI and as ASGI: routes, users, streams, signals, checks."""

import base64
import io
import json
import os

import pytest

from audit_middleware import ConfigurationError
from tests.capture.kit import KEYS, make_pipeline, records

pytestmark = pytest.mark.usefixtures("django_project")


@pytest.fixture
def project(tmp_path):
    """The project's settings with a spool of this test, which may be changed further."""
    from django.test import override_settings

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path)}):
        yield


@pytest.fixture
def client(project):
    from django.test import Client

    return Client(raise_request_exception=False)


@pytest.fixture
def async_client(project):
    from django.test import AsyncClient

    return AsyncClient(raise_request_exception=False)


def record_of(tmp_path):
    (record,) = records(tmp_path)
    return record


def test_the_resolvers_route_and_arguments_name_action_and_resource(client, tmp_path):
    response = client.get("/orders/7/", headers={"User-Agent": "curl/8"})
    record = record_of(tmp_path)
    assert record["action"] == "GET /orders/<int:pk>/"
    assert record["resource"] == {"type": "orders", "id": "7"}
    assert record["source"]["ip"] == "127.0.0.1"
    assert record["http"]["response_bytes"] == 1
    assert response["X-Request-ID"] == record["trace"]["request_id"]
    assert "defects" not in record


def test_a_path_beyond_ascii_is_on_record_as_it_was_asked_for(client, tmp_path):
    from django.core.handlers.asgi import ASGIHandler
    from starlette.testclient import TestClient

    path = "/v1/caf\u00e9/\u20ac/\U0001f600"
    client.get(path)
    TestClient(ASGIHandler()).get(path)  # Django's own client leaves bytes in the scope, which no server does
    client.get("/items", SCRIPT_NAME="/\u00fc".encode().decode("latin-1"))
    client.get("/broken/%FF")
    said = [(record["http"]["path"], record.get("defects")) for record in records(tmp_path)]
    assert said == [(path, None), (path, None), ("/\u00fc/items", None), ("/broken/%FF", None)]


def test_a_regular_expression_becomes_a_template(client, tmp_path):
    client.get("/v1/items/7/")
    record = record_of(tmp_path)
    assert record["http"]["route"] == "/v1/items/<pk>/"
    assert record["resource"] == {"type": "v1/items", "id": "7"}


def test_what_no_route_takes_is_known_and_no_defect(client, tmp_path):
    for path in ("/nowhere/", "/hello"):
        client.get(path)
    said = [(r["http"]["status"], r["http"]["route"], r.get("defects")) for r in records(tmp_path)]
    assert said == [(404, "none", None), (301, "none", None)]


def test_the_signed_in_user_is_the_principal_also_where_no_view_asks(client, tmp_path):
    client.login(username="alice", password="alice")
    client.get("/hello/")
    client.get("/v1/whoami")
    assert [r["principal"] for r in records(tmp_path)] == [{"id": "alice", "type": "user", "auth": "session"}] * 2


def test_an_unsafe_request_of_a_superuser_is_privileged_and_attempted(client, tmp_path):
    client.login(username="root", password="root")
    client.post("/orders/7/", data="x" * 9, content_type="text/plain")
    record = record_of(tmp_path)
    assert record["principal"]["privileged"] is True
    assert record["http"]["request_bytes"] == 9
    assert records(tmp_path, "attempt")


def test_without_a_session_nobody_asks_the_database(client, tmp_path):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as queries:
        client.get("/hello/")
    assert len(queries) == 0
    assert record_of(tmp_path)["principal"]["id"] == "anonymous"


def test_rest_frameworks_user_is_known_though_it_authenticates_in_the_view(client, tmp_path):
    basic = "Basic " + base64.b64encode(b"alice:alice").decode()
    client.get("/api/7", headers={"Authorization": basic})
    client.get("/api/7")
    said = [(r["outcome"], r["principal"]["id"], r["principal"]["auth"]) for r in records(tmp_path)]
    assert said == [("success", "alice", "basic"), ("denied", "anonymous", "none")]


def test_an_impersonator_acts_and_the_impersonated_is_named(client, tmp_path):
    client.login(username="root", password="root")
    client.get("/impersonated")
    principal = record_of(tmp_path)["principal"]
    assert (principal["id"], principal["on_behalf_of"]) == ("root", "victim")


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/impersonated-unasked", "/async-impersonated-unasked"])
async def test_an_impersonator_nobody_has_read_yet_is_read_where_the_database_may_be_asked(
    async_client, tmp_path, path
):
    await async_client.alogin(username="root", password="root")
    await async_client.get(path)
    principal = record_of(tmp_path)["principal"]
    assert (principal["id"], principal["on_behalf_of"]) == ("root", "victim")


@pytest.mark.anyio
async def test_a_lazy_user_of_the_projects_own_is_known_once_the_view_looked_at_it(client, async_client, tmp_path):
    client.get("/lazily-signed-in")
    await async_client.get("/lazily-signed-in")
    assert [record["principal"]["id"] for record in records(tmp_path)] == ["bearer", "bearer"]


def test_what_the_view_says_wins(client, tmp_path):
    client.login(username="alice", password="alice")
    client.post("/orders/7/refund")
    record = record_of(tmp_path)
    assert (record["principal"]["id"], record["action"], record["resource"]["type"]) == (
        "carol", "orders.refund", "order",
    )  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "status", "ended", "reason"),
    [
        ("/broken", 500, "exception", "KeyError"),
        ("/denied", 403, "complete", None),
        ("/missing", 404, "complete", None),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_errors_are_what_the_client_gets(client, async_client, tmp_path, kind, path, status, ended, reason):
    from asgiref.sync import sync_to_async

    response = await (sync_to_async(client.get)(path) if kind == "sync" else async_client.get(path))
    record = record_of(tmp_path)
    assert response.status_code == record["http"]["status"] == status
    assert (record["http"]["ended"], record.get("reason")) == (ended, reason)
    assert record["http"]["route"] == path


def test_a_stream_is_recorded_at_its_end_and_counted(client, tmp_path):
    response = client.get("/stream")
    chunks = iter(response.streaming_content)
    assert next(chunks) == b"0\n"
    assert records(tmp_path) == []
    assert len(list(chunks)) == 2
    record = record_of(tmp_path)
    assert (record["http"]["response_bytes"], record["details"]) == (6, {"lines": 3})


def test_a_stream_the_client_leaves_is_disconnected(client, tmp_path):
    response = client.get("/stream")
    next(iter(response.streaming_content))
    response.close()
    assert record_of(tmp_path)["http"]["ended"] == "disconnected"


def test_a_stream_that_breaks_is_a_failure(client, tmp_path):
    response = client.get("/broken-stream")
    with pytest.raises(KeyError):
        list(response.streaming_content)
    assert (record_of(tmp_path)["http"]["ended"], record_of(tmp_path)["outcome"]) == ("exception", "failure")


def test_a_file_is_recorded_before_its_last_byte(client, tmp_path):
    response = client.get("/file")
    seen = [(len(chunk), len(records(tmp_path))) for chunk in response.streaming_content]
    assert seen[0] == (4096, 0)
    assert seen[-1] == (10_000 - 2 * 4096, 1)
    assert record_of(tmp_path)["http"]["response_bytes"] == 10_000


def test_a_file_the_server_sends_itself_passes_untouched(project, tmp_path):
    from wsgiref.util import FileWrapper, setup_testing_defaults

    from django.core.wsgi import get_wsgi_application

    environ = {"PATH_INFO": "/file", "wsgi.file_wrapper": FileWrapper, "wsgi.input": io.BytesIO()}
    setup_testing_defaults(environ)
    result = get_wsgi_application()(environ, lambda status, headers: None)
    assert type(result) is FileWrapper
    assert record_of(tmp_path)["http"]["response_bytes"] == 10_000
    result.close()


@pytest.mark.anyio
async def test_async_views_run_in_the_event_loop_without_a_thread(async_client, tmp_path, monkeypatch):
    import asgiref.sync

    response = await async_client.get("/async-hello")
    assert response.content == b"hello"
    assert record_of(tmp_path)["details"] == {"thread": "loop"}
    assert record_of(tmp_path)["http"]["route"] == "/async-hello"

    from audit_integrations.django import AuditMiddleware

    async def view(request):
        from django.http import HttpResponse

        return HttpResponse(b"x")

    def hop(*_, **__):
        raise AssertionError("a thread hop")

    monkeypatch.setattr(asgiref.sync.SyncToAsync, "__call__", hop)
    from django.test import AsyncRequestFactory

    answer = await AuditMiddleware(view)(AsyncRequestFactory().get("/x"))
    assert answer.status_code == 200


@pytest.mark.anyio
async def test_an_async_stream_is_counted_and_recorded_at_its_end(async_client, tmp_path):
    response = await async_client.get("/async-stream")
    chunks = [chunk async for chunk in response.streaming_content]
    assert len(chunks) == 3
    assert (record_of(tmp_path)["http"]["response_bytes"], record_of(tmp_path)["details"]) == (6, {"lines": 3})


@pytest.mark.anyio
async def test_an_async_stream_nobody_reads_is_on_record_when_it_is_closed(async_client, tmp_path):
    response = await async_client.get("/async-stream")
    response.close()
    assert record_of(tmp_path)["http"]["ended"] == "disconnected"


@pytest.mark.anyio
async def test_a_client_that_leaves_an_async_stream_is_on_record_as_disconnected(project, tmp_path):
    import asyncio

    from django.core.asgi import get_asgi_application

    left, sent = asyncio.Event(), []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/endless",
        "headers": [(b"host", b"localhost")], "query_string": b"", "client": ("10.1.2.3", 4711), "root_path": "",
        "server": ("localhost", 80), "scheme": "http",
    }  # fmt: skip
    messages = iter([{"type": "http.request", "body": b""}])

    async def receive():
        for message in messages:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if len(sent) > 3:
            left.set()

    await asyncio.wait_for(get_asgi_application()(scope, receive, send), 10)
    record = record_of(tmp_path)
    assert record["http"]["ended"] == "disconnected"
    assert record["http"]["response_bytes"] > 0


@pytest.mark.anyio
async def test_the_user_of_an_async_request_is_known(async_client, tmp_path):
    await async_client.alogin(username="alice", password="alice")
    await async_client.get("/async-hello")
    assert record_of(tmp_path)["principal"] == {"id": "alice", "type": "user", "auth": "session"}


def test_the_admin_is_covered_with_its_routes(client, tmp_path):
    client.login(username="root", password="root")
    response = client.get("/admin/auth/user/1/change/")
    assert response.status_code == 200
    record = record_of(tmp_path)
    assert record["http"]["route"] == "/admin/auth/user/<path:object_id>/change/"
    assert record["principal"]["id"] == "root"


def test_signing_in_out_and_failing_to_are_events(client, tmp_path):
    client.post("/admin/login/?next=/admin/", {"username": "root", "password": "wrong"})
    client.post("/admin/login/?next=/admin/", {"username": "root", "password": "root"})
    client.post("/admin/logout/")
    events = records(tmp_path, "event")
    said = [(event["action"], event["outcome"], event["principal"]["id"], event["resource"]) for event in events]
    root = {"type": "user", "id": "root"}
    assert said == [
        ("auth.sign_in", "denied", "anonymous", root),
        ("auth.sign_in", "success", "root", root),
        ("auth.sign_out", "success", "root", root),
    ]
    requests = records(tmp_path)
    assert events[1]["trace"]["request_id"] == requests[1]["trace"]["request_id"]
    assert "wrong" not in json.dumps(events)


def test_settings_are_read_live_and_checked(project, tmp_path):
    from django.test import Client, override_settings

    for number in (1, 2):
        folder = tmp_path / str(number)
        with override_settings(AUDIT={"SERVICE": f"shop{number}", "SPOOL_DIR": folder / "spool", "KEYS": KEYS}):
            Client().get("/hello/")
        assert record_of(folder)["service"] == f"shop{number}"
    with override_settings(AUDIT={"SPOOLDIR": "x"}), pytest.raises(ConfigurationError, match=r"E001.*SPOOLDIR"):
        Client().get("/hello/")
    with override_settings(AUDIT={"IDENTIFY": "no.such.thing"}), pytest.raises(ConfigurationError, match=r"E013"):
        Client().get("/hello/")


def test_identify_gets_the_request(project, tmp_path):
    from django.test import Client, override_settings

    settings = {"PIPELINE": make_pipeline(tmp_path), "IDENTIFY": lambda request: request.headers["X-Client"]}
    with override_settings(AUDIT=settings):
        Client().get("/hello/", headers={"X-Client": "batch"})
    assert record_of(tmp_path)["principal"]["id"] == "batch"


def test_an_identify_that_exits_ends_neither_the_request_nor_its_record(project, tmp_path):
    from django.test import Client, override_settings

    def identify(request):
        raise SystemExit(2)

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path), "IDENTIFY": identify}):
        assert Client().get("/hello/").content == b"hello"
    assert record_of(tmp_path)["defects"] == ["principal.id"]


def test_the_service_is_named_after_the_project(project, tmp_path):
    from django.test import Client, override_settings

    with override_settings(AUDIT={"SPOOL_DIR": tmp_path / "spool", "KEYS": KEYS}):
        Client().get("/hello/")
    assert record_of(tmp_path)["service"] == "tests"


def test_policy_deny_refuses_before_the_view_runs(client, tmp_path, monkeypatch):
    client.get("/hello/")
    monkeypatch.setattr("audit_middleware.journal.writer.timestamp", lambda ns: 1 // 0)
    answer = client.post("/orders/7/")
    assert answer.status_code == 503
    assert "not carried out" in answer.json()["detail"]


def checks():
    from audit_integrations.django.checks import check_audit

    return {message.id for message in check_audit()}


def test_system_checks_name_order_keys_spool_and_contradictions(project, tmp_path):
    from django.conf import settings
    from django.test import override_settings

    good = {"SPOOL_DIR": tmp_path / "spool", "KEYS": KEYS}
    ours = settings.MIDDLEWARE[0]
    rest = settings.MIDDLEWARE[1:]
    with override_settings(AUDIT=good):
        assert checks() == set()
        with override_settings(MIDDLEWARE=rest):
            assert checks() == {"audit.W020"}
        with override_settings(MIDDLEWARE=[*rest, ours]):
            assert checks() == {"audit.W021"}
        with override_settings(MIDDLEWARE=[ours, ours]):
            assert checks() == {"audit.E020"}
    with override_settings(AUDIT={"SPOOL_DIR": tmp_path / "spool"}):
        assert checks() == {"audit.W001"}
    with override_settings(AUDIT={**good, "DURABILITY": "collector"}):
        assert checks() == {"audit.E021"}
    (tmp_path / "file").write_text("")
    with override_settings(AUDIT={**good, "SPOOL_DIR": tmp_path / "file" / "spool"}):
        assert checks() == {"audit.E022"}
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize(
    "given",
    [5, True, ["KEYS"], {5: 6}, {"PIPELINE": 5}, {"SPOOL_DIR": {}}, {"SERVICE": b"x"}, {"TRUSTED_PROXIES": {"a": 1}}],
)
def test_settings_of_the_wrong_kind_are_a_finding_of_the_checks_and_no_traceback(project, given):
    from django.test import override_settings

    with override_settings(AUDIT=given):
        assert checks() == {"audit.E021"}


def test_a_spool_that_would_refuse_every_record_is_a_finding(project, tmp_path):
    from django.test import override_settings

    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for place in (tmp_path / "open", tmp_path / "open" / "spool", "/etc/passwd/x"):
        with override_settings(AUDIT={"KEYS": KEYS, "SPOOL_DIR": place}):
            assert checks() == {"audit.E022"}
    assert not (tmp_path / "open" / "spool").exists()


def test_the_check_command_runs_them(project):
    from django.core.checks.registry import registry

    assert "audit_integrations.django.checks" in {check.__module__ for check in registry.get_checks()}


def test_the_management_command_shows_and_verifies_the_spool(project, tmp_path):
    from django.core.management import call_command
    from django.test import Client, override_settings

    out = io.StringIO()
    with override_settings(AUDIT={"SPOOL_DIR": tmp_path / "spool", "KEYS": KEYS, "SERVICE": "shop"}):
        Client().get("/hello/")
        with pytest.raises(SystemExit) as good:
            call_command("audit", "verify", stdout=out)
        segment = next((tmp_path / "spool" / "streams").glob("*/seg-*"))
        os.chmod(segment, 0o600)
        segment.write_bytes(segment.read_bytes().replace(b"/hello/", b"/hullo/"))
        with pytest.raises(SystemExit) as bad:
            call_command("audit", "verify", "--json", stdout=out)
    assert (good.value.code, bad.value.code) == (0, 1)
    assert '"rule":"seal"' in out.getvalue()


@pytest.mark.anyio
async def test_inside_our_asgi_middleware_django_writes_no_second_record(project, tmp_path):
    from django.core.asgi import get_asgi_application

    from tests.capture.kit import Harness

    harness = Harness(tmp_path / "outer", get_asgi_application())
    scope = harness.scope(path="/hello/", server=("localhost", 80), query_string=b"")
    await harness(scope, [{"type": "http.request", "body": b""}])
    assert len(harness.records) == 1
    assert records(tmp_path) == []
