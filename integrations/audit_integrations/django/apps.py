"""The Django app: registers the system checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class AuditConfig(AppConfig):
    """``INSTALLED_APPS = ["audit_integrations.django", ...]``."""

    name = "audit_integrations.django"
    label = "audit"
    verbose_name = "Audit trail"

    def ready(self) -> None:
        """Register the checks; nothing is opened or started."""
        from audit_integrations.django.checks import check_audit

        checks.register(check_audit)
