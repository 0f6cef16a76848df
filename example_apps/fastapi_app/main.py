"""A small order service with an audit trail: FastAPI, bearer tokens, streaming, a websocket, OpenTelemetry.

Run it from the root of the checkout::

    .venv/bin/uvicorn example_apps.fastapi_app.main:app --no-proxy-headers

Records go to ./audit-spool; set AUDIT_COLLECTOR_URL to have them delivered. ``/orders/{order_id}/checkout`` needs the
billing service at BILLING_URL (8001 on this machine), and leaves a receipt to the worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from audit_integrations.httpx import audit_httpx
from audit_middleware import AuditMiddleware, Principal, current_audit
from example_apps.worker.tasks import send_receipt

BILLING_URL = os.environ.get("BILLING_URL", "http://127.0.0.1:8001")
audit_httpx()
trace.set_tracer_provider(TracerProvider(resource=Resource.create({"service.name": "orders"})))

USERS = {
    "alice-token": Principal(id="alice", type="user", auth="bearer", tenant="acme"),
    "bob-token": Principal(id="bob", type="user", auth="bearer", tenant="acme"),
    "root-token": Principal(id="root", type="user", auth="bearer", privileged=True),
}
ORDERS: dict[int, str] = {}

app = FastAPI(title="orders")
app.add_middleware(AuditMiddleware)


def signed_in(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> Principal:
    """Authenticate, and tell the audit trail who it is."""
    principal = USERS.get(credentials.credentials) if credentials else None
    if principal is None:
        raise HTTPException(401, "who are you?", headers={"WWW-Authenticate": "Bearer"})
    current_audit().principal = principal
    return principal


SignedIn = Annotated[Principal, Depends(signed_in)]


@app.get("/orders/{order_id}")
def read_order(order_id: int, _user: SignedIn) -> dict[str, object]:
    """Read an order; unknown ones are 404."""
    if order_id not in ORDERS:
        raise HTTPException(404, "no such order")
    return {"id": order_id, "item": ORDERS[order_id]}


@app.post("/orders", status_code=201)
async def create_order(item: str, _user: SignedIn) -> dict[str, object]:
    """Create an order; its number becomes the audited resource."""
    order_id = len(ORDERS) + 1
    ORDERS[order_id] = item
    current_audit().resource = ("order", order_id)
    return {"id": order_id, "item": item}


@app.post("/orders/{order_id}/refund")
def refund(order_id: int, user: SignedIn) -> dict[str, object]:
    """Refund an order; only privileged users may, and every attempt is on record."""
    audit = current_audit()
    audit.action = "orders.refund"
    audit.resource = ("order", order_id)
    if not user.privileged:
        audit.reason = "not privileged"
        raise HTTPException(403, "not yours to refund")
    return {"id": order_id, "refunded": True}


@app.post("/orders/{order_id}/checkout")
def check_out(order_id: int, user: SignedIn) -> dict[str, object]:
    """Have the order charged by the billing service, and a receipt sent by the worker: both on behalf of the user."""
    audit = current_audit()
    audit.action, audit.resource = "orders.checkout", ("order", order_id)
    headers = {"Authorization": "Bearer orders-token"}
    with httpx.Client(base_url=BILLING_URL, headers=headers, trust_env=False) as billing:
        charged = billing.post(f"/invoices/{order_id}/charge", extensions={"audit_route": "/invoices/{number}/charge"})
    if not charged.is_success:
        raise HTTPException(502, "the order was not charged")
    send_receipt.delay(order_id, user.id)
    return {"id": order_id, "charged": True}


@app.get("/report")
def report(_user: SignedIn) -> StreamingResponse:
    """Stream a report line by line."""

    def lines() -> Iterator[bytes]:
        for number in range(20):
            yield f"line {number}\n".encode()

    return StreamingResponse(lines(), media_type="text/plain")


@app.get("/broken")
def broken() -> None:
    """Fail as programs do."""
    raise RuntimeError("this endpoint always fails")


@app.websocket("/live")
async def live(websocket: WebSocket) -> None:
    """Echo one message."""
    await websocket.accept()
    current_audit().action = "orders.live"
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()
