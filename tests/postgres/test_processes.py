"""Three real collector processes on one index, each killed in turn under load: every record once, all of them found."""

import random
import secrets
import threading
import time

import pytest

from audit_middleware.sealing.keys import parse_keys
from tests.collector.kit import App
from tests.postgres.fleet import NAMES, Fleet, found_at, send

pytestmark = pytest.mark.postgres
SENDERS = 6
LINES = 1500


@pytest.fixture
def fleet(shared):
    started = Fleet(shared)
    try:
        for name in NAMES:
            started.wait(name)
        yield started
    finally:
        started.end()


def test_each_collector_killed_in_turn_and_postgres_restarted_under_load(shared, fleet):
    apps = [App(parse_keys(fleet.keys), service=f"s{number}") for number in range(SENDERS)]
    for app in apps:
        app.requests(LINES - 1, resource={"type": "order", "id": secrets.token_hex(4)})
    failures = []
    urls = list(fleet.urls.values())
    threads = [threading.Thread(target=send, args=(app, urls, failures)) for app in apps]
    for thread in threads:
        thread.start()
    for name in (*NAMES, *NAMES):
        time.sleep(random.uniform(0.2, 0.5))
        fleet.kill(name)
        fleet.wait(name)
    assert all(thread.is_alive() for thread in threads), "the load ended before the killing"
    shared.server.stop()
    shared.server.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for name in NAMES:
        fleet.kill(name)
        fleet.wait(name)
    for url in urls:
        for app in apps:
            assert found_at(url, stream=app.stream) == app.lines[::-1]
        for finding in ("conflict", "quarantine"):
            assert found_at(url, type=finding) == []
    fleet.end()
    kept = list(fleet.ledgers())
    for app in apps:
        assert set(app.lines) <= set(kept)
    own = {line for app in apps for line in app.lines}
    assert all(line in own for line in kept if b'"service":"audit-collector"' not in line)
