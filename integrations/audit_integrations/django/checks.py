"""System checks: what would make an audit trail less than it looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning

from audit_integrations.django import rows
from audit_integrations.django.conf import make_live
from audit_middleware import ConfigurationError
from audit_middleware.config import problems
from audit_middleware.journal.spool import why_unusable

MIDDLEWARE: Final = "audit_integrations.django.AuditMiddleware"


def check_audit(app_configs: Sequence[Any] | None = None, **_: object) -> list[CheckMessage]:  # noqa: ARG001 - Django's signature
    """Return what is wrong with the order of the middleware, the settings, keys, spool and models."""
    return [*_order(), *_settings(), *_rows()]


def _order() -> Iterator[CheckMessage]:
    names = [name for name in settings.MIDDLEWARE if name.startswith("audit_integrations.django")]
    if not names:
        hint = f"put {MIDDLEWARE!r} first in MIDDLEWARE"
        yield CheckWarning("the audit trail is installed, but no request is recorded", hint=hint, id="audit.W020")
    elif len(names) > 1:
        yield Error("AuditMiddleware is there twice", hint="keep the first one", id="audit.E020")
    elif settings.MIDDLEWARE[0] != names[0]:
        message = f"AuditMiddleware stands behind {settings.MIDDLEWARE[0]}: what that answers itself is not recorded"
        yield CheckWarning(message, hint=f"put {MIDDLEWARE!r} first", id="audit.W021")


def _settings() -> Iterator[CheckMessage]:
    try:
        observer = make_live(getattr(settings, "AUDIT", None)).observer
    except ConfigurationError as error:
        yield Error(str(error), hint="see the table of problems in the settings' documentation", id="audit.E021")
        return
    for problem in problems(observer.settings):
        yield CheckWarning(problem.message, hint=problem.hint, id=problem.id)
    if observer.settings.durability != "memory" and (reason := why_unusable(observer.settings.spool_dir)):
        yield Error(reason, hint="name a folder of this user's own as SPOOL_DIR", id="audit.E022")


def _rows() -> Iterator[CheckMessage]:
    for problem in rows.problems():
        yield Error(
            problem, hint="see the table of problems in the settings' documentation", id=problem.partition(":")[0]
        )
    for doubt in rows.unsure():
        yield CheckWarning(
            doubt, hint="see whether it calls Django's own, else its rows are not on record", id="audit.W022"
        )
