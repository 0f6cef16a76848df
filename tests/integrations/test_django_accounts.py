"""Users, their rights and the admin of a Django project: what its signals say is an event, by whoever acts."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from audit_middleware import events
from tests.capture.kit import make_pipeline, records

pytestmark = pytest.mark.usefixtures("django_project")
ROOT = {"id": "root", "type": "user", "auth": "session", "privileged": True}
SERVICE = {"id": "orders", "type": "service", "auth": "none"}


@pytest.fixture
def project(tmp_path):
    from django.db import transaction
    from django.test import override_settings

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path)}), transaction.atomic():
        yield
        transaction.set_rollback(True)


@pytest.fixture
def admin(project, tmp_path):
    from django.test import Client

    client = Client()
    client.login(username="root", password="root")
    return client


@pytest.fixture
def carol(project, tmp_path):
    """A user whose creation is not what a test is about."""
    from django.contrib.auth.models import User
    from django.test import override_settings

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path / "before")}):
        return User.objects.create_user("carol", password="secret-1")


@pytest.fixture
def editors(carol, tmp_path):
    from django.contrib.auth.models import Group
    from django.test import override_settings

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path / "groups")}):
        group = Group.objects.create(name="editors")
        carol.groups.add(group, Group.objects.create(name="clerks"))
    return group


def permission(codename):
    from django.contrib.auth.models import Permission

    return Permission.objects.get(content_type__app_label="auth", codename=codename)


def said(tmp_path, but=("auth.sign_in",)):
    found = [each for each in records(tmp_path, "event") if each["action"] not in but]
    return [(each["action"], (each["resource"]["type"], each["resource"]["id"]), each.get("details")) for each in found]


def role(user, before, after):
    return ("auth.role_change", ("user", user), {"before": before, "after": after})


def rights(owner, granted=(), revoked=()):
    return ("auth.permission_change", owner, {"granted": list(granted), "revoked": list(revoked)})


def test_a_user_is_created_with_roles_and_deleted(project, tmp_path):
    from django.contrib.auth.models import User

    User.objects.create_user("carol", password="secret-1")
    User.objects.create_superuser("dora", password="secret-2")
    User.objects.filter(username__in=["carol", "dora"]).delete()
    assert sorted(said(tmp_path), key=str) == [
        ("auth.user_create", ("user", "carol"), {"roles": []}),
        ("auth.user_create", ("user", "dora"), {"roles": ["is_staff", "is_superuser"]}),
        ("auth.user_delete", ("user", "carol"), None),
        ("auth.user_delete", ("user", "dora"), None),
    ]
    found = records(tmp_path, "event")
    assert {json.dumps(each["principal"]) for each in found} == {json.dumps(SERVICE)}
    assert [each for each in found if "defects" in each] == []
    assert "secret" not in json.dumps(found)


def test_changed_flags_are_roles_and_activations_and_a_save_that_changes_none_is_nothing(carol, tmp_path):
    carol.first_name = "Carol"
    carol.save()
    assert said(tmp_path) == []
    carol.is_staff = True
    carol.is_active = False
    carol.save()
    carol.is_superuser, carol.is_staff, carol.is_active = True, False, True
    carol.save()
    assert said(tmp_path) == [
        role("carol", [], ["is_staff"]),
        ("auth.user_deactivate", ("user", "carol"), None),
        role("carol", ["is_staff"], ["is_superuser"]),
        ("auth.user_activate", ("user", "carol"), None),
    ]


def test_what_a_save_leaves_out_is_not_changed_and_costs_no_query(carol, tmp_path, django_assert_queries):
    carol.is_superuser = True
    carol.set_password("secret-2")
    with django_assert_queries(1):
        carol.save(update_fields=["last_login"])
    assert said(tmp_path) == []
    with django_assert_queries(2):
        carol.save(update_fields=["is_superuser"])
    assert said(tmp_path) == [role("carol", [], ["is_superuser"])]


@pytest.fixture
def django_assert_queries():
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    class Exactly(CaptureQueriesContext):
        def __init__(self, count):
            super().__init__(connection)
            self.count = count

        def __exit__(self, *raised):
            super().__exit__(*raised)
            assert len(self) == self.count, [query["sql"] for query in self]

    return Exactly


@pytest.mark.parametrize("update_fields", [None, ["password"]])
@pytest.mark.parametrize("way", ["set", "unusable"])
def test_a_changed_password_is_an_event_however_it_is_saved(carol, tmp_path, way, update_fields):
    if way == "set":
        carol.set_password("secret-2")
    else:
        carol.set_unusable_password()
    carol.save(update_fields=update_fields)
    assert said(tmp_path) == [("auth.password_change", ("user", "carol"), None)]
    assert carol.password not in json.dumps(records(tmp_path, "event"))
    carol.save()
    assert len(said(tmp_path)) == 1


def test_a_hash_that_sign_in_makes_anew_is_no_changed_password(carol, tmp_path):
    from django.contrib.auth.models import User
    from django.test import Client, override_settings

    before = carol.password
    slow = "django.contrib.auth.hashers.PBKDF2PasswordHasher"
    with override_settings(PASSWORD_HASHERS=[slow, "django.contrib.auth.hashers.MD5PasswordHasher"]):
        assert Client().login(username="carol", password="secret-1")
    assert User.objects.get(pk=carol.pk).password != before
    assert said(tmp_path) == []


def test_a_row_that_cannot_be_read_fails_no_save_and_leaves_a_set_password_on_record(carol, tmp_path, caplog):
    from django.db import DatabaseError, connection

    def broken(execute, sql, *arguments):
        if sql.startswith("SELECT"):
            raise DatabaseError("no answer")
        return execute(sql, *arguments)

    carol.set_password("secret-2")
    with connection.execute_wrapper(broken):
        carol.save()
    assert said(tmp_path) == [("auth.password_change", ("user", "carol"), None)]
    assert "is not on record" in caplog.text
    carol.is_staff = True
    carol.save()
    assert said(tmp_path)[1:] == [role("carol", [], ["is_staff"])]


def test_a_save_that_failed_does_not_confuse_the_next_one(carol, tmp_path):
    from django.contrib.auth.models import User
    from django.db import IntegrityError, transaction

    carol.username, carol.is_staff = "bob", True
    with pytest.raises(IntegrityError), transaction.atomic():
        carol.save()
    carol.username = "carol"
    carol.is_superuser = True
    carol.save()
    assert said(tmp_path) == [role("carol", [], ["is_staff", "is_superuser"])]
    fresh = User.objects.get(pk=carol.pk)
    fresh.save()
    fresh.groups.clear()
    assert not [name for name in pickle.loads(pickle.dumps(fresh)).__dict__ if "audit" in name]


@pytest.mark.parametrize("update_fields", [None, ["is_staff", "is_superuser"]])
def test_a_save_within_a_save_is_told_apart(carol, tmp_path, update_fields):
    from django.contrib.auth.models import User
    from django.db.models.signals import pre_save

    def nested(sender, instance, **_):
        if instance.is_staff and instance.is_active:
            instance.is_active = False
            instance.save()
            instance.is_superuser = True

    pre_save.connect(nested, sender=User)
    try:
        carol.is_staff = True
        carol.save(update_fields=update_fields)
    finally:
        pre_save.disconnect(nested, sender=User)
    assert said(tmp_path) == [
        role("carol", [], ["is_staff"]),
        ("auth.user_deactivate", ("user", "carol"), None),
        role("carol", ["is_staff"], ["is_staff", "is_superuser"]),
    ]


def test_users_of_a_fixture_are_on_record(carol, tmp_path):
    from django.contrib.auth.models import User
    from django.core import serializers

    (row,) = json.loads(serializers.serialize("json", User.objects.filter(pk=carol.pk)))
    row["fields"]["is_superuser"] = True
    dora = {**row, "pk": 4711, "fields": {**row["fields"], "username": "dora"}}
    for each in serializers.deserialize("json", json.dumps([row, dora])):
        each.save()
    assert said(tmp_path) == [
        role("carol", [], ["is_superuser"]),
        ("auth.user_create", ("user", "dora"), {"roles": ["is_superuser"]}),
    ]


OTHER_PROJECT = """
import sys
from pathlib import Path
import django
from django.conf import settings
sys.path.insert(0, sys.argv[2])
sys.path.insert(0, ".")
from tests.capture.kit import make_pipeline
settings.configure(
    INSTALLED_APPS=sys.argv[3].split(","), AUTH_USER_MODEL=sys.argv[4], DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    AUDIT={"PIPELINE": make_pipeline(Path(sys.argv[1]))}, ROOT_URLCONF="people",
)
django.setup()
from audit_integrations.django import AuditMiddleware
AuditMiddleware(lambda request: None)
"""
PEOPLE = """
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import models

class Person(AbstractBaseUser):
    email = models.CharField(max_length=50, unique=True)
    USERNAME_FIELD = "email"

class Guest(Person):
    class Meta:
        proxy = True

class Clerk(Person):
    desk = models.IntegerField(default=1)
"""


def run_project(tmp_path, apps, user, code):
    (tmp_path / "people").mkdir(exist_ok=True)
    (tmp_path / "people" / "__init__.py").write_text("urlpatterns = []")
    (tmp_path / "people" / "models.py").write_text(PEOPLE)
    environ = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    given = [sys.executable, "-c", OTHER_PROJECT + code, str(tmp_path), str(tmp_path), apps, user]
    ran = subprocess.run(given, env=environ, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


def test_a_project_without_users_is_left_alone(tmp_path):
    assert "audit" not in run_project(tmp_path, "audit_integrations.django", "auth.User", "")


def test_a_user_model_of_ones_own_without_groups_its_proxies_and_what_extends_it_are_users(tmp_path):
    code = """
from django.db import connection
from people.models import Clerk, Guest, Person
with connection.schema_editor() as editor:
    editor.create_model(Person)
    editor.create_model(Clerk)
guest = Guest(email="g@example.com")
guest.save()
guest.set_password("secret")
guest.save()
clerk = Clerk.objects.create(email="c@example.com")
clerk.desk = 2
clerk.save()
clerk.delete()
guest.delete()
"""
    log = run_project(tmp_path, "people,audit_integrations.django", "people.Person", code)
    assert said(tmp_path) == [
        ("auth.user_create", ("user", "g@example.com"), {"roles": []}),
        ("auth.password_change", ("user", "g@example.com"), None),
        ("auth.user_create", ("user", "c@example.com"), {"roles": []}),
        ("auth.user_delete", ("user", "c@example.com"), None),
        ("auth.user_delete", ("user", "g@example.com"), None),
    ]
    assert "Traceback" not in log


def test_groups_of_a_user_are_roles_from_either_side(editors, carol, tmp_path):
    from django.contrib.auth.models import Group, User

    bob = User.objects.get(username="bob")
    clerks = Group.objects.get(name="clerks")
    editors.user_set.add(bob, carol)
    carol.groups.remove(editors, Group.objects.create(name="others"))
    carol.groups.add(clerks)
    editors.user_set.clear()
    carol.groups.set([editors])
    carol.groups.clear()
    assert said(tmp_path) == [
        role("bob", [], ["group:editors"]),
        role("carol", ["group:clerks", "group:editors"], ["group:clerks"]),
        role("bob", ["group:editors"], []),
        role("carol", ["group:clerks"], []),
        role("carol", [], ["group:editors"]),
        role("carol", ["group:editors"], []),
    ]


def test_a_group_that_is_deleted_is_taken_from_everybody(editors, carol, tmp_path):
    editors.permissions.add(permission("view_user"))
    editors.delete()
    assert said(tmp_path) == [
        rights(("group", "editors"), granted=["auth.view_user"]),
        role("carol", ["group:clerks", "group:editors"], ["group:clerks"]),
    ]


def test_permissions_of_users_and_groups_are_events_from_either_side(editors, carol, tmp_path):
    view, add = permission("view_user"), permission("add_user")
    carol.user_permissions.add(view, add)
    carol.user_permissions.remove(add, permission("delete_user"))
    view.group_set.add(editors)
    view.user_set.clear()
    editors.permissions.clear()
    add.user_set.add(carol)
    add.delete()
    assert said(tmp_path) == [
        rights(("user", "carol"), granted=["auth.add_user", "auth.view_user"]),
        rights(("user", "carol"), revoked=["auth.add_user"]),
        rights(("group", "editors"), granted=["auth.view_user"]),
        rights(("user", "carol"), revoked=["auth.view_user"]),
        rights(("group", "editors"), revoked=["auth.view_user"]),
        rights(("user", "carol"), granted=["auth.add_user"]),
        rights(("user", "carol"), revoked=["auth.add_user"]),
    ]


def test_more_rows_than_one_query_takes_are_all_on_record(editors, project, tmp_path):
    from django.contrib.auth.models import User

    many = User.objects.bulk_create([User(username=f"user{number}") for number in range(1100)])
    editors.user_set.add(*many)
    assert len(said(tmp_path)) == 1100
    assert said(tmp_path)[-1] == role("user1099", [], ["group:editors"])


def test_what_is_rolled_back_is_on_record_as_it_happened(carol, tmp_path):
    from django.db import transaction

    with transaction.atomic():
        carol.is_superuser = True
        carol.save()
        transaction.set_rollback(True)
    assert said(tmp_path) == [role("carol", [], ["is_superuser"])]


def test_a_full_disk_and_wrong_settings_fail_no_save(carol, tmp_path, monkeypatch, caplog):
    from django.contrib.auth.models import User
    from django.test import override_settings

    monkeypatch.setattr("audit_middleware.journal.writer.timestamp", lambda ns: 1 // 0)
    carol.is_staff = True
    carol.save()
    assert "auth.role_change is not on record" in caplog.text
    with override_settings(AUDIT={"NONE_OF_OURS": 1}):
        carol.is_superuser = True
        carol.save()
        carol.groups.clear()
    assert "audit.E001" in caplog.text
    row = User.objects.values("is_staff", "is_superuser").get(pk=carol.pk)
    assert row == {"is_staff": True, "is_superuser": True}


def user_form(user, **changed):
    given = {"username": user.username, "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00", **changed}
    return given | ({"is_active": "on"} if "is_active" not in changed else {})


def test_the_admin_says_what_was_done_to_which_object_and_who_did_it(admin, carol, tmp_path):
    from django.contrib.auth.models import Group, User

    new = {"username": "dora", "password1": "Krx7-tree", "password2": "Krx7-tree", "usable_password": "true"}
    assert admin.post("/admin/auth/user/add/", new).status_code == 302
    dora = User.objects.get(username="dora")
    group = Group.objects.create(name="editors")
    change = f"/admin/auth/user/{dora.pk}/change/"
    assert admin.post(change, user_form(dora, is_staff="on", groups=[group.pk])).status_code == 302
    password = {"password1": "Bvw9-roof", "password2": "Bvw9-roof", "usable_password": "true"}
    assert admin.post(f"/admin/auth/user/{dora.pk}/password/", password).status_code == 302
    assert admin.post(f"/admin/auth/user/{dora.pk}/delete/", {"post": "yes"}).status_code == 302
    happened = [each for each in records(tmp_path, "event") if each["action"] != "auth.sign_in"]
    found = [(each["action"], each["resource"]["id"], each.get("reason")) for each in happened]
    assert found == [
        ("auth.user_create", "dora", None),
        ("admin.access", str(dora.pk), "add"),
        ("auth.role_change", "dora", None),
        ("auth.role_change", "dora", None),
        ("admin.access", str(dora.pk), "change"),
        ("auth.password_change", "dora", None),
        ("admin.access", str(dora.pk), "change"),
        ("admin.access", str(dora.pk), "delete"),
        ("auth.user_delete", "dora", None),
    ]
    assert {each["resource"]["type"] for each in happened if each["action"] == "admin.access"} == {"auth.user"}
    assert all(each["principal"] == ROOT and "defects" not in each for each in happened)
    requests = {each["trace"]["request_id"]: each["principal"]["id"] for each in records(tmp_path)}
    assert all(requests[each["trace"]["request_id"]] == "root" for each in happened)
    text = json.dumps(happened)
    assert not [secret for secret in ("Krx7", "Bvw9", "md5$", dora.password, "Changed") if secret in text]


def test_several_objects_that_the_admin_deletes_at_once_are_as_many_events(admin, carol, tmp_path):
    from django.contrib.auth.models import Group

    groups = Group.objects.bulk_create([Group(name="one"), Group(name="two")])
    keys = [str(each.pk) for each in Group.objects.filter(name__in=["one", "two"])]
    chosen = {"action": "delete_selected", "_selected_action": keys, "post": "yes"}
    assert admin.post("/admin/auth/group/", chosen).status_code == 302
    assert not Group.objects.filter(pk__in=keys).exists()
    found = [each for each in records(tmp_path, "event") if each["action"] == "admin.access"]
    assert sorted((each["resource"]["type"], each["resource"]["id"], each["reason"]) for each in found) == [
        ("auth.group", key, "delete") for key in sorted(keys)
    ]
    assert len(groups) == 2


def test_an_entry_that_code_writes_and_changes_is_one_event_without_its_text(carol, tmp_path):
    from django.contrib.admin.models import CHANGE, LogEntry

    entry = LogEntry.objects.create(user=carol, object_id="7", object_repr="secret", action_flag=CHANGE)
    entry.change_message = "secret"
    entry.save()
    (event,) = records(tmp_path, "event")
    assert (event["action"], event["resource"], event["reason"]) == (
        "admin.access", {"type": "unknown", "id": "7"}, "change",
    )  # fmt: skip
    assert event["principal"] == SERVICE
    assert "secret" not in json.dumps(event)


def test_a_user_without_any_rights_who_is_refused_by_the_admin_leaves_no_event(project, tmp_path):
    from django.contrib.auth.models import User
    from django.test import Client

    client = Client()
    client.login(username="bob", password="bob")
    root = User.objects.get(username="root")
    assert client.post(f"/admin/auth/user/{root.pk}/delete/", {"post": "yes"}).status_code == 302
    assert said(tmp_path) == []


def test_a_command_that_is_on_record_acts_for_who_runs_it(carol, tmp_path):
    from django.conf import settings
    from django.core.management import call_command
    from django.test import override_settings

    with override_settings(AUDIT={**settings.AUDIT, "COMMANDS": True}):
        call_command("createsuperuser", "--noinput", "--username", "dora", "--email", "d@example.com", verbosity=0)
    (event,) = [each for each in records(tmp_path, "event") if each["action"] == "auth.user_create"]
    (task,) = records(tmp_path, "task")
    assert event["trace"]["request_id"] == task["trace"]["request_id"]
    assert (event["principal"], event["principal"]["type"]) == (task["principal"], "system")
    assert event["details"] == {"roles": ["is_staff", "is_superuser"]}


def who_exported(tmp_path):
    return [each["principal"] for each in records(tmp_path, "event") if each["action"] == "data.export"]


def export(request=None):
    events.exported("users:all", rows=1, to="csv")


@pytest.mark.anyio
@pytest.mark.parametrize(("is_read", "who"), [(True, "alice"), (False, "unknown")])
async def test_in_the_event_loop_a_user_is_who_was_read_and_nobody_is_asked(tmp_path, is_read, who):
    from asgiref.sync import sync_to_async
    from django.contrib.auth.models import User
    from django.http import HttpResponse
    from django.test import AsyncRequestFactory, override_settings
    from django.utils.functional import SimpleLazyObject

    from audit_integrations.django import AuditMiddleware

    alice = await User.objects.aget(username="alice")

    async def view(request):
        request.user = alice if is_read else SimpleLazyObject(lambda: alice)
        export()
        await sync_to_async(export)()
        return HttpResponse()

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path)}):
        await AuditMiddleware(view)(AsyncRequestFactory().get("/x", headers={"Cookie": "sessionid=x"}))
    assert [each["id"] for each in who_exported(tmp_path)] == [who, who]


def test_identify_names_who_acts_while_the_view_runs(tmp_path):
    from django.http import HttpResponse
    from django.test import RequestFactory, override_settings

    from audit_integrations.django import AuditMiddleware

    def view(request):
        export()
        return HttpResponse()

    settings = {"PIPELINE": make_pipeline(tmp_path), "IDENTIFY": lambda request: request.headers["X-Client"]}
    with override_settings(AUDIT=settings):
        AuditMiddleware(view)(RequestFactory().get("/x", headers={"X-Client": "batch"}))
        AuditMiddleware(view)(RequestFactory().get("/x"))
    assert [each["id"] for each in who_exported(tmp_path)] == ["batch", "unknown"]


def test_what_is_recorded_in_order_to_know_who_acts_asks_nobody(tmp_path):
    from django.contrib.auth.models import User
    from django.http import HttpResponse
    from django.test import RequestFactory, override_settings
    from django.utils.functional import SimpleLazyObject

    from audit_integrations.django import AuditMiddleware

    def identify(request):
        export()
        return "batch"

    def user():
        export()
        return User(username="alice")

    def view(request):
        if request.path == "/lazy":
            request.user = SimpleLazyObject(user)
        export()
        return HttpResponse()

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path), "IDENTIFY": identify}):
        AuditMiddleware(view)(RequestFactory().get("/x"))
        found = [each["id"] for each in who_exported(tmp_path)]
        AuditMiddleware(view)(RequestFactory().get("/lazy", headers={"Cookie": "sessionid=x"}))
    assert found == ["unknown", "batch", "orders"]  # the last one after the exchange was left
    assert [each["id"] for each in who_exported(tmp_path)][3:] == ["unknown", "orders"]


def test_a_call_that_a_view_makes_is_of_who_is_signed_in(tmp_path):
    import httpx
    from django.contrib.auth.models import User
    from django.http import HttpResponse
    from django.test import RequestFactory, override_settings

    from audit_integrations.django import AuditMiddleware
    from audit_integrations.httpx import AuditTransport

    def view(request):
        request.user = User(username="alice")
        inner = httpx.MockTransport(lambda request: httpx.Response(204))
        with httpx.Client(transport=AuditTransport(inner)) as client:
            client.get("https://billing.internal/")
        return HttpResponse()

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path)}):
        AuditMiddleware(view)(RequestFactory().get("/x"))
    assert [each["principal"]["id"] for each in records(tmp_path, "call")] == ["alice"]


def test_who_took_over_a_session_changes_passwords_on_behalf_of_its_owner(admin, carol, tmp_path):
    from django.conf import settings
    from django.test import override_settings

    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, "hijack.middleware.HijackUserMiddleware"]):
        carol.is_staff = carol.is_superuser = True
        carol.save()
        admin.post("/hijack/acquire/", {"user_pk": carol.pk})
        new = {"old_password": "secret-1", "new_password1": "Krx7-tree", "new_password2": "Krx7-tree"}
        assert admin.post("/admin/password_change/", new).status_code == 302
    (event,) = [each for each in records(tmp_path, "event") if each["action"] == "auth.password_change"]
    assert event["principal"] == {**ROOT, "on_behalf_of": "carol"}
    assert event["resource"] == {"type": "user", "id": "carol"}


def test_what_a_thread_does_after_its_request_ended_is_of_who_made_the_request(tmp_path):
    import contextvars

    from django.contrib.auth.models import User
    from django.http import HttpResponse
    from django.test import RequestFactory, override_settings

    from audit_integrations.django import AuditMiddleware

    kept = []

    def view(request):
        request.user = User(username="alice")
        kept.append(contextvars.copy_context())
        return HttpResponse()

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path)}):
        AuditMiddleware(view)(RequestFactory().get("/x"))
        kept[0].run(export)
    assert [each["id"] for each in who_exported(tmp_path)] == ["alice"]


def test_inside_another_audit_middleware_events_are_of_its_request_and_of_djangos_user(tmp_path):
    from django.contrib.auth.models import User
    from django.core.handlers.wsgi import WSGIRequest
    from django.http import HttpResponse
    from django.test import RequestFactory, override_settings

    from audit_integrations.django import AuditMiddleware
    from audit_middleware import AuditWSGIMiddleware

    def view(request):
        request.user = User(username="alice")
        export()
        return HttpResponse()

    def application(environ, start_response):
        AuditMiddleware(view)(WSGIRequest(environ))
        start_response("200 OK", [])
        return [b""]

    pipeline = make_pipeline(tmp_path)
    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path / "inner")}):
        environ = RequestFactory().get("/x").environ
        b"".join(AuditWSGIMiddleware(application, pipeline=pipeline)(environ, lambda *arguments: None))
    assert [each["id"] for each in who_exported(tmp_path)] == ["alice"]
    assert records(tmp_path / "inner", "event") == []


def test_a_request_is_not_kept_by_what_asks_who_acts(tmp_path, monkeypatch):
    import gc
    import weakref

    from django.http import HttpResponse
    from django.test import RequestFactory, override_settings

    from audit_integrations.django import AuditMiddleware

    monkeypatch.setattr("audit_integrations.django.middleware.is_asked", lambda: False)  # bodies are another matter
    seen = []

    def view(request):
        seen.append(weakref.ref(request))
        return HttpResponse()

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path)}):
        AuditMiddleware(view)(RequestFactory().get("/warm"))
        gc.collect()
        gc.disable()
        try:
            AuditMiddleware(view)(RequestFactory().get("/x"))
            assert seen[1]() is None
        finally:
            gc.enable()
