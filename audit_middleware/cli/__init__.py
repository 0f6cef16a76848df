"""The command ``audit-ready``. Exit codes: 0 good, 1 tampering or a claim that failed, 2 could not do it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from typing import Final

import click

from audit_middleware._version import __version__
from audit_middleware.errors import AuditError

FAILED: Final = 2
INTERRUPTED: Final = 130  # 128 + SIGINT
BROKEN_PIPE: Final = 141  # 128 + SIGPIPE, as of a program that pipes kill
COMMANDS: Final = {
    "alerts": "Test whether alerts arrive.",
    "collect": "Run the collector.",
    "config": "Check and explain settings.",
    "coverage": "Show what services declare and what was recorded of it.",
    "demo": "Show the main job on real processes, and prove it.",
    "findings": "List what the integrity monitor found, and see to it.",
    "index": "Look after the index that collectors share in PostgreSQL.",
    "keys": "Make application keys.",
    "rebuild-index": "Build the search index anew from the ledger.",
    "reconcile": "Compare an access log with the records: what bypassed auditing.",
    "retention": "Show what has expired, delete it by a plan, hold what a case needs.",
    "search": "Search the records of a collector.",
    "ship": "Deliver a spool to a collector.",
    "spool": "Look into a spool.",
    "trace": "Follow an action through all services, drawn as a tree.",
    "verify": "Verify a spool, a ledger or a collector.",
    "watch": "Watch a collector: services, findings, the patrol of its store.",
}


class LazyGroup(click.Group):
    """Imports a command when it is called: ``--help`` and ``verify`` never import the collector."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Name every command."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"audit_middleware.cli.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
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
    """Run the command line and exit; 1 is left to `verify` and `demo`, which say it themselves."""
    code = _run()
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _say(error)
    _forget_output()
    sys.exit(code)


def _run() -> int:
    stdout = sys.stdout
    try:
        result = cli.main(prog_name="audit-ready", standalone_mode=False)
    except SystemExit as end:
        # click turns a broken pipe into exit code 1, which is a verdict here, and wraps stdout to keep it quiet
        return _code_of(end) if sys.stdout is stdout else BROKEN_PIPE
    except (click.exceptions.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - named containment point: whatever it was, it is no verdict
        return _say(error)
    return result if isinstance(result, int) else 0


def _code_of(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    return _say(AuditError(end.code))


def _say(error: Exception) -> int:
    """Say an error on stderr, and as JSON on stdout where JSON was asked for; return the exit code."""
    code = BROKEN_PIPE if isinstance(error, BrokenPipeError) else FAILED
    with contextlib.suppress(OSError):
        if isinstance(error, click.ClickException):
            error.show()
        elif isinstance(error, AuditError | OSError):
            click.echo(f"audit-ready: {error}", err=True)
        else:
            traceback.print_exception(error)
        if "--json" in sys.argv and not isinstance(error, BrokenPipeError):
            message = error.format_message() if isinstance(error, click.ClickException) else str(error)
            click.echo(json.dumps({"error": message or type(error).__name__, "exit_code": code}))
    return code


def _forget_output() -> None:
    """Keep the interpreter from flushing once more what could not be written."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(null, stream.fileno())
    os.close(null)
