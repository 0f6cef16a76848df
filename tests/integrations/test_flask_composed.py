"""Rules of views in Flask apps as they are composed: subdomains, values taken away, caches, extensions that answer."""

import contextlib
import functools
import sys
import types

import bottle
import pytest
from fastapi import FastAPI
from flask import Blueprint, Flask, abort, g, got_request_exception, request, request_finished, request_started
from flask.views import MethodView
from starlette.testclient import TestClient
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from audit_integrations.entry_points import entry_points as entry_points_of
from audit_integrations.flask import Audit
from audit_middleware import AuditMiddleware, AuditWSGIMiddleware, audited
from audit_middleware.capture.entry_points import entry_points
from audit_middleware.errors import JournalError
from audit_middleware.testing import FaultyFiles
from tests.capture.kit import make_pipeline, records


@pytest.fixture
def disk():
    return FaultyFiles()


@pytest.fixture
def pipeline(tmp_path, disk):
    return make_pipeline(tmp_path, files=disk, spool_min_free=0)


def fill(client, disk, path="/", **options):
    disk.room = 0
    for _ in range(2):  # the first one finds out only when it is done
        with contextlib.suppress(JournalError):
            client.get(path, **options)


def test_values_that_a_blueprint_takes_away_are_in_the_resource(pipeline, tmp_path):
    blueprint = Blueprint("shop", __name__, url_prefix="/<lang>")
    blueprint.url_value_preprocessor(lambda _endpoint, values: values.pop("lang"))
    blueprint.route("/orders/<int:number>")(lambda number: f"{number}")
    app = Flask("shop")
    app.register_blueprint(blueprint)
    Audit(app, pipeline=pipeline)
    assert app.test_client().get("/de/orders/7").text == "7"
    (record,) = records(tmp_path)
    assert (record["resource"], record.get("defects")) == ({"type": "orders", "id": "de/7"}, None)


def test_the_policy_of_a_view_holds_on_its_subdomain_and_no_other(pipeline, disk):
    app, ran = Flask("shop", subdomain_matching=True), []
    app.config["SERVER_NAME"] = "shop.test"
    lenient = audited(on_failure="allow")(lambda **named: ran.append(named) or "lenient")
    app.add_url_rule("/hook", "api", lenient, subdomain="api", methods=["POST"])
    app.add_url_rule("/hook", "other", lambda tenant: ran.append(tenant) or "x", subdomain="<tenant>", methods=["POST"])
    app.add_url_rule("/bare", "bare", lenient, methods=["POST"])
    app.add_url_rule("/bare", "rest", lambda tenant: ran.append(tenant) or "x", subdomain="<tenant>", methods=["POST"])
    Audit(app, pipeline=pipeline)
    client = Client(app)
    fill(client, disk, "/nowhere", headers={"Host": "shop.test"})
    asked = [
        ("api.shop.test", "/hook"),
        ("shop.test", "/bare"),
        ("acme.shop.test", "/hook"),
        ("acme.shop.test", "/bare"),
    ]
    statuses = [client.post(path, headers={"Host": host}).status_code for host, path in asked]
    assert statuses == [200, 200, 503, 503]
    assert ran == [{}, {}]


def test_a_policy_does_not_hold_for_the_view_that_middleware_inside_leads_to(pipeline, disk, tmp_path):
    app, ran = Flask("shop"), []
    app.add_url_rule("/lenient", "lenient", audited(on_failure="allow")(lambda: "lenient"), methods=["POST"])
    app.add_url_rule("/other", "other", lambda: ran.append("other") or "other", methods=["POST"])
    inner = app.wsgi_app
    app.wsgi_app = lambda environ, start: inner({**environ, "PATH_INFO": "/other"}, start)
    Audit(app, pipeline=pipeline)
    fill(Client(app), disk)
    assert Client(app).post("/lenient").status_code == 503
    assert ran == []


@pytest.mark.parametrize(("status", "outcome", "ended"), [(403, "denied", "complete"), (500, "failure", "exception")])
def test_an_abort_that_an_extension_answers_and_signals_is_no_exception(pipeline, tmp_path, status, outcome, ended):
    app = Flask("shop")

    @app.errorhandler(Exception)
    def answering(error):  # as Flask-RESTX does
        got_request_exception.send(app, exception=error)
        return {"message": "no"}, error.code if isinstance(error, HTTPException) else 500

    @app.get("/")
    def view():
        if status == 403:
            abort(403)
        raise KeyError

    Audit(app, pipeline=pipeline)
    assert app.test_client().get("/").status_code == status
    (record,) = records(tmp_path)
    assert (record["outcome"], record["http"]["ended"], record["http"]["status"]) == (outcome, ended, status)


def test_what_a_cache_answers_is_held_to_the_policy_and_the_names_of_its_view(pipeline, disk, tmp_path):
    app, kept = Flask("shop"), []

    def cached(view):
        @functools.wraps(view)
        def wrapper(**named):
            if not kept:
                kept.append(view(**named))
            return kept[0]

        return wrapper

    @app.get("/orders/<number>")
    @cached
    @audited("orders.read", resource="order:{number}", query=["page"], on_failure="deny")
    def read(number):
        return number

    Audit(app, pipeline=pipeline)
    client = Client(app)
    assert [client.get("/orders/7?page=2").status_code for _ in range(2)] == [200, 200]
    first, second = records(tmp_path)
    assert first["details"] == second["details"] == {"query": {"page": ["2"]}}
    fill(client, disk, "/nowhere")
    with pytest.raises(JournalError):
        client.get("/orders/7")


def test_head_has_the_rules_of_the_get_that_answers_it(pipeline, disk, tmp_path):
    class Health(MethodView):
        @audited(exempt="asked twice a second", on_failure="allow")
        def get(self):
            return "fine"

    app = Flask("shop")
    app.add_url_rule("/", view_func=Health.as_view("health"))
    Audit(app, pipeline=pipeline)
    assert Client(app).head("/").status_code == 200
    assert records(tmp_path) == []


def test_names_of_functions_within_functions_add_up(pipeline, tmp_path):
    app = Flask("shop")

    @audited(query=["sort"], body=["amount"])
    def service():
        request.get_data()
        return "x"

    @app.post("/")
    @audited(query=["page"], body=["note"])
    def view():
        return service()

    Audit(app, pipeline=pipeline)
    app.test_client().post("/?page=1&sort=asc&token=secret", json={"amount": 1, "note": "n", "card": "4111"})
    (record,) = records(tmp_path)
    assert record["details"] == {"query": {"page": ["1"], "sort": ["asc"]}, "body": {"amount": 1, "note": "n"}}


def test_a_function_that_need_not_be_on_record_does_not_soften_the_view_that_calls_it(pipeline, disk):
    app = Flask("shop")
    helper = audited(on_failure="allow")(lambda: "exported")

    @app.get("/")
    @audited(on_failure="deny")
    def export():
        answer = helper()
        disk.room = 0  # full while the view runs
        return answer

    Audit(app, pipeline=pipeline)
    assert Client(app).get("/nowhere").status_code == 404
    with pytest.raises(JournalError):
        Client(app).get("/")


def test_an_exempt_view_of_bottle_is_not_recorded_below_middleware_of_werkzeug(pipeline, tmp_path):
    app = bottle.Bottle()
    app.get("/health")(audited(exempt="asked twice a second")(lambda: "fine"))
    app.get("/orders/<number:int>")(lambda number: f"{number}")
    client = Client(AuditWSGIMiddleware(app, pipeline=pipeline))
    assert [client.get(path).status_code for path in ("/health", "/orders/7")] == [200, 200]
    (record,) = records(tmp_path)
    assert record["http"]["route"] == "/orders/<number:int>"


def billing():
    """Make an app to be mounted."""
    app = Flask("billing")

    @app.route("/bills/<int:number>", methods=["GET", "POST"])
    @audited("bills.act", on_failure="allow")
    def bill(number):
        g.user = "bob"
        return f"{number}"

    app.post("/other", endpoint="other")(lambda: "other")
    app.get("/health")(audited(exempt="asked twice a second")(lambda: "fine"))
    return app


class Static:
    """Keeps the next one where WhiteNoise does."""

    def __init__(self, application):
        self.application = application

    def __call__(self, environ, start):
        return self.application(environ, start)


@pytest.mark.parametrize("around", [Static, functools.partial])
def test_a_policy_is_seen_through_middleware_inside(pipeline, disk, around):
    app = billing()
    app.wsgi_app = around(app.wsgi_app)
    Audit(app, pipeline=pipeline)
    fill(Client(app), disk, "/nowhere")
    assert Client(app).post("/bills/7").status_code == 200


def test_what_can_be_called_is_seen_through_what_calls_the_next_one_an_application():
    class ByProtocol:  # as ProtocolTypeRouter of Channels
        application_mapping = {"http": FastAPI(), "websocket": None}  # noqa: RUF012 - as short as this

    assert {point.route for point in entry_points_of(Static(billing()))} >= {"/bills/<int:number>"}
    assert {point.route for point in entry_points_of(ByProtocol())} >= {"/docs"}


@pytest.mark.parametrize("is_audited_itself", [False, True])
def test_an_app_that_is_mounted_in_an_audited_one_is_seen_through_it(pipeline, disk, tmp_path, is_audited_itself):
    inner, outer = billing(), Flask("shop")
    if is_audited_itself:
        Audit(inner, pipeline=pipeline)
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/of/billing": inner})
    Audit(outer, pipeline=pipeline)
    client = Client(outer)
    assert [client.get(path).status_code for path in ("/of/billing/bills/7", "/of/billing/health", "/of")] == [
        200,
        200,
        404,
    ]
    bill, _missing = records(tmp_path)
    assert (bill["action"], bill["principal"]["id"], bill["resource"]) == (
        "bills.act",
        "bob",
        {"type": "bills", "id": "7"},
    )
    assert (bill["http"]["route"], bill["http"]["path"]) == ("/bills/<int:number>", "/of/billing/bills/7")
    fill(client, disk, "/of")
    assert client.post("/of/billing/bills/7").status_code == 200
    assert client.post("/of/billing/other").status_code == 503


@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")
def test_an_app_that_fastapi_mounts_leaves_one_record(pipeline, disk, tmp_path):
    from starlette.middleware.wsgi import WSGIMiddleware

    inner, outer = billing(), FastAPI()
    Audit(inner, pipeline=pipeline)
    outer.mount("/of/{tenant}", WSGIMiddleware(inner))
    outer.add_middleware(AuditMiddleware, pipeline=pipeline)
    client = TestClient(outer)
    answers = [client.get(path) for path in ("/of/acme/bills/7", "/of/acme/nowhere", "/of/acme/health")]
    assert [answer.status_code for answer in answers] == [200, 404, 200]
    bill, *_ = found = records(tmp_path)
    assert (bill["action"], bill["principal"]["id"], bill.get("defects")) == ("bills.act", "bob", None)
    assert bill["http"]["route"] == "/of/{tenant}/bills/<int:number>"
    assert bill["trace"]["request_id"] == answers[0].headers["X-Request-ID"]
    assert len(found) == 2
    assert "/of/{tenant}/bills/<int:number>" in {point.route for point in entry_points(outer)}
    disk.room = 0
    for _ in range(2):
        client.get("/of/acme/nowhere")
    assert client.post("/of/acme/bills/7").status_code == 200
    assert client.post("/of/acme/other").status_code == 503


def test_an_app_whose_view_calls_another_one_leaves_a_record_of_each(pipeline, tmp_path):
    inner, outer = billing(), Flask("shop")
    Audit(inner, pipeline=pipeline)
    Audit(outer, pipeline=pipeline)
    outer.get("/bills/<int:number>")(lambda number: inner.test_client().get(f"/bills/{number}").text)
    assert Client(outer).get("/bills/7", headers={"User-Agent": "curl/8"}).text == "7"
    assert [record["principal"]["id"] for record in records(tmp_path)] == ["bob", "anonymous"]


def test_a_policy_of_the_app_does_not_hold_for_another_that_is_mounted_in_it(pipeline, disk):
    app, legacy, ran = Flask("shop"), bottle.Bottle(), []
    app.add_url_rule("/", "home", lambda: "home")
    app.add_url_rule("/<path:page>", "page", audited(on_failure="allow")(lambda page: page), methods=["GET", "POST"])
    legacy.route("/delete", "POST", lambda: ran.append("delete") or "gone")
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/legacy": legacy})
    Audit(app, pipeline=pipeline)
    client = app.test_client()
    fill(client, disk)
    assert (client.post("/legacy/delete").status_code, ran) == (503, [])
    assert client.post("/about").text == "about"


@pytest.mark.parametrize("is_in_app", [False, True])
def test_signals_that_are_sent_outside_of_requests_raise_nothing(pipeline, is_in_app):
    app, other = Flask("shop"), Flask("other")
    Audit(app, pipeline=pipeline)
    for each in (app, other):
        with each.app_context() if is_in_app else contextlib.nullcontext():
            request_started.send(each)
            got_request_exception.send(each, exception=ValueError())
    request_finished.send(other, response=other.response_class())


def test_whom_extensions_for_tokens_found_is_the_principal(pipeline, tmp_path, monkeypatch):
    extension = types.ModuleType("flask_jwt_extended")

    def get_jwt_identity():  # raises where no view asked for a token, as the extension's own does
        if "token" not in g:
            raise RuntimeError("call verify_jwt_in_request first")
        return g.token

    extension.get_jwt_identity = get_jwt_identity
    monkeypatch.setitem(sys.modules, "flask_jwt_extended", extension)
    app = Flask("shop")

    @app.get("/<name>/<value>")
    def view(name, value):
        setattr(g, name, value)
        return "ok"

    Audit(app, pipeline=pipeline)
    for path in ("/flask_httpauth_user/ann", "/token/carl", "/other/x"):
        assert app.test_client().get(path).status_code == 200
    found = [(record["principal"]["id"], record.get("defects")) for record in records(tmp_path)]
    assert found == [("ann", None), ("carl", None), ("anonymous", None)]
