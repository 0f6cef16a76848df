"""The Django app: registers the system checks, and listens for who signs in."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks


class AuditConfig(AppConfig):
    """``INSTALLED_APPS = ["audit_integrations.django", ...]``."""

    name = "audit_integrations.django"
    label = "audit"
    verbose_name = "Audit trail"

    def ready(self) -> None:
        """Register the checks and listen to the signals, before the first request too; nothing is opened or started."""
        from audit_integrations.django import commands, events
        from audit_integrations.django.checks import check_audit

        checks.register(check_audit)
        events.connect()
        commands.connect()
