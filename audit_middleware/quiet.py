"""Calls that are on record elsewhere: those of the audit trail itself, and what a call on record is made with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

IS_QUIET: Final[ContextVar[bool]] = ContextVar("audit_quiet", default=False)
"""Whether calls in this context are not recorded."""

IS_ASKING: Final[ContextVar[bool]] = ContextVar("audit_asking", default=False)
"""Whether the application is asked who acts: what that reads is nobody's reading."""


@contextmanager
def quietly() -> Iterator[None]:
    """Record no call inside of this block: delivering a record must not make another one."""
    token = IS_QUIET.set(True)
    try:
        yield
    finally:
        IS_QUIET.reset(token)


@contextmanager
def asking() -> Iterator[None]:
    """Ask the application who acts inside of this block: what that reads is nobody's reading."""
    token = IS_ASKING.set(True)
    try:
        yield
    finally:
        IS_ASKING.reset(token)
