"""The command ``audit-ready``. Exit codes: 0 good, 1 tampering or a claim that failed, 2 could not do it."""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from audit_middleware._version import __version__
from audit_middleware.errors import AuditError

COMMANDS: Final = {
    "collect": "Run the collector.",
    "config": "Check and explain settings.",
    "demo": "Show the main job on real processes, and prove it.",
    "keys": "Make application keys.",
    "rebuild-index": "Build the search index anew from the ledger.",
    "search": "Search the records of a collector.",
    "ship": "Deliver a spool to a collector.",
    "spool": "Look into a spool.",
    "verify": "Verify a spool, a ledger or a collector.",
}


class LazyGroup(click.Group):
    """Imports a command when it is called: ``--help`` and ``verify`` never import the collector."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Name every command."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"audit_middleware.cli.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="audit-ready")
def cli() -> None:
    """Audit trail for Python web applications: sealed, kept, provable.

    Exit codes: 0 good, 1 evidence of tampering or a claim that failed, 2 could not be done or checked.
    """


def main() -> None:
    """Run the command line; our own errors become one line and exit code 2."""
    try:
        cli.main(prog_name="audit-ready")
    except AuditError as error:
        click.echo(f"audit-ready: {error}", err=True)
        sys.exit(2)
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(130)
