"""One action through three services and a worker; and a service whose audit trail is switched off."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgspec

from audit_middleware.cli.demo.claims import Claims
from audit_middleware.cli.demo.processes import CALL_SECONDS, Demo

PATIENCE_S: Final = 15.0
PROMISE_S: Final = 5.0
"""Between a call that is overdue and the finding that names it."""

_SERVICES: Final = ("orders", "billing", "backoffice", "mail")


def check_following(demo: Demo, claims: Claims) -> str:
    """Let alice check an order out, and return the drawing of everything that came of it."""
    request_id = demo.check_out()
    nodes: list[dict[str, Any]] = []

    def is_whole() -> bool:
        nodes[:] = _json(demo, "trace", request_id, "--url", demo.collector_url, "--json").get("nodes", [])
        ended = {node["service"] for node in nodes if node["type"] in {"request", "task"}}
        return ended == set(_SERVICES)

    within = _wait(is_whole, PATIENCE_S)
    marks = [mark for node in nodes for mark in node["marks"]]
    behind = [node["principal"] for node in nodes if node["service"] != "orders"]
    claims.check(
        "one action of alice's is followed through three services and a worker",
        within is not None and not marks and all("alice" in (each["id"], each.get("on_behalf_of")) for each in behind),
        f"{len(nodes)} steps in {', '.join(sorted({node['service'] for node in nodes}))}"
        + (f"; {', '.join(marks)}" if marks else ""),
    )
    return demo.run("trace", request_id, "--url", demo.collector_url).stdout.decode("utf-8", "replace")


def check_coverage(demo: Demo, claims: Claims) -> None:
    """Ask what the services declare, and how much of it is on record."""
    services: list[dict[str, Any]] = []

    def is_known() -> bool:
        services[:] = _json(demo, "coverage", "--url", demo.collector_url, "--json").get("services", [])
        declaring = {each["service"] for each in services if each["components"]}
        return declaring == set(_SERVICES) and all(each["states"]["audited"] for each in services)

    within = _wait(is_known, PATIENCE_S)
    states = Counter({state: 0 for each in services for state in each["states"]})
    for each in services:
        states.update(each["states"])
    claims.check(
        "every way into three services and a worker is known, with what is on record of it, and none is undeclared",
        within is not None and not states["undeclared"] and not states["expired"],
        ", ".join(f"{number} {state}" for state, number in states.items() if number),
    )


def check_switched_off(demo: Demo, claims: Claims) -> None:
    """Switch the audit trail of billing off: the collector hears of a call, and of no request that it was."""
    demo.restart_unaudited("billing")
    demo.check_out()
    found: list[dict[str, Any]] = []

    def is_found() -> bool:
        listed = demo.run("findings", "--url", demo.collector_url, "--json").stdout.splitlines()
        found[:] = [each for each in map(msgspec.json.decode, listed) if each["kind"] == "unmatched_call"]
        return bool(found)

    within = _wait(is_found, PATIENCE_S)
    claims.check(
        "a service whose audit trail is switched off is named within 5 seconds of a call it did not record",
        within is not None and within <= CALL_SECONDS + PROMISE_S,
        f"{found[0]['about']}, {within:.1f} s after the call, {CALL_SECONDS:.0f} of which it had"
        if found
        else "nothing",
    )


def _wait(is_there: Callable[[], bool], seconds: float) -> float | None:
    """Return after how many seconds something was there, None if it never was."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        if is_there():
            return passed
        time.sleep(0.2)
    return None


def _json(demo: Demo, *arguments: str) -> dict[str, Any]:
    outcome = demo.run(*arguments)
    return msgspec.json.decode(outcome.stdout) if outcome.stdout else {}
