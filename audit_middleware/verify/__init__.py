"""Offline verification of journals and ledgers: the same rules for collector, operator and auditor."""

from __future__ import annotations

from audit_middleware.verify.journal import verify_spool
from audit_middleware.verify.ledger import verify_logs
from audit_middleware.verify.report import Finding, Report, Severity

__all__ = ["Finding", "Report", "Severity", "verify_logs", "verify_spool"]
