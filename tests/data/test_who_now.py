"""Who acts is known while the request runs, not at its end alone."""

from flask import Flask, g

from audit_integrations.flask import Audit
from audit_middleware import events
from tests.capture.kit import make_pipeline, records


def test_flasks_user_is_known_to_an_event_in_the_view(tmp_path):
    app = Flask("shop")
    Audit(app, pipeline=make_pipeline(tmp_path))

    @app.get("/")
    def view():
        g.user = "carol"
        events.exported("invoices:2026", rows=1, to="csv")
        return "x"

    app.test_client().get("/").close()
    (event,), (request,) = records(tmp_path, "event"), records(tmp_path)
    assert event["principal"]["id"] == request["principal"]["id"] == "carol"
