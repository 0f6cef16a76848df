"""A small billing service with an audit trail: Flask, bearer tokens, streaming.

Run it from the root of the checkout::

    .venv/bin/gunicorn --workers 2 --threads 4 example_apps.flask_app.main:app

Records go to ./audit-spool; set AUDIT_COLLECTOR_URL to have them delivered. ``/invoices/{number}/charge`` asks the back
office at BACKOFFICE_URL (8002 on this machine). BILLING_UNAUDITED=1 leaves the audit trail out, so that one can see who
notices.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx
from flask import Flask, Response, abort, g, jsonify, request
from flask.typing import ResponseReturnValue

from audit_integrations.flask import Audit
from audit_integrations.httpx import audit_httpx
from audit_middleware import Principal, current_audit

BACKOFFICE_URL = os.environ.get("BACKOFFICE_URL", "http://127.0.0.1:8002")

USERS = {
    "alice-token": Principal(id="alice", type="user", auth="bearer", tenant="acme"),
    "bob-token": Principal(id="bob", type="user", auth="bearer", tenant="acme"),
    "root-token": Principal(id="root", type="user", auth="bearer", privileged=True),
    "orders-token": Principal(id="orders", type="service", auth="bearer"),
}

app = Flask("billing")
if "BILLING_UNAUDITED" not in os.environ:
    audit = Audit(app)
    audit_httpx()


@app.before_request
def sign_in() -> None:
    """Authenticate; the audit trail takes the principal from ``g.user``."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    g.user = USERS.get(token) if scheme == "Bearer" else None
    if g.user is None and request.url_rule is not None and request.path != "/broken":
        abort(401)


@app.get("/invoices/<int:number>")
def read_invoice(number: int) -> ResponseReturnValue:
    """Read an invoice."""
    return jsonify(number=number, cents=1250)


@app.post("/invoices/<int:number>/pay")
def pay(number: int) -> ResponseReturnValue:
    """Pay an invoice; only privileged users may, and every attempt is on record."""
    said = current_audit()
    said.action, said.resource = "invoices.pay", ("invoice", number)
    if not g.user.privileged:
        said.reason = "not privileged"
        abort(403)
    said.details["cents"] = 1250
    return jsonify(number=number, paid=True)


@app.post("/invoices/<int:number>/charge")
def charge(number: int) -> ResponseReturnValue:
    """Charge an invoice, if the back office knows the customer; for services only."""
    current_audit().resource = ("invoice", number)
    if g.user.type != "service":
        abort(403)
    headers = {"Authorization": "Bearer billing-token"}
    with httpx.Client(base_url=BACKOFFICE_URL, headers=headers, trust_env=False) as backoffice:
        backoffice.get("/customers/7/", extensions={"audit_route": "/customers/{pk}/"}).raise_for_status()
    return jsonify(number=number, charged=True)


@app.get("/export")
def export() -> ResponseReturnValue:
    """Stream all invoices line by line."""

    def lines() -> Iterator[str]:
        for number in range(20):
            yield f"{number},1250\n"

    return Response(lines(), mimetype="text/csv")


@app.get("/broken")
def broken() -> ResponseReturnValue:
    """Fail as programs do."""
    raise RuntimeError("this endpoint always fails")
