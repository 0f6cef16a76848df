"""Flask through its own test client: routes, sign-in, errors, streaming, configuration."""

import flask
import pytest
from flask import Blueprint, Flask, Response, g, stream_with_context
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask_login import LoginManager, UserMixin, encode_cookie, login_required, login_user, logout_user

from audit_integrations.flask import Audit
from audit_middleware import ConfigurationError, current_audit, events
from tests.capture.kit import make_pipeline, records


@pytest.fixture
def app():
    app = Flask("shop")
    app.secret_key = "not secret"
    return app


@pytest.fixture
def audited(app, tmp_path):
    """Audit the app and give its test client; errors become answers, as in production."""

    def wrap(**settings):
        Audit(app, pipeline=make_pipeline(tmp_path, **settings))
        app.testing = False
        return app.test_client()

    return wrap


def record_of(tmp_path):
    (record,) = records(tmp_path)
    return record


def test_the_url_rule_and_the_view_arguments_name_action_and_resource(app, audited, tmp_path):
    @app.get("/orders/<int:order_id>")
    def read(order_id):
        return {"id": order_id}

    client = audited()
    response = client.get("/orders/7")
    record = record_of(tmp_path)
    assert record["action"] == "GET /orders/<int:order_id>"
    assert record["resource"] == {"type": "orders", "id": "7"}
    assert response.headers["X-Request-ID"] == record["trace"]["request_id"]
    assert "defects" not in record


def test_nested_blueprints_carry_their_prefixes(app, audited, tmp_path):
    outer, inner = Blueprint("outer", __name__, url_prefix="/v1"), Blueprint("inner", __name__, url_prefix="/stock")

    @inner.get("/<item>")
    def read(item):
        return item

    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    audited().get("/v1/stock/tea")
    assert record_of(tmp_path)["http"]["route"] == "/v1/stock/<item>"


def test_what_no_route_takes_is_known_and_no_defect(app, audited, tmp_path):
    @app.get("/slash/")
    def slash():
        return "x"

    client = audited()
    for method, path in (("GET", "/nowhere"), ("POST", "/slash/"), ("GET", "/slash")):
        client.open(path, method=method)
    said = [(r["http"]["status"], r["http"]["route"], r.get("defects")) for r in records(tmp_path)]
    assert said == [(404, "none", None), (405, "none", None), (308, "none", None)]


def test_what_the_app_puts_into_g_user_is_the_principal(app, audited, tmp_path):
    @app.before_request
    def authenticate():
        g.user = "alice"

    @app.get("/")
    def home():
        return "x"

    audited().get("/")
    assert record_of(tmp_path)["principal"] == {"id": "alice", "type": "user", "auth": "unknown"}


class Account(UserMixin):
    def __init__(self, id_):
        self.id = id_


def with_login(app):
    manager = LoginManager(app)
    manager.user_loader(Account)

    @app.post("/login")
    def login():
        login_user(Account("alice"))
        return "in"

    @app.get("/mine")
    @login_required
    def mine():
        return "yours"

    @app.get("/public")
    def public():
        return "everybody's"

    @app.post("/logout")
    def logout():
        logout_user()
        return "bye"


def test_flask_logins_user_is_the_principal(app, audited, tmp_path):
    with_login(app)
    client = audited()
    client.get("/mine")
    client.post("/login")
    client.get("/mine")
    said = [(r["outcome"], r["principal"]["id"], r["principal"]["auth"]) for r in records(tmp_path)]
    assert said == [
        ("denied", "anonymous", "none"), ("success", "alice", "session"), ("success", "alice", "session"),
    ]  # fmt: skip


def test_who_signs_out_of_flask_login_acted(app, audited, tmp_path):
    with_login(app)
    client = audited()
    for path in ("/login", "/logout", "/logout"):
        client.post(path)
    said = [(r["principal"]["id"], r["principal"]["auth"]) for r in records(tmp_path)]
    assert said == [("alice", "session"), ("alice", "session"), ("anonymous", "none")]


def test_the_owner_of_a_session_that_nobody_asked_for_is_the_principal(app, audited, tmp_path):
    with_login(app)
    client = audited()
    client.get("/public")
    client.post("/login")
    client.get("/public")
    said = [(r["principal"]["id"], r["principal"]["auth"]) for r in records(tmp_path)]
    assert said == [("anonymous", "none"), ("alice", "session"), ("alice", "session")]


@pytest.mark.parametrize("name", ["remember_token", "stay"])
def test_who_is_remembered_by_a_cookie_that_nobody_asked_for_is_unknown_and_a_defect(app, audited, tmp_path, name):
    if name != "remember_token":
        app.config["REMEMBER_COOKIE_NAME"] = name
    with_login(app)

    @app.get("/fails")
    def fails():
        raise ValueError

    @app.get("/event")
    def event():
        events.exported("orders", rows=1, to="csv")
        return "x"

    @app.get("/refused")
    def refused():
        return "who?", 401

    app.config["PROPAGATE_EXCEPTIONS"] = False
    client = audited()
    with app.test_request_context():
        client.set_cookie(name, encode_cookie("alice"))
    paths = ("/public", "/fails", "/event", "/refused")
    answers = [client.get(path).headers for path in paths]
    assert not any("Set-Cookie" in headers for headers in answers)
    said = [(r["principal"]["id"], "principal.id" in r.get("defects", [])) for r in records(tmp_path)]
    assert said == [("unknown", True)] * 3 + [("anonymous", False)]
    assert records(tmp_path, "event")[0]["principal"]["id"] == "unknown"
    client.get("/mine")
    assert records(tmp_path)[-1]["principal"]["id"] == "alice"
    client.post("/logout")
    client.get("/public")
    assert [(r["principal"]["id"], r.get("defects")) for r in records(tmp_path)[-2:]] == [
        ("alice", None), ("anonymous", None),
    ]  # fmt: skip


def test_a_forged_cookie_that_flask_login_was_asked_about_is_anonymous(app, audited, tmp_path):
    with_login(app)
    client = audited()
    client.set_cookie("remember_token", "alice|forged")
    client.get("/mine")
    assert record_of(tmp_path)["principal"]["id"] == "anonymous"


def test_identify_names_whom_a_cookie_remembers(app, tmp_path):
    with_login(app)
    Audit(app, pipeline=make_pipeline(tmp_path), identify=lambda environ: "bob")
    client = app.test_client()
    client.set_cookie("remember_token", "alice|x")
    client.get("/public")
    assert record_of(tmp_path)["principal"]["id"] == "bob"


def test_a_session_that_cannot_be_read_is_a_defect_and_no_error(app, audited, tmp_path):
    class Away(SecureCookieSession):
        def get(self, key, default=None):
            raise ConnectionError

    class Store(SecureCookieSessionInterface):
        session_class = Away

    app.session_interface = Store()
    with_login(app)
    assert audited().get("/public").status_code == 200
    assert record_of(tmp_path)["defects"] == ["principal.id"]


def test_answers_are_the_same_as_without_us(tmp_path):
    """Looking at a session makes Flask add Vary: Cookie; we look only where the app did."""

    def headers(*, is_audited, has_login):
        app = Flask("shop")
        app.secret_key = "not secret"
        if has_login:
            LoginManager(app)
        app.get("/public")(lambda: "x")
        app.get("/session", endpoint="session")(lambda: str(flask.session.get("_user_id")))
        if is_audited:
            Audit(app, pipeline=make_pipeline(tmp_path))
        client = app.test_client()
        with client.session_transaction() as session:
            session["_user_id"] = "alice"
        answers = [client.get(path).headers for path in ("/public", "/session", "/nowhere")]
        return [[pair for pair in each if pair[0] != "X-Request-ID"] for each in answers]

    for has_login in (False, True):
        assert headers(is_audited=True, has_login=has_login) == headers(is_audited=False, has_login=has_login)


def test_what_the_view_says_wins(app, audited, tmp_path):
    @app.post("/refund")
    def refund():
        g.user = "somebody"
        audit = current_audit()
        audit.principal, audit.action, audit.resource = "alice", "orders.refund", ("order", 7)
        audit.details["amount_cents"] = 1250
        return "ok"

    audited().post("/refund", data=b"x" * 10)
    record = record_of(tmp_path)
    assert (record["principal"]["id"], record["action"]) == ("alice", "orders.refund")
    assert record["details"] == {"amount_cents": 1250}
    assert record["http"]["request_bytes"] == 10


@pytest.mark.parametrize("where", ["before", "view", "handled"])
def test_errors_before_and_inside_the_view_are_on_record(app, audited, tmp_path, where):
    @app.before_request
    def early():
        g.user = "alice"
        if where == "before":
            raise KeyError("secret")

    @app.errorhandler(LookupError)
    def handled(error):
        if where == "handled":
            return "sorry", 409
        raise error

    @app.get("/broken")
    def broken():
        raise KeyError("secret")

    response = audited().get("/broken")
    record = record_of(tmp_path)
    assert response.status_code == record["http"]["status"] == (409 if where == "handled" else 500)
    assert record["http"]["ended"] == ("complete" if where == "handled" else "exception")
    assert record.get("reason") == (None if where == "handled" else "KeyError")
    assert record["outcome"] == "failure"
    assert record["principal"]["id"] == "alice"
    assert record["http"]["route"] == "/broken"


def test_a_stream_with_its_context_is_streamed_and_recorded_at_its_end(app, audited, tmp_path):
    @app.get("/export")
    def export():
        g.user = "alice"

        def lines():
            for number in range(3):
                current_audit().details["lines"] = number + 1
                yield f"{number} {flask.request.path}\n"

        return Response(stream_with_context(lines()))

    client = audited()
    with client.get("/export", buffered=False) as response:
        chunks = iter(response.response)
        assert next(chunks) == b"0 /export\n"
        assert records(tmp_path) == []
        assert len(list(chunks)) == 2
    record = record_of(tmp_path)
    assert record["details"] == {"lines": 3}
    assert record["http"]["response_bytes"] == 30
    assert record["principal"]["id"] == "alice"


def test_async_views_speak_for_their_request(app, audited, tmp_path):
    @app.get("/async")
    async def view():
        current_audit().action = "async.view"
        return "x"

    audited().get("/async")
    assert record_of(tmp_path)["action"] == "async.view"


def test_a_second_registration_is_refused(app, audited):
    audited()
    with pytest.raises(ConfigurationError, match=r"audit\.E012: shop is audited already"):
        Audit(app)


def test_the_apps_configuration_holds_unless_an_argument_does(app, tmp_path):
    app.config.update(AUDIT_SERVICE="billing", AUDIT_SPOOL_DIR=str(tmp_path / "spool"), AUDIT_ENV="test")
    Audit().init_app(app)
    app.test_client().get("/")
    assert record_of(tmp_path)["service"] == "billing"


def test_a_name_in_the_configuration_that_is_no_setting_is_refused(app):
    app.config["AUDIT_SPOOLDIR"] = "x"
    with pytest.raises(ConfigurationError, match=r"audit\.E001: unknown setting AUDIT_SPOOLDIR"):
        Audit(app)


def test_the_service_is_named_after_the_app(app, tmp_path):
    Audit(app, spool_dir=tmp_path / "spool")
    app.test_client().get("/")
    assert record_of(tmp_path)["service"] == "shop"


def test_an_exception_that_propagates_is_on_record_with_its_route(app, tmp_path):
    @app.get("/orders/<int:order_id>")
    def broken(order_id):
        raise KeyError

    Audit(app, pipeline=make_pipeline(tmp_path))
    app.testing = True
    with pytest.raises(KeyError):
        app.test_client().get("/orders/7")
    record = record_of(tmp_path)
    assert (record["http"]["route"], record["http"]["status"]) == ("/orders/<int:order_id>", 500)
    assert record["resource"] == {"type": "orders", "id": "7"}


def test_a_user_object_that_raises_is_a_defect_and_no_error(app, audited, tmp_path):
    class Broken:
        @property
        def is_authenticated(self):
            raise RuntimeError

        def __getattr__(self, name):
            raise RuntimeError

    @app.get("/")
    def home():
        g.user = Broken()
        return "x"

    assert audited().get("/").status_code == 200
    assert "principal.id" in record_of(tmp_path)["defects"]


def test_a_login_user_that_raises_is_a_defect_and_no_error(app, audited, tmp_path):
    class Broken:
        @property
        def is_authenticated(self):
            raise RuntimeError

    @app.get("/")
    def home():
        g._login_user = Broken()
        return "x"

    assert audited().get("/").status_code == 200
    assert "principal.id" in record_of(tmp_path)["defects"]
