"""The Django app: registers the system checks, and listens for who signs in."""

from __future__ import annotations

import logging
from typing import Final

from django.apps import AppConfig
from django.core import checks

from audit_middleware import ConfigurationError

LOGGER: Final = logging.getLogger("audit_middleware")


class AuditConfig(AppConfig):
    """``INSTALLED_APPS = ["audit_integrations.django", ...]``."""

    name = "audit_integrations.django"
    label = "audit"
    verbose_name = "Audit trail"

    def ready(self) -> None:
        """Register the checks and listen to the signals, before the first request too; nothing is opened or started."""
        from audit_integrations.django import commands, events, rows
        from audit_integrations.django.checks import check_audit

        checks.register(check_audit)
        events.connect()
        commands.connect()
        try:
            rows.connect()
        except ConfigurationError as error:  # the checks say so too, and the middleware does not begin
            LOGGER.error("audit: rows of declared models may not be on record: %s", error)  # noqa: TRY400 - as it says
