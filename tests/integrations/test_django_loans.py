"""Django's ``IDENTIFY`` uses the connections of the request, and a request that gives it up loses nothing by that."""

import asyncio
import contextlib
import threading
import unittest

import pytest

from tests.capture.kit import make_pipeline, records

pytestmark = pytest.mark.usefixtures("django_project", "impatient")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("audit_middleware.capture.identify.IDENTIFY_TIMEOUT_S", 0.1)


@pytest.fixture
def users():
    from django.contrib.auth.models import User

    yield User.objects
    User.objects.filter(username__startswith="lent").delete()


class Hanging:
    """An ``IDENTIFY`` that does something, hangs, and does something else when it has long been given up."""

    def __init__(self, before=lambda: None, after=lambda: None, around=contextlib.nullcontext):
        self.before, self.after, self.around = before, after, around
        self.goes_on, self.ended, self.raised = threading.Event(), threading.Event(), None

    def __call__(self, request):
        try:
            with self.around():
                self.before()
                self.goes_on.wait(10)
                self.after()
        except Exception as error:
            self.raised = error
        finally:
            self.ended.set()

    def finish(self):
        self.goes_on.set()
        assert self.ended.wait(10)


def asked(function, tmp_path, view=lambda: ""):
    """Serve one request whose view calls ``view``, and name its principal by ``function``; return the record."""
    from django.http import HttpResponse
    from django.test import Client, override_settings
    from django.urls import path

    class Urls:
        urlpatterns = (path("x", lambda request: HttpResponse(view())),)

    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path), "IDENTIFY": function}, ROOT_URLCONF=Urls):
        assert Client().get("/x").status_code == 200
    return records(tmp_path)[-1]


def test_an_identify_that_hangs_is_given_up_and_the_request_keeps_its_connection(tmp_path, users):
    from django.db import DatabaseError, connection

    used = []
    hanging = Hanging(before=lambda: used.append((users.count(), connection.connection)), after=users.count)
    before = users.count(), connection.connection
    record = asked(hanging, tmp_path)
    assert record["principal"]["id"] == "unknown"
    assert "principal.id" in record["defects"]
    assert (users.count(), connection.connection) == before == used[0]
    hanging.finish()
    assert isinstance(hanging.raised, DatabaseError)
    assert (users.count(), connection.connection) == before


@pytest.mark.parametrize("is_of_request", [False, True])
def test_what_a_view_has_not_committed_when_identify_hangs_is_committed(tmp_path, users, monkeypatch, is_of_request):
    """An event inside the transaction of a view asks who acts."""
    from django.db import connection, transaction

    from audit_middleware import events

    done = []
    hanging = Hanging(after=lambda: transaction.atomic().__enter__())

    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", is_of_request)

    def view():
        assert connection.in_atomic_block is is_of_request
        with transaction.atomic():
            users.create(username="lent-1")
            transaction.on_commit(lambda: done.append("committed"))
            events.exported("orders", rows=1, to="csv")
            users.create(username="lent-2")
            hanging.finish()
            users.create(username="lent-3")
        return ""

    asked(hanging, tmp_path, view)
    assert connection.get_autocommit()
    assert done == ["committed"]
    assert users.filter(username__startswith="lent").count() == 3
    assert records(tmp_path, "event")[-1]["principal"]["id"] == "unknown"


def test_a_transaction_that_an_identify_hangs_in_stays_with_it(tmp_path, users):
    from django.db import connection, transaction

    hanging = Hanging(before=lambda: users.filter(username="nobody").exists(), around=transaction.atomic)
    assert users.count()
    before = connection.connection
    asked(hanging, tmp_path)
    assert hanging.raised is None
    assert users.count()
    assert connection.connection is not before
    assert connection.get_autocommit()
    hanging.finish()
    assert hanging.raised is None
    users.create(username="lent-4")


def test_an_identify_that_hangs_in_a_savepoint_leaves_the_transaction_of_the_request(tmp_path, users):
    from django.db import connection, transaction

    hanging = Hanging(around=transaction.atomic)
    with transaction.atomic():  # as TestCase does around every test
        users.create(username="lent-5")
        asked(hanging, tmp_path)
        hanging.finish()
        assert connection.in_atomic_block
        assert not connection.needs_rollback
        with transaction.atomic():
            users.create(username="lent-6")
    assert users.filter(username__startswith="lent").count() == 2


def test_an_identify_inside_the_database_is_waited_for_in_a_transaction_only(tmp_path, users):
    from django.db import connection, transaction

    def busy(execute, *arguments):
        if "SELECT" in arguments[0] and threading.current_thread().name == "audit-identify":
            started.set()
            released.wait(10)
        return execute(*arguments)

    assert users.count()
    before = connection.connection
    for is_atomic in (False, True):
        started, released, ended = threading.Event(), threading.Event(), []

        def identify(request, started=started, ended=ended):
            ended.append(users.count())

        with transaction.atomic() if is_atomic else contextlib.nullcontext(), connection.execute_wrapper(busy):
            timer = threading.Timer(0.5, released.set)
            timer.start()
            asked(identify, tmp_path)
            assert bool(ended) is is_atomic
            assert started.is_set()
            if not is_atomic:
                assert connection.connection is None
            users.count()
        released.set()
        timer.join()
        if is_atomic:
            assert connection.connection is before
        before = connection.connection


@pytest.mark.anyio
async def test_an_identify_that_hangs_does_not_hold_djangos_thread_for_sync_code(tmp_path, users):
    from asgiref.sync import sync_to_async
    from django.test import AsyncClient, override_settings

    hanging = Hanging()
    with override_settings(AUDIT={"PIPELINE": make_pipeline(tmp_path), "IDENTIFY": hanging}):
        answer = await asyncio.wait_for(AsyncClient().get("/async-hello"), 5)
    assert answer.status_code == 200
    assert await asyncio.wait_for(sync_to_async(users.count)(), 5)
    assert records(tmp_path)[-1]["principal"]["id"] == "unknown"
    hanging.finish()


def test_in_a_test_case_of_django_the_database_is_as_it_was(tmp_path, users):
    from django.db import connection, transaction
    from django.test import TestCase

    class Case(TestCase):
        def test(self):
            users.create(username="lent-8")
            hanging = Hanging(before=users.count, after=users.count)
            asked(hanging, tmp_path)
            hanging.finish()
            assert users.filter(username="lent-8").exists()
            with self.captureOnCommitCallbacks() as callbacks:
                asked(lambda request: transaction.on_commit(str) or "x", tmp_path)
            assert callbacks == [str]

    result = unittest.TestResult()
    unittest.TestSuite([Case("test")]).run(result)
    assert (result.errors, result.failures) == ([], [])
    assert not users.filter(username="lent-8").exists()
    assert not connection.in_atomic_block


def test_what_identify_changes_is_of_the_request(tmp_path, users):
    """Its savepoints, what it wants to be done after the commit, and what it says of the transaction."""
    from django.db import connection, transaction

    done = []

    def identify(request):
        with transaction.atomic():
            users.create(username="lent-7")
            transaction.on_commit(lambda: done.append("committed"))
        return "x"

    with transaction.atomic():
        asked(identify, tmp_path)
        assert users.filter(username="lent-7").exists()
        assert done == []
    assert done == ["committed"]
    asked(lambda request: connection.close(), tmp_path)
    assert connection.connection is None
    assert users.filter(username="lent-7").exists()


def test_queries_of_identify_are_counted_where_those_of_the_request_are(tmp_path, users):
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    assert users.count()
    with CaptureQueriesContext(connection) as seen:
        asked(lambda request: str(users.count()), tmp_path)
    assert len(seen) == 1
