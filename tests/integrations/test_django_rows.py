"""Who read and changed which rows of declared models of Django, with a real SQLite database, sync and async."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import uuid
from contextlib import suppress

import pytest

from audit_middleware import AuditWSGIMiddleware, ConfigurationError
from audit_middleware.capture import Exchange, enter, leave
from audit_middleware.errors import RequestRefused
from audit_middleware.inventory_record import reached
from audit_middleware.sealing.parse import parse_rec
from audit_middleware.sealing.seal import parse_frame
from audit_middleware.testing import FaultyFiles
from tests.capture.kit import KEYS, make_pipeline, records, request_of_alice
from tests.shipping.kit import wait_until

pytestmark = pytest.mark.usefixtures("django_project")
MODELS = [f"shop.{name}" for name in ("Customer", "Payment", "Line", "Blob", "Strange", "Named", "Person")]
NUMBER = uuid.UUID(int=7)
BLOB = b"\x00\xff"


class Shop:
    """The models, which can be imported only when Django is set up."""

    def __getattr__(self, name):
        from django.apps import apps

        return apps.get_model("shop", name)


S = Shop()


@pytest.fixture
def shop():
    from django.apps import apps
    from django.db import connection, transaction

    every = [model._meta.db_table for model in apps.get_app_config("shop").get_models(include_auto_created=True)]
    with connection.constraint_checks_disabled(), transaction.atomic(), connection.cursor() as cursor:
        for table in every:
            cursor.execute(f"DELETE FROM {table} WHERE 1")
        cursor.execute("DELETE FROM sqlite_sequence WHERE name LIKE 'shop_%'")
        S.Customer.objects.bulk_create(S.Customer(id=number) for number in (1, 2, 3))
        S.Payment.objects.create(number=NUMBER, customer_id=1)
        S.Line.objects.create(order="a/b", position=1)
        S.Blob.objects.create(digest=BLOB)
        S.Strange.objects.create(key="odd")
        S.Manager.objects.create(id=9)
        S.Product.objects.create(id=1, customer_id=2)


def declared(pipeline, models=MODELS, **settings):
    from django.test import override_settings

    return override_settings(AUDIT={"PIPELINE": pipeline, "MODELS": models, **settings})


@pytest.fixture
def pipeline(tmp_path):
    return make_pipeline(tmp_path)


@pytest.fixture
def watched(shop, pipeline):
    with declared(pipeline):
        yield


@pytest.fixture
def alice(watched, pipeline):
    with request_of_alice(pipeline) as exchange:
        yield exchange


def said(tmp_path):
    """Action, model, id, keys and defects of every event."""
    return [
        (
            each["action"].removeprefix("data."), each["resource"]["type"].removeprefix("shop."), each["resource"]["id"],
            (each.get("details") or {}).get("keys"), each.get("defects"),
        )
        for each in records(tmp_path, "event")
    ]  # fmt: skip


def lasting(tmp_path):
    return [(each["resource"]["id"], each["outcome"], each.get("reason")) for each in records(tmp_path, "event")]


def one(method, model, key):
    return (method, model, str(key), None, None)


def many(method, model, *keys):
    return (method, model, f"{len(keys)} rows", list(keys), None)


def counted(method, model, number):
    return (method, model, f"{number} row{'s' * (number != 1)}", None, ["details.keys"])


def unknown(method, model):
    return (method, model, "unknown", None, ["resource.id"])


ONE = [one("read", "Customer", 1)]
THREE = [many("read", "Customer", "1", "2", "3")]
UNKNOWN = [unknown("read", "Customer")]
PAYMENT = one("read", "Payment", NUMBER)


def of(name):
    from django.db.models import aggregates, functions

    return getattr(functions, name, None) or getattr(aggregates, name)


def numbered():
    from django.db.models import F, Window

    return Window(of("RowNumber")(), order_by=F("id").asc())


def groups(*names):
    from django.contrib.auth.models import Group

    return [Group.objects.get_or_create(name=name)[0] for name in names]


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        (lambda c: c.get(id=1), ONE),
        (lambda c: c.filter(id=99).first(), []),
        (lambda c: list(c.all()), THREE),
        (lambda c: c.in_bulk([1, 2, 3]), THREE),
        (lambda c: list(c.only("email")), THREE),
        (lambda c: list(c.defer("email").order_by("email", "id")), THREE),
        (lambda c: list(c.values("id", "email")), THREE),
        (lambda c: list(c.values_list("pk", flat=True)), THREE),
        (lambda c: list(c.values_list("email")), [counted("read", "Customer", 3)]),
        (lambda c: list(c.values(x=of("Upper")("email"))), [counted("read", "Customer", 3)]),
        (lambda c: c.get(id=1).refresh_from_db(), ONE * 2),
        (lambda c: c.count(), UNKNOWN),
        (lambda c: c.aggregate(x=of("Max")("email")), UNKNOWN),
        (lambda c: c.distinct().count(), UNKNOWN),
        (lambda c: c.filter(email__contains="secret").exists(), UNKNOWN),
        (lambda c: c.filter(email="nobody").exists(), []),
        (lambda c: list(c.annotate(n=of("Count")("product"))), THREE),
        (lambda c: list(c.values("email").annotate(n=of("Count")("id"))), UNKNOWN),
        (lambda c: c.get(pk=1).payment_set.count(), [*ONE, unknown("read", "Payment")]),
        (lambda c: list(c.get(id=1).payment_set.all()), [*ONE, PAYMENT]),
        (lambda c: list(c.filter(id=1).prefetch_related("payment_set")), [*ONE, PAYMENT]),
        (lambda c: list(c.filter(referrer__email="x")), []),
        (lambda c: list(c.filter(product__title="x")), [one("read", "Customer", 2)]),
        (lambda c: list(c.union(c.all())), THREE),
        (lambda c: list(c.values_list("id").union(S.Product.objects.values_list("id"))), UNKNOWN),
        (lambda c: list(c.raw("SELECT * FROM shop_customer ORDER BY id")), THREE),
        (lambda c: list(c.annotate(n=numbered()).filter(n=2)), [one("read", "Customer", 2)]),
        (lambda c: list(c.extra(select={"x": "1"}).order_by("id")), THREE),
        (lambda c: list(c.iterator()), THREE),
        (lambda c: c.all()[1:2].get(), [one("read", "Customer", 2)]),
        (lambda c: c.select_for_update().explain(), []),
        (lambda c: list(S.Favourite.objects.all()), THREE),
        (lambda _: S.Payment.objects.get().customer, [PAYMENT, *ONE]),
        (lambda _: list(S.Payment.objects.select_related("customer")), [*ONE, PAYMENT]),
        (lambda _: list(S.Payment.objects.values_list("number", "customer__email")), [counted("read", "Customer", 1), PAYMENT]),
        (lambda _: list(S.Payment.objects.values_list("customer__id")), [counted("read", "Payment", 1)]),
        (lambda c: list(c.filter(id=1).select_related("referrer")), ONE),
        (lambda _: list(S.Product.objects.filter(customer__email__contains="x")), UNKNOWN),
        (lambda c: list(S.Product.objects.filter(customer__in=c.filter(email__contains="x"))), UNKNOWN),
        (lambda _: list(S.Product.objects.order_by("customer__email")), UNKNOWN),
        (lambda _: list(S.Product.objects.filter(customer_id=2)), []),
        (lambda _: list(S.Product.objects.filter(customer__id=2)), []),
        (lambda _: list(S.Product.objects.select_related("customer")), [one("read", "Customer", 2)]),
        (lambda _: S.Line.objects.get(pk=("a/b", 1)), [one("read", "Line", "a%2Fb/1")]),
        (lambda _: list(S.Line.objects.values_list("text", "pk")), [one("read", "Line", "a%2Fb/1")]),
        (lambda _: list(S.Line.objects.values_list("order")), [counted("read", "Line", 1)]),
        (lambda _: S.Blob.objects.get(), [one("read", "Blob", "00ff")]),
        (lambda _: list(S.Person.objects.all()), [one("read", "Person", 9)]),
        (lambda _: list(S.Manager.objects.all()), [one("read", "Person", 9)]),
        (lambda _: list(S.Manager.objects.values("level")), [counted("read", "Person", 1)]),
    ],
)  # fmt: skip
def test_every_way_of_reading_is_on_record_once(alice, tmp_path, reads, expected):
    reads(S.Customer.objects)
    assert said(tmp_path) == expected
    assert "secret" not in json.dumps(records(tmp_path, "event"))


def test_rows_that_a_row_refers_to_are_read_too_though_their_keys_are_not_known(alice, tmp_path):
    S.Customer.objects.filter(id=3).update(referrer=1)
    list(S.Customer.objects.filter(id=3).values("id", "referrer__email"))
    list(S.Customer.objects.filter(id=3).select_related("referrer"))
    assert said(tmp_path)[1:] == [
        one("read", "Customer", 3), counted("read", "Customer", 1), many("read", "Customer", "3", "1"),
    ]  # fmt: skip


def changed(instance, **values):
    for name, value in values.items():
        setattr(instance, name, value)
    instance.save()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (lambda c: c.create(email="secret"), [one("create", "Customer", 4)]),
        (lambda c: c.bulk_create([S.Customer(), S.Customer()]), [many("create", "Customer", "4", "5")]),
        (lambda c: c.bulk_create([S.Customer(id=8), S.Customer()]), [one("create", "Customer", 8), one("create", "Customer", 9)]),
        (lambda c: c.bulk_create([S.Customer(id=1)], ignore_conflicts=True), [unknown("create", "Customer")]),
        (
            lambda c: c.bulk_create([S.Customer(id=1)], update_conflicts=True, update_fields=["email"], unique_fields=["id"]),
            [unknown("create", "Customer")],
        ),
        (lambda c: changed(c.get(id=1), email="secret"), [*ONE, one("update", "Customer", 1)]),
        (lambda c: changed(c.get(id=1), email=of("Upper")("email")), [*ONE, one("update", "Customer", 1)]),
        (lambda _: changed(S.Customer(id=8)), [one("create", "Customer", 8)]),
        (lambda c: c.get_or_create(id=8), [one("create", "Customer", 8)]),
        (lambda c: c.update_or_create(id=1, defaults={"email": "x"}), [*ONE, one("update", "Customer", 1)]),
        (lambda c: c.filter(id=2).update(email="x"), [one("update", "Customer", 2)]),
        (lambda c: c.filter(pk__in=[1, 3, 3]).update(email="x"), [many("update", "Customer", "1", "3")]),
        (lambda c: c.filter(id__in=[1, 99]).update(email="x"), [counted("update", "Customer", 1)]),
        (lambda c: c.exclude(id=1).update(email="x"), [counted("update", "Customer", 2)]),
        (lambda c: c.update(email="x"), [counted("update", "Customer", 3)]),
        (lambda c: c.filter(id=99).update(email="x"), []),
        (lambda c: c.filter(id__in=[]).update(email="x"), []),
        (lambda c: c.filter(product__title="x").update(email="x"), [counted("update", "Customer", 1)]),
        (lambda c: c.filter(payment__number=NUMBER).update(email="x"), [counted("update", "Customer", 1), unknown("read", "Payment")]),
        (lambda c: c.bulk_update([S.Customer(id=1, email="x"), S.Customer(id=2, email="y")], ["email"]), [many("update", "Customer", "1", "2")]),
        (lambda _: S.Product.objects.filter(customer__email__contains="secret").update(title="y"), UNKNOWN),
        (lambda _: changed(S.Line(order="a/b", position=1, text="y")), [one("update", "Line", "a%2Fb/1")]),
        (lambda _: S.Line.objects.filter(order="a/b", position=1).delete(), [one("delete", "Line", "a%2Fb/1")]),
        (lambda _: S.Line.objects.filter(pk__in=[("a/b", 1)]).update(text="y"), [one("update", "Line", "a%2Fb/1")]),
        (lambda _: S.Line.objects.create(order="é", position=2), [one("create", "Line", "é/2")]),
        (lambda _: S.Blob(digest=BLOB).delete(), [one("delete", "Blob", "00ff")]),
        (lambda _: S.Payment(number=NUMBER).delete(), [one("delete", "Payment", NUMBER)]),
        (lambda c: c.filter(id=3)._raw_delete("default"), [one("delete", "Customer", 3)]),
        (lambda _: S.Customer(id=1).delete(), [counted("delete", "Payment", 1), one("delete", "Customer", 1)]),
        (lambda _: S.Customer(id=3).delete(), [one("delete", "Customer", 3)]),
        (lambda c: c.filter(id__in=[2, 3]).delete(), [many("read", "Customer", "2", "3"), many("delete", "Customer", "3", "2")]),
        (lambda _: S.Payment.objects.filter(customer__email="secret@example.com").delete(), [counted("delete", "Payment", 1), unknown("read", "Customer")]),
        (lambda _: S.Manager.objects.create(id=10), [one("create", "Person", 10)] * 2),
        (lambda _: S.Manager.objects.filter(level=1).update(name="y", level=2), [one("read", "Person", 9), one("update", "Person", 9), one("update", "Person", 9)]),
        (lambda _: S.Favourite(id=1, email="y").save(), [one("update", "Customer", 1)]),
(lambda c: c.get(id=1).groups.add(*groups("g")), ONE),
    ],
)  # fmt: skip
def test_every_way_of_changing_is_on_record_with_its_keys_or_says_that_they_are_unknown(
    alice, tmp_path, changes, expected
):
    changes(S.Customer.objects)
    assert said(tmp_path) == expected


def test_rows_of_a_relation_are_those_of_its_own_model(shop, pipeline, tmp_path):
    customer, (group,) = S.Customer.objects.get(id=1), groups("g")
    with declared(pipeline, ["shop.Customer_groups"]):
        customer.groups.add(group)
        list(customer.groups.all())
        customer.groups.remove(group)
    assert said(tmp_path) == [
        unknown("create", "Customer_groups"), unknown("read", "Customer_groups"), counted("delete", "Customer_groups", 1),
    ]  # fmt: skip


def test_a_record_says_who_in_which_request_and_is_what_the_inventory_expects(alice, tmp_path):
    S.Customer.objects.get(id=1)
    (record,) = records(tmp_path, "event")
    assert (record["principal"]["id"], record["source"]["ip"]) == ("alice", "203.0.113.7")
    assert record["trace"]["request_id"] == alice.request_id
    segments = (tmp_path / "spool" / "streams").glob("*/seg-*")
    (line,) = (line for each in segments for line in each.read_bytes().splitlines() if b"data.read" in line)
    assert reached("event", parse_rec(line, parse_frame(line))) == ("model", "read", "shop.Customer")


def change(key):
    S.Customer.objects.filter(id=key).update(email="x")


def test_what_is_rolled_back_is_said_to_be(alice, tmp_path):
    from django.db import transaction

    def inside():
        with transaction.atomic():
            change(2)
            with transaction.atomic():
                change(3)
            raise ZeroDivisionError

    def outside():
        with transaction.atomic():
            change(1)
            with suppress(ZeroDivisionError):
                inside()
            inner.extend(lasting(tmp_path))
            raise ZeroDivisionError

    inner = []
    with pytest.raises(ZeroDivisionError):
        outside()
    assert inner == [
        ("1", "success", None), ("2", "success", None), ("3", "success", None),
        ("2", "failure", "rolled back"), ("3", "failure", "rolled back"),
    ]  # fmt: skip
    with transaction.atomic():
        change(3)
    assert lasting(tmp_path) == [*inner, ("1", "failure", "rolled back"), ("3", "success", None)]


def test_a_rollback_that_nobody_raised_is_said_to_be(alice, tmp_path):
    from django.db import connection, transaction

    with transaction.atomic():
        change(1)
        transaction.set_rollback(True)
    with transaction.atomic(), transaction.atomic(savepoint=False):
        change(2)
        transaction.set_rollback(True)
    with transaction.atomic():
        place = connection.savepoint()
        change(3)
        transaction.savepoint_rollback(place)
    undone = [each for each in lasting(tmp_path) if each[1] == "failure"]
    assert undone == [(key, "failure", "rolled back") for key in "123"]
    change(1)
    connection.close()  # there is no transaction: what was changed lasts
    assert lasting(tmp_path)[-1] == ("1", "success", None)


def test_transactions_by_hand_are_followed(alice, tmp_path):
    from django.db import connection, transaction

    transaction.set_autocommit(False)
    try:
        change(1)
        transaction.commit()
        change(2)
        transaction.rollback()
        change(3)
        connection.close()
        transaction.set_autocommit(False)
        change(1)
    finally:
        transaction.set_autocommit(True)  # which commits, with SQLite
    connection.close()
    assert [each[:2] for each in lasting(tmp_path)] == [
        ("1", "success"), ("2", "success"), ("2", "failure"), ("3", "success"), ("3", "failure"), ("1", "success"),
    ]  # fmt: skip
    assert sorted(S.Customer.objects.exclude(email="secret@example.com").values_list("id", flat=True)) == [1]


def test_5000_rows_are_a_few_records_that_name_every_key(alice, tmp_path):
    S.Customer.objects.bulk_create(S.Customer() for _ in range(5000))
    before = len(said(tmp_path))
    assert sum(1 for _ in S.Customer.objects.order_by("id").iterator()) == 5003
    reads = said(tmp_path)[before:]
    keys = [key for each in reads for key in each[3]]
    assert keys == [str(number) for number in range(1, 5004)]
    assert len(reads) < 20
    assert before < 40


def test_what_is_read_chunk_by_chunk_is_on_record_as_it_is_taken(alice, tmp_path):
    rows = S.Customer.objects.order_by("id").iterator(chunk_size=2)
    assert said(tmp_path) == []
    next(rows)
    assert said(tmp_path) == [many("read", "Customer", "1", "2")]
    assert len(list(rows)) == 2
    assert said(tmp_path)[1:] == [one("read", "Customer", 3)]


def test_keys_that_cannot_be_said_are_defects_and_no_errors(alice, tmp_path):
    S.Strange.objects.get()
    S.Strange.objects.create(key="rest")
    list(S.Strange.objects.filter(key="rest"))
    S.Named.objects.create(key="\0\u202e" + "x" * 90)
    found = said(tmp_path)
    assert [(each[:2], each[4]) for each in found] == [
        (("read", "Strange"), ["details.keys"]), (("create", "Strange"), None),
        (("read", "Strange"), ["details.keys"]), (("create", "Named"), None),
    ]  # fmt: skip
    assert [found[0][2], found[2][2]] == ["unknown", "?rest"]


def test_a_journal_that_is_full_denies_by_policy_before_rows_are_handed_over_and_changes_begin(shop, tmp_path):
    files = FaultyFiles()
    pipeline = make_pipeline(tmp_path, files=files, on_failure="deny")
    exchange = Exchange(pipeline.service, "r", "GET", "/", 0)
    exchange.gate = pipeline
    token = enter(exchange)
    files.room = 0
    try:
        with declared(pipeline):
            for reads in (
                list,
                lambda found: next(found.iterator()),
                lambda found: next(iter(found.raw("SELECT * FROM shop_customer"))),
            ):
                with pytest.raises(RequestRefused):
                    reads(S.Customer.objects.all())
            assert exchange.is_refused
            for changes in (
                lambda: change(1),
                lambda: S.Customer(id=1).delete(),
                lambda: S.Customer.objects.create(id=70),
            ):
                with pytest.raises(RequestRefused):
                    changes()
            exchange.on_failure = "allow"
            assert sorted(S.Customer.objects.values_list("id", "email")) == [
                (number, "secret@example.com") for number in (1, 2, 3)
            ]
    finally:
        leave(token)


@pytest.mark.parametrize("path", ["reads", "reads-async"])
def test_the_client_gets_a_503_and_no_row(shop, tmp_path, path):
    from django.test import Client

    files = FaultyFiles()
    with declared(make_pipeline(tmp_path, files=files, on_failure="auto")):
        client = Client(raise_request_exception=False)
        assert client.get(f"/shop/{path}").content.endswith(b"secret@example.com")
        files.room = 0
        assert client.get(f"/shop/{path}").content.endswith(b"secret@example.com")  # auto: reads are no changes
    files = FaultyFiles()
    with declared(make_pipeline(tmp_path / "deny", files=files, on_failure="deny")):
        client = Client(raise_request_exception=False)
        client.get("/hello/")
        files.room = 0
        answer = client.get(f"/shop/{path}")
    assert (answer.status_code, b"secret" in answer.content) == (503, False)


def test_a_change_that_cannot_be_recorded_does_not_happen_and_is_a_503(shop, tmp_path):
    from django.test import Client

    files = FaultyFiles()
    with declared(make_pipeline(tmp_path, files=files)):
        client = Client(raise_request_exception=False)
        client.get("/hello/")
        files.room = 0
        assert client.post("/shop/changes").status_code == 503
        assert client.get("/shop/changes").status_code == 503
    assert S.Customer.objects.get(id=1).email == "secret@example.com"


def who(tmp_path):
    return [
        (each["principal"]["id"], each["resource"]["id"])
        for each in records(tmp_path, "event")
        if "data." in each["action"]
    ]


@pytest.mark.parametrize("path", ["asks-first", "reads-async", "streams"])
def test_rows_are_read_by_whoever_is_signed_in(watched, tmp_path, path):
    from django.test import Client

    client = Client()
    client.login(username="alice", password="alice")
    b"".join(client.get(f"/shop/{path}"))
    assert who(tmp_path) == [("alice", "3 rows" if path == "streams" else "1")]
    assert {each["principal"]["id"] for each in records(tmp_path)} == {"alice"}


@pytest.mark.anyio
async def test_rows_read_by_many_requests_at_once_are_read_by_each_ones_user(watched, tmp_path):
    from asgiref.sync import sync_to_async
    from django.test import AsyncClient

    clients = {name: AsyncClient() for name in ("alice", "bob", "root")}
    for name, client in clients.items():
        await sync_to_async(client.login)(username=name, password=name)
    answers = await asyncio.gather(*(client.get("/shop/reads-async") for client in list(clients.values()) * 5))
    assert {answer.status_code for answer in answers} == {200}
    found = [
        (each["principal"]["id"], each["trace"]["request_id"])
        for each in records(tmp_path, "event")
        if "data." in each["action"]
    ]
    requests = [(each["principal"]["id"], each["trace"]["request_id"]) for each in records(tmp_path)]
    assert len(found) == 15
    assert sorted(found) == sorted(requests)


def test_a_session_that_was_taken_over_reads_for_whoever_took_it(watched, tmp_path):
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.test import Client, override_settings

    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, "hijack.middleware.HijackUserMiddleware"]):
        client = Client()
        client.login(username="root", password="root")
        client.post("/hijack/acquire/", {"user_pk": str(User.objects.get(username="bob").pk)})
        client.get("/shop/asks-first")
    (read,) = (each["principal"] for each in records(tmp_path, "event") if each["action"] == "data.read")
    assert (read["id"], read["on_behalf_of"]) == ("root", "bob")


def test_who_has_not_been_asked_for_yet_is_unknown_and_the_answer_stays_as_it_was(watched, tmp_path):
    from django.test import Client

    client = Client()
    assert "Vary" not in client.get("/shop/reads").headers
    client.login(username="alice", password="alice")
    answer = client.get("/shop/reads")
    assert "Vary" not in answer.headers
    nobody, somebody = (each for each in records(tmp_path, "event") if each["action"] == "data.read")
    assert (nobody["principal"]["id"], nobody.get("defects")) == ("anonymous", None)
    assert (somebody["principal"]["id"], somebody["defects"]) == ("unknown", ["principal"])
    assert records(tmp_path)[-1]["principal"]["id"] == "alice"
    assert records(tmp_path)[-1]["trace"]["request_id"] == somebody["trace"]["request_id"]


def test_what_the_audit_trail_looks_up_is_nobodys_reading(shop, pipeline, tmp_path):
    from django.contrib.auth.models import User
    from django.test import Client

    def identify(request):
        return User.objects.get(username="bob").get_username()

    client = Client()
    client.login(username="alice", password="alice")
    with declared(pipeline, ["auth.User", "sessions.Session"], IDENTIFY=identify):
        client.get("/hello/")
        Client().get("/hello/")
        assert who(tmp_path) == []
        client.get("/shop/reads-users")
    assert {each["principal"]["id"] for each in records(tmp_path)} == {"alice", "bob"}
    assert [each[1:3] for each in said(tmp_path)] == [("auth.User", "2")]


def test_whom_identify_names_is_known_while_a_sync_view_runs(shop, pipeline, tmp_path):
    from django.test import Client

    with declared(pipeline, IDENTIFY=lambda request: "key-7"):
        Client().get("/shop/reads")
    assert who(tmp_path) == [("key-7", "1")]
    assert [each["principal"]["id"] for each in records(tmp_path)] == ["key-7"]


SCRIPT = """
import django, os
from django.conf import settings
from tests.integrations.django_project import settings as project
given = {name: getattr(project, name) for name in dir(project) if name.isupper()}
given["DATABASES"] = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
given["MIDDLEWARE"] = []
settings.configure(**given, AUDIT={"SERVICE": "cron", "SPOOL_DIR": os.environ["SPOOL"], "KEYS": os.environ["KEYS_OF_TEST"], "MODELS": MODELS})
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0, run_syncdb=True)
from tests.integrations.django_project.shop.models import Customer
Customer.objects.create(id=7)
"""


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (["shop.Customer"], [one("create", "Customer", 7)]),
        (["shop.Customer", "shop.Typo"], [one("create", "Customer", 7)]),
        ([], []),
    ],
)
def test_a_process_without_the_middleware_is_watched_from_its_start(tmp_path, models, expected):
    environment = {**os.environ, "SPOOL": str(tmp_path / "spool"), "KEYS_OF_TEST": KEYS}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    script = SCRIPT.replace("MODELS}", f"{models!r}}}")
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert said(tmp_path) == expected
    assert ("audit.E023" in done.stderr) == ("shop.Typo" in models)


def test_the_admin_is_on_record_with_the_keys_it_shows_and_changes(watched, tmp_path):
    from django.test import Client

    client = Client()
    client.login(username="root", password="root")
    client.get("/admin/shop/customer/")
    shown = said(tmp_path)
    assert many("read", "Customer", "3", "2", "1") in shown
    client.post("/admin/shop/customer/2/change/", {"email": "y@example.com"})
    client.post("/admin/shop/customer/2/delete/", {"post": "yes"})
    found = [each[:3] for each in said(tmp_path)[len(shown) :]]
    assert ("update", "Customer", "2") in found
    assert ("delete", "Customer", "2") in found
    assert {each[0] for each in who(tmp_path)} == {"root"}


def test_inside_an_audit_middleware_rows_are_of_the_outer_request(shop, pipeline, tmp_path):
    import httpx
    from django.core.wsgi import get_wsgi_application
    from django.test import Client

    client = Client()
    client.login(username="bob", password="bob")
    with declared(make_pipeline(tmp_path / "inner")):
        transport = httpx.WSGITransport(AuditWSGIMiddleware(get_wsgi_application(), pipeline=pipeline))
        cookies = {"sessionid": client.cookies["sessionid"].value}
        with httpx.Client(transport=transport, base_url="http://testserver", cookies=cookies) as outer:
            outer.get("/shop/asks-first")
    assert who(tmp_path) == [("bob", "1")]
    assert records(tmp_path / "inner", "event") == []


def test_threads_are_on_record_for_their_own_requests(watched, pipeline, tmp_path):
    from django.db import connection

    def read(name, key):
        exchange = Exchange(pipeline.service, name, "GET", "/", 0)
        exchange.gate, exchange.user = pipeline, name
        enter(exchange)
        for _ in range(20):
            S.Customer.objects.get(id=key)
        connection.close()

    threads = [threading.Thread(target=read, args=each) for each in (("ann", 1), ("ben", 2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(who(tmp_path)) == [("ann", "1")] * 20 + [("ben", "2")] * 20


@pytest.mark.anyio
async def test_the_async_interface_is_on_record_for_the_request_at_hand(shop, pipeline, tmp_path):
    from asgiref.sync import sync_to_async

    exchange = Exchange(pipeline.service, "r", "GET", "/", 0)
    exchange.gate, exchange.user = pipeline, "carol"
    token = enter(exchange)
    with declared(pipeline):
        customer = await S.Customer.objects.aget(id=1)
        await customer.asave()
        async for _ in S.Customer.objects.filter(id=2).aiterator():
            pass
        await S.Customer.objects.filter(id=3).aupdate(email="x")
        await S.Customer.objects.acreate(id=50)
        await S.Customer.objects.filter(id=50).adelete()
    leave(token)
    assert [each[:3] for each in said(tmp_path)][:5] == [
        ("read", "Customer", "1"), ("update", "Customer", "1"), ("read", "Customer", "2"),
        ("update", "Customer", "3"), ("create", "Customer", "50"),
    ]  # fmt: skip
    assert {each["principal"]["id"] for each in records(tmp_path, "event")} == {"carol"}
    await sync_to_async(lambda: None)()


def test_a_management_command_reads_for_who_runs_it(shop, pipeline, tmp_path):
    import io

    from django.core.management import call_command

    with declared(pipeline, COMMANDS=["dumpdata"]):
        call_command("dumpdata", "shop.Customer", stdout=io.StringIO())
    (task,) = records(tmp_path, "task")
    ((who_read, keys),) = who(tmp_path)
    assert (who_read, keys) == (task["principal"]["id"], "3 rows")


def test_without_a_request_it_is_the_service_itself(watched, tmp_path):
    S.Customer.objects.get(id=1)
    (record,) = records(tmp_path, "event")
    assert record["principal"] == {"id": "orders", "type": "service", "auth": "none"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("seen_in", UNKNOWN),
        ("keys_in", [counted("read", "Customer", 3)]),
        ("compared_keys", [counted("update", "Customer", 1)]),
    ],
)
def test_a_fault_of_ours_fails_nothing_and_leaves_rows_on_record_without_their_keys(
    alice, tmp_path, monkeypatch, caplog, name, expected
):
    monkeypatch.setattr(f"audit_integrations.django.rows.watching.{name}", lambda *_: 1 / 0)
    with caplog.at_level(logging.ERROR):
        if name == "compared_keys":
            change(1)
        else:
            assert len(S.Customer.objects.all()) == 3
    assert said(tmp_path) == expected
    assert "cannot be read" in caplog.text


def wrapped():
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models.query import RawQuerySet
    from django.db.models.sql import compiler

    methods = [
        compiler.SQLCompiler.execute_sql, compiler.SQLCompiler.get_from_clause, compiler.SQLInsertCompiler.execute_sql,
        RawQuerySet.iterator, BaseDatabaseWrapper.commit, BaseDatabaseWrapper.rollback, BaseDatabaseWrapper.close,
    ]  # fmt: skip
    return [method.__code__.co_filename.endswith("patching.py") for method in methods]


def test_while_no_model_is_declared_nothing_is_wrapped(shop, pipeline, tmp_path):
    assert wrapped() == [False] * 7
    with declared(pipeline, ["shop.Customer"]):
        assert wrapped() == [True] * 7
        S.Customer.objects.get(id=1)
        S.Payment.objects.get()
    assert wrapped() == [False] * 7
    S.Customer.objects.get(id=1)
    assert said(tmp_path) == ONE


@pytest.mark.parametrize(
    ("labels", "expected"), [(["shop.person"], "Person"), (["shop.Manager"], "Manager"), (["shop.Favourite"], None)]
)
def test_a_model_stands_for_its_subclasses_and_a_proxy_for_what_it_is_one_of(
    shop, pipeline, tmp_path, labels, expected
):
    with declared(pipeline, labels):
        list(S.Manager.objects.all())
        list(S.Customer.objects.filter(id=1))
    assert said(tmp_path) == ([one("read", expected, 9)] if expected else [one("read", "Favourite", 1)])


@pytest.mark.parametrize(
    "wrong", ["shop.Customer", {"shop.Customer": True}, [1], ["shop.Custmer"], ["Customer"], ["shop.Row"], True]
)
def test_what_is_no_model_is_a_finding_of_the_checks_and_stops_the_server(pipeline, wrong):
    from django.test import Client

    from audit_integrations.django.checks import check_audit

    with declared(pipeline, wrong):
        assert "audit.E023" in {message.id for message in check_audit()}
        with pytest.raises(ConfigurationError, match="MODELS"):
            Client().get("/hello/")


def test_a_release_of_django_that_cannot_be_watched_is_an_error_of_the_checks_and_stops_the_server(
    pipeline, monkeypatch
):
    from django.db.models.query import RawQuerySet
    from django.test import Client

    from audit_integrations.django.checks import check_audit

    monkeypatch.delattr(RawQuerySet, "iterator")
    with declared(pipeline):
        assert "audit.E024" in {message.id for message in check_audit()}
        with pytest.raises(ConfigurationError, match=r"RawQuerySet\.iterator"):
            Client().get("/hello/")


def test_a_database_backend_that_runs_statements_itself_is_a_warning(watched, monkeypatch):
    from django.db import connection
    from django.db.models.sql.compiler import SQLInsertCompiler

    from audit_integrations.django.checks import check_audit

    class Own(SQLInsertCompiler):
        def execute_sql(self, returning_fields=None):
            return []

    assert "audit.W022" not in {message.id for message in check_audit()}
    monkeypatch.setattr(connection.ops, "compiler", lambda _: Own)
    assert "audit.W022" in {message.id for message in check_audit()}


def test_what_is_declared_is_in_the_inventory(pipeline, tmp_path):
    def found():
        every = [record for record in records(tmp_path, "coverage") if record["component"] == "django models"]
        return [[(each["kind"], each["method"], each["route"]) for each in record["entry_points"]] for record in every]

    with declared(pipeline, ["shop.Payment", "shop.Customer"]):
        pipeline.start()
        try:
            wait_until(found)
        finally:
            pipeline.close()
    assert found()[0] == [("model", "*", "shop.Customer"), ("model", "*", "shop.Payment")]
