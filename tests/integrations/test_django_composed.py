"""Rules of views in projects as they are composed: i18n, tenants, Django Ninja, ``method_decorator``, caches."""

import contextlib
from itertools import product

import pytest

from audit_middleware.errors import JournalError
from tests.capture.kit import records
from tests.integrations import test_view_policy as claims

HERE = "tests.integrations.django_project.composed"
TENANT = {"X-Tenant": "acme"}


@pytest.fixture
def project(audit):
    """Make a project of these URLs, and a function that asks it for something."""
    from django.conf import settings
    from django.test import Client, override_settings

    around = [settings.MIDDLEWARE[0], f"{HERE}.Tenants", "django.middleware.locale.LocaleMiddleware"]
    languages = {"LANGUAGES": [("en", "English"), ("de", "Deutsch")], "LANGUAGE_CODE": "en"}

    def ask(method, path, headers=None):
        return Client(raise_request_exception=False).generic(method, path, headers=headers).status_code

    def make(**options):
        made = audit(**options)
        here.enable()
        return made

    here = override_settings(ROOT_URLCONF=HERE, MIDDLEWARE=around, **languages)
    claims.RAN.clear()
    yield make, ask
    here.disable()


def fill(ask, disk):
    ask("GET", "/show/1")
    disk.room = 0
    for _ in range(2):  # the first one finds out only when it is done
        with contextlib.suppress(JournalError):
            ask("GET", "/show/1")
    claims.RAN.clear()


@pytest.mark.parametrize("where", ["show", "change", "rest"])
def test_a_resource_is_filled_below_method_decorator(project, tmp_path, where):
    audit, ask = project
    audit()
    assert ask("GET", f"/{where}/7?page=2") == 200
    (record,) = records(tmp_path)
    assert (record["resource"], record.get("defects")) == ({"type": "order", "id": "7"}, None)
    assert record["details"] == {"query": {"page": ["2"]}}


def test_a_resource_that_method_decorator_cannot_fill_is_a_defect_and_no_error():
    from django.utils.decorators import method_decorator

    from audit_middleware import audited

    class View:
        @method_decorator(audited("orders.show", resource="order:{misspelt}"))
        def get(self, request, pk):
            return pk

    assert View().get("request", pk=7) == 7


def test_a_view_is_the_same_one_in_every_language(project, tmp_path):
    from audit_integrations.django.routes import entry_points

    audit, ask = project
    audit()
    paths = ["/de/orders/7/", "/en/orders/7/", "/de/raw/7"]
    assert [ask("GET", path) for path in paths] == [200, 200, 200]
    assert ask("GET", "/de/orders/7/", TENANT) == ask("GET", "/orders/7/", TENANT) == 200
    found = [(record["http"]["route"], record["resource"]["type"]) for record in records(tmp_path)]
    routes = ["/*/orders/<int:pk>/", "/*/orders/<int:pk>/", "/*/raw/<0>", "/orders/<int:pk>/", "/orders/<int:pk>/"]
    assert found == list(zip(routes, ["orders", "orders", "raw", "orders", "orders"], strict=True))
    declared = {point.route for point in [*entry_points(), *entry_points(f"{HERE}_tenant")]}
    assert declared >= set(routes)
    assert not any("/en" in route for route in declared)


@pytest.mark.parametrize("policy", ["auto", "deny"])
def test_a_policy_is_seen_in_every_language_and_in_django_ninja(project, policy):
    audit, ask = project
    _, disk = audit(on_failure=policy)
    fill(ask, disk)
    for path in ("/de/in/lenient", "/en/in/lenient", "/ninja/orders/7", "/lenient"):
        assert ask("POST", path) == 200
    assert ask("POST", "/de/orders/7/") == 503
    assert claims.RAN == ["ordinary"] * 4


def test_the_policy_of_one_tenants_view_does_not_hold_for_anothers(project):
    audit, ask = project
    _, disk = audit()
    fill(ask, disk)
    assert ask("POST", "/lenient", TENANT) == 503
    assert claims.RAN == []


def test_nor_does_it_where_the_project_is_asynchronous(project):
    from asgiref.sync import async_to_sync
    from django.test import AsyncClient

    audit, ask = project
    _, disk = audit()
    fill(ask, disk)
    post = async_to_sync(AsyncClient(raise_request_exception=False).post)
    assert [post("/lenient", headers=headers).status_code for headers in (None, TENANT)] == [200, 503]
    assert claims.RAN == ["ordinary"]


def test_what_a_cache_answers_is_held_to_the_policy_and_the_names_of_its_view(project, tmp_path):
    audit, ask = project
    _, disk = audit()
    assert ask("GET", "/cached/7?page=2") == ask("GET", "/cached/7?page=2") == 200
    assert claims.RAN == ["ordinary"]
    assert [record["details"] for record in records(tmp_path)] == [{"query": {"page": ["2"]}}] * 2
    disk.room = 0
    assert {ask("GET", "/cached/7?page=2") for _ in range(3)} == {503}


def test_rules_are_seen_below_a_view_of_django_ninja(project, tmp_path):
    from audit_integrations.django.routes import entry_points

    audit, ask = project
    audit(attempts="none")
    asked = [
        ("GET", "orders/x"),
        ("GET", "orders/7"),
        ("POST", "orders/7"),
        ("GET", "inner/health"),
        ("GET", "inner/later"),
    ]
    assert [ask(method, f"/ninja/{path}") for method, path in asked] == [422, 200, 200, 200, 200]
    assert [record["action"] for record in records(tmp_path)] == [
        "ninja.read",
        "ninja.read",
        "ninja.write",
        "ninja.later",
    ]
    points = {(each.method, each.route, each.name): each.exemption for each in entry_points() if "/ninja" in each.route}
    assert points["GET", "/ninja/inner/health", "health"].reason == "asked twice a second"
    assert {key for key in points if "orders" in key[1]} == set(product(["GET"], ["/ninja/orders/<pk>"], ["read"])) | {
        ("POST", "/ninja/orders/<pk>", "write")
    }


def test_head_is_as_exempt_as_the_get_that_answers_it(project, tmp_path):
    audit, ask = project
    audit()
    assert ask("HEAD", "/health") == ask("GET", "/health") == 200
    assert records(tmp_path) == []


def test_an_escaped_dot_of_a_regular_expression_is_a_dot_in_the_route(project, tmp_path):
    audit, ask = project
    audit()
    assert ask("GET", "/files/report.pdf") == 200
    (record,) = records(tmp_path)
    assert record["http"]["route"] == "/files/<name>.<kind>"


def test_a_policy_is_seen_through_a_router_by_protocol(project):
    from django.core.asgi import get_asgi_application
    from starlette.testclient import TestClient

    from audit_middleware import AuditMiddleware

    class ByProtocol:  # as ProtocolTypeRouter of Channels
        def __init__(self):
            self.application_mapping = {"http": get_asgi_application()}

        async def __call__(self, scope, receive, send):
            await self.application_mapping[scope["type"]](scope, receive, send)

    audit, ask = project
    pipeline, disk = audit()
    fill(ask, disk)
    client = TestClient(AuditMiddleware(ByProtocol(), pipeline=pipeline))
    assert [client.post(path).status_code for path in ("/de/in/lenient", "/de/orders/7/")] == [200, 503]
