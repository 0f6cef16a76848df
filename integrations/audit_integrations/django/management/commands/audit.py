"""``manage.py audit``: look at the spool of this project, and verify it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandParser

from audit_integrations.django.conf import OBSERVER
from audit_middleware.config import SETTINGS, variable

_MAIN: Final = "from audit_middleware.cli import main; main()"


class Command(BaseCommand):
    """``manage.py audit status|verify``, with the exit codes of ``audit-ready``."""

    help = "Show what waits in the audit spool of this project (status), or verify it (verify)."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add what to do, and how to show it."""
        parser.add_argument("what", choices=["status", "verify"])
        parser.add_argument("--json", action="store_true", help="Print JSON.")

    def handle(self, *_: Any, **options: Any) -> None:  # noqa: ANN401 - Django's signature
        """Do it, with the project's own settings; exit as ``audit-ready`` does."""
        settings = OBSERVER.get().observer.settings
        spool = str(settings.spool_dir)
        command = ["spool", "status", spool] if options["what"] == "status" else ["verify", spool]
        command += ["--json"] if options["json"] else []
        given = {variable(name): getattr(settings, name) for name in SETTINGS if name in {"keys", "key_file"}}
        environ = {**os.environ, **{name: str(value) for name, value in given.items() if value is not None}}
        ran = subprocess.run([sys.executable, "-c", _MAIN, *command], env=environ, capture_output=True, text=True)  # noqa: S603, PLW1510 - our own command; its exit code is ours
        self.stdout.write(ran.stdout, ending="")
        self.stderr.write(ran.stderr, ending="")
        sys.exit(ran.returncode)
