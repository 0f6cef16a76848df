"""Capture: protocol adapters that translate, and the exchange they all fill.

What is named here is what an adapter of your own needs: `Observer` knows the settings and begins an `Exchange`,
its pipeline admits and concludes it, `enter` and `leave` make it current in between. `Outgoing` is a call to others.
`DataTrail` says what a database layer does to rows.
For workers and whatever else runs without a request `Runs` knows the settings and begins `Work`, which `run` runs.
A `Declaration` says what can be called: `EntryPoint` by `EntryPoint`; `declare_everywhere` is for models.
"""

from __future__ import annotations

from audit_middleware.capture import refusal
from audit_middleware.capture.answer import Answer, AsyncBody, Body
from audit_middleware.capture.calls import CONTEXT, TRACEPARENT, Outgoing, call_route
from audit_middleware.capture.coverage import ANY, EntryPoint
from audit_middleware.capture.current import enter, exchange_at_hand, leave
from audit_middleware.capture.data import DataTrail, Rows, Transaction
from audit_middleware.capture.declared import Declaration
from audit_middleware.capture.exchange import Exchange
from audit_middleware.capture.identify import FAILED, Patience, identified, identified_async
from audit_middleware.capture.meaning import plain_principal
from audit_middleware.capture.observer import HEADERS, MARK, Observer, around, begin_cgi, tell
from audit_middleware.capture.routing import ROUTE, VIEW
from audit_middleware.capture.runs import Runs
from audit_middleware.capture.work import Work, admit, carry_out, conclude, run
from audit_middleware.pipeline import declare_everywhere

__all__ = [
    "ANY",
    "CONTEXT",
    "FAILED",
    "HEADERS",
    "MARK",
    "ROUTE",
    "TRACEPARENT",
    "VIEW",
    "Answer",
    "AsyncBody",
    "Body",
    "DataTrail",
    "Declaration",
    "EntryPoint",
    "Exchange",
    "Observer",
    "Outgoing",
    "Patience",
    "Rows",
    "Runs",
    "Transaction",
    "Work",
    "admit",
    "around",
    "begin_cgi",
    "call_route",
    "carry_out",
    "conclude",
    "declare_everywhere",
    "enter",
    "exchange_at_hand",
    "identified",
    "identified_async",
    "leave",
    "plain_principal",
    "refusal",
    "run",
    "tell",
]
