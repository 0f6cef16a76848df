"""The demo's traffic: threads that act for several principals and remember what they received completely."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self

import httpx
from websockets.sync.client import connect

SWITCHING_PROTOCOLS: Final = 101
PAUSE_S: Final = 0.005


class Expected(NamedTuple):
    """What one kind of request should have on record."""

    method: str
    path: str
    token: str | None
    principal: str
    action: str
    outcome: str
    app: str = "orders"


class Completed(NamedTuple):
    """A response that was received completely; found again by the client's own request id."""

    client_id: str
    request_id: str | None
    trace_id: str
    status: int
    expected: Expected


ALICE: Final = (
    Expected("POST", "/orders?item=tea", "alice-token", "alice", "POST /orders", "success"),
    Expected("GET", "/orders/1", "alice-token", "alice", "GET /orders/{order_id}", "success"),
    Expected("GET", "/report", "alice-token", "alice", "GET /report", "success"),
    Expected("HEAD", "/orders/1", "alice-token", "unknown", "HEAD /orders/{order_id}", "failure"),
)
BOB: Final = (
    Expected("POST", "/orders/1/refund", "bob-token", "bob", "orders.refund", "denied"),
    Expected("GET", "/nowhere", "bob-token", "unknown", "GET none", "failure"),
    Expected("GET", "/broken", None, "anonymous", "GET /broken", "failure"),
)
NOBODY: Final = (
    Expected("GET", "/orders/1", None, "anonymous", "GET /orders/{order_id}", "denied"),
    Expected("GET", "/orders/1", "forged", "anonymous", "GET /orders/{order_id}", "denied"),
    Expected("GET", "/orders/x", "alice-token", "alice", "GET /orders/{order_id}", "failure"),
)
ROOT: Final = (
    Expected("POST", "/orders/1/refund", "root-token", "root", "orders.refund", "success"),
    Expected("OPTIONS", "/orders", None, "anonymous", "OPTIONS /orders", "failure"),
)
BILLING: Final = tuple(
    expected._replace(app="billing")
    for expected in (
        Expected("GET", "/invoices/7", "alice-token", "alice", "GET /invoices/<int:number>", "success"),
        Expected("POST", "/invoices/7/pay", "bob-token", "bob", "invoices.pay", "denied"),
        Expected("POST", "/invoices/7/pay", "root-token", "root", "invoices.pay", "success"),
        Expected("GET", "/export", "alice-token", "alice", "GET /export", "success"),
        Expected("GET", "/invoices/7", "forged", "anonymous", "GET /invoices/<int:number>", "denied"),
        Expected("GET", "/nowhere", "bob-token", "bob", "GET none", "failure"),
        Expected("GET", "/broken", None, "anonymous", "GET /broken", "failure"),
    )
)
BACKOFFICE: Final = tuple(
    expected._replace(app="backoffice")
    for expected in (
        Expected("GET", "/customers/7/", "alice-token", "alice", "GET /customers/<int:pk>/", "success"),
        Expected("POST", "/customers/7/lock", "bob-token", "bob", "customers.lock", "denied"),
        Expected("POST", "/customers/7/lock", "root-token", "root", "customers.lock", "success"),
        Expected("GET", "/export", "alice-token", "alice", "GET /export", "success"),
        Expected("HEAD", "/customers/7/", "alice-token", "alice", "HEAD /customers/<int:pk>/", "success"),
        Expected("GET", "/customers/7/", None, "anonymous", "GET /customers/<int:pk>/", "denied"),
        Expected("GET", "/broken", None, "anonymous", "GET /broken", "failure"),
    )
)
LIVE: Final = Expected("WEBSOCKET", "/live", None, "anonymous", "orders.live", "success")


class Traffic:
    """Runs while the context is open; ``completed`` grows with every response received to its end."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self.completed: list[Completed] = []
        self.broken = 0
        self._urls = urls
        self._stop = threading.Event()
        self._numbers = itertools.count()
        plans = [self._requests(kinds) for kinds in (ALICE, BOB, NOBODY, ROOT, BILLING, BACKOFFICE)]
        plans.append(self._websockets)
        self._threads = [threading.Thread(target=plan, daemon=True) for plan in plans]

    def __enter__(self) -> Self:
        with httpx.Client(base_url=self._urls["orders"], trust_env=False) as client:
            self._send(client, ALICE[0])  # order 1 exists from here on
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _requests(self, kinds: tuple[Expected, ...]) -> Callable[[], None]:
        def run() -> None:
            with httpx.Client(base_url=self._urls[kinds[0].app], trust_env=False) as client:
                for expected in self._until_stopped(kinds):
                    self._send(client, expected)

        return run

    def _send(self, client: httpx.Client, expected: Expected) -> None:
        client_id, trace_id, headers = self._ids()
        if expected.token:
            headers["authorization"] = f"Bearer {expected.token}"
        try:
            response = client.request(expected.method, expected.path, headers=headers)
        except httpx.HTTPError:
            self.broken += 1
            return
        self.completed.append(
            Completed(client_id, response.headers.get("x-request-id"), trace_id, response.status_code, expected)
        )

    def _websockets(self) -> None:
        for expected in self._until_stopped((LIVE,)):
            client_id, trace_id, headers = self._ids()
            with connect(
                self._urls[expected.app].replace("http", "ws") + expected.path, additional_headers=headers, proxy=None
            ) as websocket:
                websocket.send("hello")
                websocket.recv()
            self.completed.append(Completed(client_id, None, trace_id, SWITCHING_PROTOCOLS, expected))
            self._stop.wait(0.05)

    def _until_stopped(self, kinds: tuple[Expected, ...]) -> Iterator[Expected]:
        for expected in itertools.cycle(kinds):
            if self._stop.is_set():
                return
            yield expected
            self._stop.wait(PAUSE_S)

    def _ids(self) -> tuple[str, str, dict[str, str]]:
        client_id, trace_id = f"demo-{next(self._numbers)}", secrets.token_hex(16)
        return (
            client_id,
            trace_id,
            {"x-request-id": client_id, "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"},
        )
