"""Who a request of Django belongs to, and the events of signing in: hijacked sessions, tokens, IDENTIFY."""

import threading

import pytest

from tests.capture.kit import make_pipeline, records

pytestmark = pytest.mark.usefixtures("django_project")
ROOT = {"id": "root", "type": "user", "auth": "session", "privileged": True}
BOB = {"id": "bob", "type": "user", "auth": "session"}


@pytest.fixture
def project(tmp_path):
    from django.test import override_settings

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path)}):
        yield


@pytest.fixture
def client(project):
    from django.test import Client

    return Client(raise_request_exception=False)


@pytest.fixture
def hijacking(project):
    from django.conf import settings
    from django.test import override_settings

    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, "hijack.middleware.HijackUserMiddleware"]):
        yield


def key_of(name):
    from django.contrib.auth.models import User

    return str(User.objects.get(username=name).pk)


def said(tmp_path):
    return [(each["action"], each["principal"], each["resource"]["id"]) for each in records(tmp_path, "event")]


def principals(tmp_path, path):
    return [each["principal"] for each in records(tmp_path) if each["http"]["path"] == path]


def test_a_hijacker_acts_on_behalf_of_the_hijacked_and_nobody_signs_in(hijacking, client, tmp_path):
    client.login(username="root", password="root")
    client.post("/hijack/acquire/", {"user_pk": key_of("bob")})
    client.get("/hello/")
    client.get("/v1/whoami")
    client.post("/hijack/release/")
    client.get("/hello/")
    assert said(tmp_path) == [
        ("auth.sign_in", {**ROOT, "auth": "unknown"}, "root"),
        ("auth.hijack", ROOT, "bob"),
        ("auth.release", ROOT, "bob"),
    ]
    as_bob = {**ROOT, "on_behalf_of": "bob"}
    assert principals(tmp_path, "/hello/") == [as_bob, ROOT]
    assert principals(tmp_path, "/v1/whoami") == [as_bob]
    hijack = next(each for each in records(tmp_path) if each["http"]["path"] == "/hijack/acquire/")
    assert records(tmp_path, "event")[1]["trace"]["request_id"] == hijack["trace"]["request_id"]


@pytest.mark.anyio
async def test_a_hijacker_is_known_in_the_event_loop_too(hijacking, tmp_path):
    from asgiref.sync import sync_to_async
    from django.test import AsyncClient

    client = AsyncClient()
    await client.alogin(username="root", password="root")
    await client.post("/hijack/acquire/", {"user_pk": await sync_to_async(key_of)("bob")})
    await client.get("/async-hello")
    assert principals(tmp_path, "/async-hello") == [{**ROOT, "on_behalf_of": "bob"}]
    assert "auth.hijack" in [action for action, _, _ in said(tmp_path)]


def test_the_first_of_several_hijackers_acts(hijacking, client, tmp_path):
    from django.contrib.auth.models import User

    second = User.objects.create_superuser("second", password="second")
    try:
        client.login(username="root", password="root")
        client.post("/hijack/acquire/", {"user_pk": str(second.pk)})
        client.post("/hijack/acquire/", {"user_pk": key_of("bob")})
        client.get("/hello/")
    finally:
        second.delete()
    assert principals(tmp_path, "/hello/") == [{**ROOT, "on_behalf_of": "bob"}]


def test_a_hijacker_who_is_gone_is_named_by_primary_key(hijacking, client, tmp_path):
    from django.contrib.auth.models import User

    gone = User.objects.create_superuser("gone", password="gone")
    key = str(gone.pk)
    client.login(username="gone", password="gone")
    client.post("/hijack/acquire/", {"user_pk": key_of("bob")})
    gone.delete()
    client.get("/hello/")
    (principal,) = principals(tmp_path, "/hello/")
    assert (principal["id"], principal["on_behalf_of"]) == (key, "bob")


@pytest.mark.anyio
async def test_a_token_beside_a_hijacked_session_acts_for_itself_in_the_event_loop(hijacking, tmp_path, caplog):
    from asgiref.sync import sync_to_async
    from django.contrib.auth.models import User
    from django.test import AsyncClient
    from rest_framework.authtoken.models import Token

    alice = await User.objects.aget(username="alice")
    token, _ = await sync_to_async(Token.objects.get_or_create)(user=alice)
    client = AsyncClient()
    await client.alogin(username="root", password="root")
    await client.post("/hijack/acquire/", {"user_pk": await sync_to_async(key_of)("bob")})
    answer = await client.get("/token", headers={"Authorization": f"Token {token.key}"})
    assert answer.json() == {"user": "alice"}
    (principal,) = principals(tmp_path, "/token")
    assert principal == {"id": "alice", "type": "user", "auth": "header"}
    assert "cannot be read" not in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("cookie", "user", "on_record"),
    [
        ("sessionid=x", None, "unknown"),
        ("sessionid=x", "lazy", "unknown"),
        ("sessionid=x", "bob", "bob"),
        ("", "lazy", "anonymous"),
    ],
)
async def test_a_cancelled_request_asks_nobody_and_calls_nobody_anonymous(project, tmp_path, cookie, user, on_record):
    import asyncio

    from django.contrib.auth.models import User
    from django.test import AsyncRequestFactory, override_settings
    from django.utils.functional import SimpleLazyObject

    from audit_integrations.django import AuditMiddleware

    def asked():
        raise AssertionError("the database is asked")

    async def view(request):
        if user is not None:
            request.user = SimpleLazyObject(asked) if user == "lazy" else User(username=user)
        raise asyncio.CancelledError

    request = AsyncRequestFactory().get("/x", headers={"Cookie": cookie} if cookie else {})
    without_hijack = override_settings(INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"])
    with without_hijack, pytest.raises(asyncio.CancelledError):
        await AuditMiddleware(view)(request)
    (record,) = records(tmp_path)
    assert record["principal"]["id"] == on_record


def test_who_signs_out_is_the_principal_of_that_request(client, tmp_path):
    client.login(username="bob", password="bob")
    client.get("/sign-out")
    client.get("/hello/")
    assert principals(tmp_path, "/sign-out") == [BOB]
    assert principals(tmp_path, "/hello/") == [{"id": "anonymous", "type": "anonymous", "auth": "none"}]


@pytest.mark.anyio
async def test_who_signs_out_in_the_event_loop_is_the_principal_of_that_request(project, tmp_path):
    from django.test import AsyncClient

    client = AsyncClient()
    await client.alogin(username="bob", password="bob")
    await client.get("/async-sign-out")
    assert principals(tmp_path, "/async-sign-out") == [BOB]


def test_who_signs_in_after_somebody_signed_out_acts(client, tmp_path):
    client.login(username="root", password="root")
    client.get("/switch")
    assert principals(tmp_path, "/switch") == [BOB]


def test_a_failed_sign_in_that_was_given_no_request_belongs_to_the_request_at_hand(client, tmp_path):
    client.get("/sign-in-without-request")
    (event,) = records(tmp_path, "event")
    (record,) = records(tmp_path)
    assert (event["outcome"], event["resource"]["id"]) == ("denied", "bob")
    assert event["trace"]["request_id"] == record["trace"]["request_id"]
    assert event["source"] == record["source"]


def test_signing_in_is_on_record_before_the_first_request_was_made(project, tmp_path):
    import os
    import subprocess
    import sys

    script = (
        "import django; django.setup()\n"
        "from django.contrib.auth import authenticate\n"
        "from django.test import override_settings\n"
        "from tests.capture.kit import make_pipeline\n"
        "from pathlib import Path\n"
        "import sys\n"
        "from django.core.management import call_command\n"
        "call_command('migrate', verbosity=0)\n"
        "with override_settings(AUDIT={'PIPELINE': make_pipeline(Path(sys.argv[1]))}):\n"
        "    authenticate(username='bob', password='wrong')\n"
        "    from django.db import connections; connections.close_all()\n"
        "    from django.conf import settings; Path(settings.DATABASES['default']['NAME']).unlink()\n"
    )
    environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.integrations.django_project.settings"}
    ran = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environ, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (event,) = records(tmp_path, "event")
    assert (event["action"], event["source"]["ip"]) == ("auth.sign_in", "unknown")


@pytest.mark.parametrize("time", ["first", "second"])
def test_a_sign_in_outside_of_any_request_is_no_defect_whichever_test_comes_first(client, audit_log, time):
    from django.contrib.auth.models import User

    client.force_login(User.objects.get(username="bob"))
    client.get("/hello/")
    (event,) = audit_log.assert_recorded(action="auth.sign_in", principal="bob", times=1)
    assert event.defects == ["source"]
    audit_log.assert_no_defects()
    client.get("/hello/", REMOTE_ADDR="")
    with pytest.raises(AssertionError, match=r"GET /hello/.*: source"):
        audit_log.assert_no_defects()


def identified_by(function, tmp_path):
    from django.test import override_settings

    return override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path), "IDENTIFY": function})


def test_identify_sees_what_the_thread_of_the_request_has_not_committed(tmp_path):
    from django.contrib.auth.models import User
    from django.db import transaction
    from django.test import Client

    def identify(request):
        return User.objects.get(username=request.headers["X-Client"])

    with identified_by(identify, tmp_path), transaction.atomic():  # as TestCase does around every test
        User.objects.create_user("uncommitted")
        Client().get("/hello/", headers={"X-Client": "uncommitted"})
        assert User.objects.count()  # the connection is this thread's again
        transaction.set_rollback(True)
    assert records(tmp_path)[0]["principal"]["id"] == "uncommitted"


def test_connections_that_identify_opens_on_its_thread_are_closed_there(tmp_path):
    from django.contrib.auth.models import User
    from django.db import connection, connections
    from django.test import Client

    opened = []

    def identify(request):
        User.objects.count()
        opened.append(connections["default"])

    connection.close()
    del connections["default"]
    with identified_by(identify, tmp_path):
        assert Client().get("/hello/").status_code == 200
    assert opened[0].connection is None


@pytest.mark.anyio
async def test_identify_runs_in_the_loop_or_with_the_connections_of_djangos_thread_for_sync_code(tmp_path):
    from asgiref.sync import sync_to_async
    from django.db import connection
    from django.test import AsyncClient

    seen = []

    def identify(request):
        seen.append(connection.connection)
        return "sync"

    async def identify_async(request):
        seen.append(threading.get_ident())
        return "async"

    def opened():
        connection.ensure_connection()
        return connection.connection

    expected = [await sync_to_async(opened)(), threading.get_ident()]
    for function in (identify, identify_async):
        with identified_by(function, tmp_path):
            await AsyncClient().get("/async-hello")
    assert seen == expected
    assert {each["principal"]["id"] for each in records(tmp_path)} == {"sync", "async"}


def test_a_coroutine_function_names_the_principal_of_a_sync_project(tmp_path):
    from django.test import Client

    async def identify(request):
        return "batch"

    with identified_by(identify, tmp_path):
        Client().get("/hello/")
    assert records(tmp_path)[0]["principal"]["id"] == "batch"


def test_identify_that_raises_is_a_defect_and_no_error_of_the_request(tmp_path, caplog):
    from django.test import Client

    with identified_by(lambda request: 1 // 0, tmp_path):
        answer = Client().get("/hello/")
    (record,) = records(tmp_path)
    assert answer.status_code == 200
    assert record["principal"]["id"] == "unknown"
    assert "identify failed" in caplog.text


@pytest.mark.anyio
async def test_a_coroutine_that_never_ends_is_given_up(tmp_path, monkeypatch):
    import asyncio

    from django.test import AsyncClient

    monkeypatch.setattr("audit_middleware.capture.identify.IDENTIFY_TIMEOUT_S", 0.05)

    async def identify(request):
        await asyncio.Event().wait()

    with identified_by(identify, tmp_path):
        answer = await asyncio.wait_for(AsyncClient().get("/async-hello"), 10)
    assert answer.status_code == 200
    assert records(tmp_path)[0]["principal"]["id"] == "unknown"


@pytest.mark.parametrize(
    ("path", "route", "resource", "arguments"),
    [
        ("/un/7/", "/un/<0>/", ("un", "7"), (("7",), {})),
        ("/two/7/ab/", "/two/<0>/<1>/", ("two", "7/ab"), (("7", "ab"), {})),
        ("/mixed/x/7/", "/mixed/*/<pk>/", ("mixed/*", "7"), ((), {"pk": "7"})),
        ("/outer/7/inner/x", "/outer/<0>/inner/<1>", ("outer/inner", "7/x"), (("7", "x"), {})),
        ("/named/7/inner/x", "/named/<pk>/inner/<0>", ("named/inner", "7/x"), (("x",), {"pk": "7"})),
        ("/extra/7/(", "/extra/<0>/[(]", ("extra/[(]", "7"), (("7",), {"kind": "x"})),
    ],
)
def test_unnamed_groups_are_numbered_alike_on_record_and_in_the_gate(
    client, tmp_path, path, route, resource, arguments
):
    from audit_integrations.django.routes import entry_points

    answer = client.get(path)
    (record,) = records(tmp_path)
    assert answer.content.decode() == repr(arguments)
    assert record["http"]["route"] == route
    assert (record["resource"]["type"], record["resource"]["id"]) == resource
    assert "defects" not in record
    assert route in {point.route for point in entry_points()}
