"""Django: ``MIDDLEWARE = ["audit_integrations.django.AuditMiddleware", ...]``, for sync and async projects.

With ``"audit_integrations.django"`` in ``INSTALLED_APPS`` too there are system checks, and ``manage.py audit``.
"""

from __future__ import annotations

try:
    import django  # noqa: F401 - only whether it is there
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("Django is missing: pip install 'audit-ready[django]'", name=error.name) from error

from audit_integrations.django.middleware import AuditMiddleware

__all__ = ["AuditMiddleware"]
