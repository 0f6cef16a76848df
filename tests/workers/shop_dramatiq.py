"""The actors that Dramatiq's workers of these tests run."""

import os
import time
from pathlib import Path

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from audit_integrations.dramatiq import Audit

broker = RedisBroker(url=os.environ.get("BROKER", "redis://127.0.0.1:1/0"))
Audit(broker)
dramatiq.set_broker(broker)


def mark(name):
    temporary = Path(os.environ["MARKS"]) / f".{name}"
    temporary.write_text(str(os.getpid()))
    temporary.rename(temporary.with_name(name))


@dramatiq.actor
def add(number):
    pass


@dramatiq.actor(max_retries=1, min_backoff=10)
def fail():
    raise LookupError("secret")


@dramatiq.actor(time_limit=500, max_retries=0)
def late():
    while True:
        time.sleep(0.01)


@dramatiq.actor
def hang(name):
    mark(name)
    time.sleep(120)
