"""The app that the workers of these tests run."""

import os
import time
from pathlib import Path

from celery import Celery

from audit_integrations.celery import Audit

URL = os.environ.get("BROKER", "memory://")
app = Celery("shop", broker=URL, backend=URL)
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
audit = Audit(app)


def mark(name):
    temporary = Path(os.environ["MARKS"]) / f".{name}"
    temporary.write_text(str(os.getpid()))
    temporary.rename(temporary.with_name(name))


@app.task
def add(number):
    return number


@app.task
def hang(name):
    mark(name)
    time.sleep(120)


@app.task
def leave():
    os._exit(1)


@app.task(bind=True, max_retries=3)
def twice(self):
    if self.request.retries == 0:
        raise self.retry(countdown=0)
