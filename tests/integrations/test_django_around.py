"""Django inside an audit middleware around the whole project: one record, with what only Django knows."""

import pytest

from audit_middleware import AuditMiddleware, AuditWSGIMiddleware
from tests.capture.kit import make_pipeline, records

pytestmark = pytest.mark.usefixtures("django_project")
BOB = {"id": "bob", "type": "user", "auth": "session"}


@pytest.fixture(autouse=True)
def project(tmp_path):
    """Django's own middleware stays in MIDDLEWARE, and would write elsewhere."""
    from django.test import override_settings

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path / "inner")}):
        yield
    assert records(tmp_path / "inner") == records(tmp_path / "inner", "event") == []


@pytest.fixture
def session(project):
    """The cookie of bob, who signed in elsewhere."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore

    user, store = User.objects.get(username="bob"), SessionStore()
    store[SESSION_KEY], store[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
    store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    store.save()
    return {"Cookie": f"sessionid={store.session_key}"}


@pytest.fixture(params=["asgi", "asgi at the root", "wsgi", "wsgi in asgi"])
def around(request, tmp_path):
    """(A client of) Django below an audit middleware, and where it is mounted."""
    from django.core.wsgi import get_wsgi_application

    pipeline = make_pipeline(tmp_path)
    if request.param == "wsgi":
        import httpx

        transport = httpx.WSGITransport(AuditWSGIMiddleware(get_wsgi_application(), pipeline=pipeline))
        yield httpx.Client(transport=transport, base_url="http://testserver"), ""
        return
    from asgiref.wsgi import WsgiToAsgi
    from django.core.asgi import get_asgi_application
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    if request.param == "asgi at the root":
        app, place = AuditMiddleware(get_asgi_application(), pipeline=pipeline), ""
    else:
        app, place = FastAPI(), "/of/{tenant}"
        app.add_middleware(AuditMiddleware, pipeline=pipeline)
        below = WsgiToAsgi(get_wsgi_application()) if request.param == "wsgi in asgi" else get_asgi_application()
        app.mount(place, below)
    yield TestClient(app), place


def record_of(tmp_path):
    (record,) = records(tmp_path)
    return record


def test_the_outer_record_has_djangos_route_and_arguments_and_user(around, session, tmp_path):
    client, place = around
    answer = client.get(place.replace("{tenant}", "acme") + "/orders/7/", headers=session)
    record = record_of(tmp_path)
    assert answer.text == "7"
    assert record["principal"] == BOB
    assert record["http"]["route"] == f"{place}/orders/<int:pk>/"
    assert record["resource"]["id"] == ("acme/7" if place else "7")
    assert "defects" not in record


def test_a_view_that_django_runs_in_the_loop_is_told_to_the_outer_record_too(around, session, tmp_path):
    client, place = around
    client.get(place.replace("{tenant}", "acme") + "/async-hello", headers=session)
    record = record_of(tmp_path)
    assert (record["principal"], record["http"]["route"]) == (BOB, f"{place}/async-hello")


def test_a_path_that_is_not_ascii_is_one_record_too(around, tmp_path):
    client, place = around
    client.get(place.replace("{tenant}", "acme") + "/né/")
    assert record_of(tmp_path)["http"]["status"] == 404


def test_what_the_view_says_wins_over_djangos_user(around, session, tmp_path):
    client, place = around
    client.post(place.replace("{tenant}", "acme") + "/orders/7/refund", headers=session)
    assert record_of(tmp_path)["principal"]["id"] == "carol"


def test_nobody_signed_in_is_anonymous_and_no_route_is_none(around, tmp_path):
    client, place = around
    client.get(place.replace("{tenant}", "acme") + "/nowhere/")
    record = record_of(tmp_path)
    assert record["principal"]["id"] == "anonymous"
    assert record["http"]["status"] == 404


def test_a_failed_sign_in_is_an_event_of_the_outer_request(around, tmp_path):
    client, place = around
    client.post(place.replace("{tenant}", "acme") + "/sign-in", data={"username": "bob", "password": "wrong"})
    (event,) = records(tmp_path, "event")
    record = record_of(tmp_path)
    assert (event["action"], event["outcome"], event["resource"]["id"]) == ("auth.sign_in", "denied", "bob")
    assert event["trace"]["request_id"] == record["trace"]["request_id"]
    assert event["source"] == record["source"]
    assert (event["service"], event["attempt"]) == (record["service"], record["attempt"])


def test_an_exception_that_django_answers_is_on_the_outer_record(around, tmp_path):
    client, place = around
    client.get(place.replace("{tenant}", "acme") + "/broken")
    record = record_of(tmp_path)
    assert (record["http"]["ended"], record["reason"]) == ("exception", "KeyError")


def test_an_exempt_view_of_django_is_exempt_for_the_outer_record(around, tmp_path):
    client, place = around
    client.get(place.replace("{tenant}", "acme") + "/health")
    assert records(tmp_path) == []
    (event,) = records(tmp_path, "event")
    assert (event["action"], event["resource"]["id"]) == ("audit.exempt", f"{place}/health")


def test_identify_of_the_project_names_who_is_not_signed_in(around, tmp_path):
    from django.conf import settings
    from django.test import override_settings

    client, place = around
    with override_settings(AUDIT={**settings.AUDIT, "IDENTIFY": lambda request: request.headers["X-Client"]}):
        client.get(place.replace("{tenant}", "acme") + "/hello/", headers={"X-Client": "batch"})
    assert record_of(tmp_path)["principal"]["id"] == "batch"


def test_a_session_nobody_read_when_the_client_left_is_unknown_and_not_anonymous(session, tmp_path):
    import asyncio

    from django.core.asgi import get_asgi_application

    from tests.capture.kit import Harness

    harness = Harness(tmp_path, get_asgi_application())
    scope = harness.scope(path="/endless", headers={**session, "Host": "testserver"}, server=("localhost", 80))
    asyncio.run(harness(scope, [{"type": "http.request", "body": b""}]))  # then the client has gone
    assert record_of(tmp_path)["principal"]["id"] == "unknown"
    assert "principal.id" in record_of(tmp_path)["defects"]
