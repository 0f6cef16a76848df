"""``@audited``: action, resource and exemption written beside a function, for every framework."""

import datetime as dt
import functools

import pytest
from fastapi import Depends, FastAPI, HTTPException
from flask import Flask
from starlette.testclient import TestClient

from audit_integrations.flask import Audit
from audit_middleware import AuditMiddleware, ConfigurationError, audited, current_audit
from audit_middleware.capture.entry_points import entry_points
from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.exemption import Exemption
from audit_middleware.capture.rules import is_out_of_policy, note_view, rules_for, rules_of
from tests.capture.kit import make_pipeline, records


@pytest.fixture
def app(tmp_path):
    app = FastAPI()
    app.add_middleware(AuditMiddleware, pipeline=make_pipeline(tmp_path))
    return app


def said(tmp_path):
    return [(record["action"], record["resource"]["type"], record["resource"]["id"]) for record in records(tmp_path)]


def test_a_view_names_its_action_and_fills_its_resource(app, tmp_path):
    @app.post("/orders/{order_id}/refund")
    @audited("orders.refund", resource="order:{order_id}")
    def refund(order_id: int, amount: int = 0):
        return order_id

    @app.get("/orders/{order_id}")
    @audited("orders.read", resource="order:{order_id}")
    async def read(order_id: int):
        return order_id

    client = TestClient(app)
    client.post("/orders/7/refund")
    client.get("/orders/8")
    assert said(tmp_path) == [("orders.refund", "order", "7"), ("orders.read", "order", "8")]


def test_a_function_that_is_no_view_speaks_for_its_request(app, tmp_path):
    @audited("orders.refund", resource="order:{number}/{part}")
    def business(number, *, part="all"):
        return number

    app.get("/")(lambda: business(7))
    TestClient(app).get("/")
    assert said(tmp_path) == [("orders.refund", "order", "7/all")]
    assert business(8) == 8
    assert [record["task"]["name"] for record in records(tmp_path, "task")] == ["orders.refund"]  # work of its own


def test_what_the_function_says_wins(app, tmp_path):
    @app.get("/")
    @audited("orders.read", resource="order:*")
    def read():
        current_audit().action = "orders.export"

    TestClient(app).get("/")
    assert said(tmp_path) == [("orders.export", "order", "*")]


def test_the_query_parameters_it_names_are_recorded_and_no_others(app, tmp_path):
    @app.get("/orders")
    @audited(query=["page"])
    def orders():
        return "ok"

    app.get("/other")(lambda: "ok")
    client = TestClient(app)
    client.get("/orders?page=2&token=secret")
    client.get("/other?page=2")
    assert [record.get("details") for record in records(tmp_path)] == [{"query": {"page": ["2"]}}, None]


def test_a_dependency_and_its_view_name_query_parameters_and_fields_beside_each_other(app, tmp_path):
    @audited(query=["tenant"], body=["reason"])
    def of_tenant(tenant: str):
        return tenant

    @app.post("/orders")
    @audited(query=["page"], body=["amount"])
    def create(order: dict, tenant: str = Depends(of_tenant)):
        return tenant

    client = TestClient(app)
    client.post("/orders?tenant=acme&page=2&token=x", json={"reason": "gift", "amount": 7, "card": "x"})
    assert records(tmp_path)[0]["details"] == {
        "query": {"tenant": ["acme"], "page": ["2"]}, "body": {"reason": "gift", "amount": 7},
    }  # fmt: skip


def test_it_works_under_flask(tmp_path):
    app = Flask("shop")

    @app.get("/orders/<int:order_id>")
    @audited("orders.read", resource="order:{order_id}")
    def read(order_id):
        return str(order_id)

    Audit(app, pipeline=make_pipeline(tmp_path))
    app.test_client().get("/orders/7")
    assert said(tmp_path) == [("orders.read", "order", "7")]


def test_an_exempt_request_is_not_recorded_and_the_exemption_is_once(app, tmp_path):
    app.get("/health")(audited(exempt="asked twice a second")(health))
    client = TestClient(app)
    for _ in range(3):
        assert client.get("/health").status_code == 200
    client.get("/nowhere")
    assert [record["http"]["path"] for record in records(tmp_path)] == ["/nowhere"]
    (event,) = records(tmp_path, "event")
    assert (event["action"], event["resource"], event["reason"]) == (
        "audit.exempt", {"type": "route", "id": "/health"}, "asked twice a second",
    )  # fmt: skip


def health():
    return "ok"


def test_an_exemption_ends_with_its_last_day(app, tmp_path, monkeypatch):
    app.get("/health")(audited(exempt="until we know better", until="2026-11-30")(health))
    client = TestClient(app)
    for day in (30, 1):
        month = 11 if day == 30 else 12
        monkeypatch.setattr("audit_middleware.pipeline.today", lambda day=day, month=month: dt.date(2026, month, day))
        client.get("/health")
    assert len(records(tmp_path)) == 1


def test_an_exempt_request_that_had_an_attempt_is_recorded(app, tmp_path):
    """An attempt without its outcome looks like a process that was killed."""
    app.post("/health")(audited(exempt="harmless")(health))
    TestClient(app).post("/health")
    assert len(records(tmp_path, "attempt")) == len(records(tmp_path)) == 1


def test_a_request_that_never_reached_the_exempt_view_is_recorded(app, tmp_path):
    def guard():
        raise HTTPException(403)

    app.get("/health", dependencies=[Depends(guard)])(audited(exempt="harmless")(health))
    TestClient(app).get("/health")
    assert records(tmp_path)[0]["outcome"] == "denied"


def test_a_method_that_the_router_refuses_is_not_called_what_the_view_is(app, tmp_path):
    @app.get("/orders/{number}")
    @audited("orders.read", resource="order:{number}")
    def read(number: int):
        return number

    assert TestClient(app).delete("/orders/7").status_code == 405
    (record,) = records(tmp_path)
    assert (record["action"], record["resource"]["id"]) == ("DELETE /orders/{number}", "7")


def test_an_argument_that_cannot_be_shown_is_a_defect_and_no_error(app, tmp_path):
    class Bad:
        def __str__(self):
            raise ValueError

    @audited(resource="order:{order}")
    def business(order):
        return "ok"

    app.get("/")(lambda: business(Bad()))
    assert TestClient(app).get("/").status_code == 200
    assert "resource" in records(tmp_path)[0]["defects"]


def test_its_rules_are_seen_through_wrappers():
    decorated = audited(exempt="why", until="2027-01-31")(health)

    @functools.wraps(decorated)
    def wrapper():
        return decorated()

    assert rules_of(wrapper).exemption == Exemption("why", dt.date(2027, 1, 31))
    assert rules_of(health) is None


def test_its_rules_are_seen_where_arguments_are_filled_in(app, tmp_path):
    @audited("orders.read", exempt="asked twice a second")
    def read(kind, number: int):
        return kind

    app.get("/{number}")(functools.partial(functools.partial(read), "order"))
    assert TestClient(app).get("/7").json() == "order"
    assert records(tmp_path) == []
    assert [point.exemption.reason for point in entry_points(app) if point.route == "/{number}"] == [
        "asked twice a second"
    ]


def test_its_rules_are_seen_on_what_is_called_of_an_object(app, tmp_path):
    class Read:
        @audited("orders.read", exempt="asked twice a second")
        async def __call__(self, number: int):
            return number

    app.get("/{number}")(Read())
    assert TestClient(app).get("/7").json() == 7
    assert records(tmp_path) == []
    assert [point.exemption.reason for point in entry_points(app) if point.route == "/{number}"] == [
        "asked twice a second"
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"resource": "order"}, "not of the form"),
        ({"resource": "order:{nothing}"}, "no argument 'nothing'"),
        ({"query": "page"}, "a list of names"),
        ({"exempt": " "}, "needs a reason"),
        ({"exempt": "why", "until": "tomorrow"}, "no day such as"),
        ({"until": "2027-01-31"}, "say why"),
    ],
)
def test_nonsense_is_refused_where_it_is_written(arguments, says):
    with pytest.raises(ConfigurationError, match=says):
        audited(**arguments)(health)


def test_rules_of_an_object_that_is_called_are_seen_through_decorators():
    class View:
        @audited(exempt="asked twice a second")
        def __call__(self):
            return "fine"

    def decorated(function):
        def wrapper():
            return function()

        return functools.update_wrapper(wrapper, function, updated=())

    assert rules_for(View(), "GET").exemption.reason == "asked twice a second"
    assert rules_for(decorated(decorated(View())), "GET").exemption.reason == "asked twice a second"
    assert rules_for(decorated(audited("orders.read")(lambda: None)), "GET").action == "orders.read"
    assert rules_for(decorated(decorated(lambda: None)), "GET") is None


@pytest.mark.parametrize("name", ["__wrapped__", "view_class", "__audited__"])
def test_a_view_whose_attributes_raise_neither_exempts_nor_allows_anything(name):
    def raising(_view):
        raise RuntimeError("not ready")

    view = type("View", (), {name: property(raising)})()
    exchange = Exchange("orders", "1", "GET", "/", 0)
    exchange.exemption = Exemption("asked often")
    note_view(exchange, view)
    assert exchange.exemption is None
    exchange.is_attempt_lost, exchange.on_failure = True, "allow"
    assert is_out_of_policy(exchange, view, "GET")
