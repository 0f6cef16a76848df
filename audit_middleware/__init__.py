"""audit-ready: an audit trail that is sealed in the process, on disk before the answer leaves, and provable."""

from __future__ import annotations

from audit_middleware._version import __version__
from audit_middleware.capture.asgi import AuditMiddleware
from audit_middleware.capture.audited import audited
from audit_middleware.capture.current import current_audit
from audit_middleware.capture.said import CurrentAudit
from audit_middleware.capture.wsgi import AuditWSGIMiddleware
from audit_middleware.config import Settings
from audit_middleware.errors import AuditError, ConfigurationError, JournalError
from audit_middleware.pipeline import Pipeline
from audit_middleware.record import AuditRecord, Principal, Resource

__all__ = [
    "AuditError",
    "AuditMiddleware",
    "AuditRecord",
    "AuditWSGIMiddleware",
    "ConfigurationError",
    "CurrentAudit",
    "JournalError",
    "Pipeline",
    "Principal",
    "Resource",
    "Settings",
    "__version__",
    "audited",
    "current_audit",
]
