"""A small worker with an audit trail: Celery, over a broker that is a folder.

Run it from the root of the checkout::

    .venv/bin/celery -A example_apps.worker.tasks worker --pool solo

Whoever sends a task is on record as the one it runs for. BROKER_FOLDER is where the messages lie (./audit-broker).
"""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from audit_integrations.celery import Audit
from audit_middleware import audited

FOLDER = Path(os.environ.get("BROKER_FOLDER", "audit-broker")).absolute()
for name in ("messages", "control"):
    (FOLDER / name).mkdir(parents=True, exist_ok=True)

app = Celery("mail", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": str(FOLDER / "messages"),
    "data_folder_out": str(FOLDER / "messages"),
    "control_folder": str(FOLDER / "control"),
}
audit = Audit(app)


@app.task
@audited("mail.send_receipt", resource="order:{order_id}")
def send_receipt(order_id: int, recipient: str) -> str:
    """Send a receipt, in a manner of speaking."""
    return f"order {order_id}: to {recipient}"
