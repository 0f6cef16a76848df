"""Starlette and FastAPI: what can be called in an application, for audit coverage, and background tasks on record."""

from __future__ import annotations

from audit_integrations.starlette.background import audit_background
from audit_middleware.capture.entry_points import entry_points

__all__ = ["audit_background", "entry_points"]
