"""What every framework declares is what its requests, tasks and commands are on record as."""

import threading

import click
import dramatiq
import flask
import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.signals import worker_ready
from click.testing import CliRunner
from django.core.management import call_command
from django.test import Client, override_settings
from dramatiq.brokers.stub import StubBroker
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from werkzeug.test import Client as WSGIClient

from audit_integrations import entry_points as gate
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, audited
from audit_middleware.inventory_record import ANY
from tests.capture.kit import make_pipeline, records
from tests.shipping.kit import wait_until


def declared(folder):
    """Return what lies in the journal: (kind, method, route, why exempt) of each component."""
    found = {}
    for record in records(folder, "coverage"):
        points = found.setdefault(record["component"], set())
        points |= {(each["kind"], each["method"], each["route"], each.get("exempt")) for each in record["entry_points"]}
    return found


def spelled(points):
    """Return what the coverage gate sees, in the same words."""
    return {(each.kind, each.method, each.route, each.exemption and each.exemption.reason) for each in points}


class Consumer:
    """What Celery sends with its signal, as far as it is looked at."""

    def __init__(self, app):
        self.app = app


@pytest.fixture
def pipeline(tmp_path):
    return make_pipeline(tmp_path)


def test_fastapi_declares_what_the_gate_sees_with_routers_mounts_and_websockets(pipeline, tmp_path):
    router = APIRouter(prefix="/v1")

    @router.get("/orders/{pk}")
    async def order(pk: int):
        return pk

    @router.post("/ping")
    @audited(exempt="a probe")
    async def ping():
        return None

    inner = Starlette(routes=[Route("/deep/{name}", PlainTextResponse, methods=["PUT"])])
    app = FastAPI(title="Shop", routes=[Mount("/inner", inner), WebSocketRoute("/live", PlainTextResponse)])
    app.include_router(router)
    app.add_middleware(AuditMiddleware, pipeline=pipeline)
    with TestClient(app) as client:
        client.get("/v1/orders/1")
    points = declared(tmp_path)["fastapi Shop"]
    assert points == spelled(gate.entry_points(app))
    assert {("http", "GET", "/v1/orders/{pk}", None), ("http", "POST", "/v1/ping", "a probe")} < points
    assert ("http", "PUT", "/inner/deep/{name}", None) in points
    assert ("websocket", "GET", "/live", None) in points
    assert records(tmp_path)[0]["http"]["route"] == "/v1/orders/{pk}"


def test_flask_declares_what_the_gate_sees_with_the_first_request(pipeline, tmp_path):
    from audit_integrations.flask import Audit

    app = flask.Flask("shop")
    Audit(app, pipeline=pipeline)
    app.get("/orders/<pk>", endpoint="order")(lambda pk: pk)
    app.post("/ping", endpoint="ping")(audited(exempt="a probe")(lambda: ""))
    assert records(tmp_path, "coverage") == []
    app.test_client().get("/orders/1")
    pipeline.close()
    assert declared(tmp_path) == {"flask shop": spelled(gate.entry_points(app))}
    assert ("http", "GET", "/orders/<pk>", None) in declared(tmp_path)["flask shop"]


@pytest.mark.usefixtures("django_project")
def test_django_declares_its_urls_and_the_commands_that_are_on_record(pipeline, tmp_path):
    from audit_integrations.django.routes import entry_points

    given = {"PIPELINE": pipeline, "COMMANDS": ["audit", "cleanup"]}
    with override_settings(AUDIT=given, MIDDLEWARE=["audit_integrations.django.AuditMiddleware"]):
        Client().get("/nowhere/")
        pipeline.close()
        found = declared(tmp_path)
        urls = spelled(entry_points())
    (commands,) = [points for component, points in found.items() if component.startswith("django-admin")]
    (routes,) = [points for component, points in found.items() if component.startswith("django ")]
    assert routes == urls
    assert len(routes) > 10
    assert commands == {("command", ANY, "cleanup", None)}


def test_a_celery_worker_declares_its_tasks_and_not_celerys_own(pipeline, tmp_path):
    from audit_integrations.celery import Audit

    app = Celery("shop", broker="memory://", backend="cache+memory://")
    Audit(app, pipeline=pipeline)

    @app.task(name="pay", shared=False)
    def pay():
        return 1

    @app.task(name="sweep", shared=False)
    @audited(exempt="touches no data")
    def sweep():
        return 1

    with start_worker(app, perform_ping_check=False, pool="solo"):
        worker_ready.send(sender=Consumer(app))  # which a worker in a thread does not say by itself
        wait_until(lambda: records(tmp_path, "coverage"))
        assert pay.delay().get(timeout=10) == 1
    assert declared(tmp_path) == {
        "celery shop": {("task", ANY, "pay", None), ("task", ANY, "sweep", "touches no data")}
    }
    assert {record["task"]["name"] for record in records(tmp_path, "task")} == {"pay"}


def test_a_dramatiq_worker_declares_its_actors(pipeline, tmp_path):
    from audit_integrations.dramatiq import Audit

    broker = StubBroker()
    Audit(broker, pipeline=pipeline)
    ran = threading.Event()
    actor = dramatiq.actor(ran.set, actor_name="send", broker=broker)
    worker = dramatiq.Worker(broker, worker_timeout=10)
    worker.start()
    actor.send()
    assert ran.wait(10)
    worker.join()
    worker.stop()
    assert declared(tmp_path) == {"dramatiq": {("task", ANY, "send", None)}}
    assert records(tmp_path, "task")[0]["task"]["name"] == "send"


def test_a_scheduler_declares_the_jobs_that_it_has_when_it_starts(pipeline, tmp_path):
    from audit_integrations.apscheduler import Audit

    scheduler = BackgroundScheduler()
    Audit(scheduler, pipeline=pipeline)
    scheduler.add_job(lambda: None, "interval", hours=1, name="nightly")
    scheduler.start()
    wait_until(lambda: records(tmp_path, "coverage"))
    scheduler.shutdown()
    pipeline.close()
    assert declared(tmp_path) == {"apscheduler": {("schedule", ANY, "nightly", None)}}


def test_a_program_declares_all_its_commands_whichever_is_run(pipeline, tmp_path):
    from audit_integrations.click import Audit

    cli = click.Group("shop")
    cli.command("refund")(audited(exempt="a rehearsal")(lambda: None))
    cli.command("sell")(lambda: None)
    Audit(pipeline=pipeline)(cli)
    CliRunner().invoke(cli, ["sell"])
    pipeline.close()
    component = f"click {__name__}"
    assert declared(tmp_path) == {
        component: {("command", ANY, "refund", "a rehearsal"), ("command", ANY, "sell", None)}
    }
    assert records(tmp_path, "task")[0]["task"]["name"] == "sell"


@pytest.mark.usefixtures("django_project")
def test_django_below_a_middleware_of_wsgi_is_declared_by_that(pipeline, tmp_path):
    from django.core.wsgi import get_wsgi_application

    from audit_integrations.django.routes import entry_points

    client = WSGIClient(AuditWSGIMiddleware(get_wsgi_application(), pipeline=pipeline))
    client.get("/orders/7/").close()
    pipeline.close()
    (points,) = [points for component, points in declared(tmp_path).items() if component.startswith("django ")]
    assert points == spelled(entry_points())


@pytest.mark.usefixtures("django_project")
def test_a_command_of_django_declares_what_a_server_of_the_project_does(pipeline, tmp_path):

    with override_settings(AUDIT={"PIPELINE": pipeline, "COMMANDS": ["check"]}):
        call_command("check")
        pipeline.close()
    (points,) = [points for component, points in declared(tmp_path).items() if component.startswith("django-admin")]
    assert points == {("command", ANY, "check", None)}
