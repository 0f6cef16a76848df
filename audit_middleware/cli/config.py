"""``audit-ready config``."""

from __future__ import annotations

import dataclasses
import os
import sys

import click

from audit_middleware import config
from audit_middleware.cli.output import json_option, print_json, print_table
from audit_middleware.journal.spool import why_unusable


@click.group("config")
def command() -> None:
    """Check and explain the settings of this environment."""


@command.command()
@json_option
def check(as_json: bool) -> None:
    """Check the settings as an application would at start-up. Exit 2 when one is wrong."""
    settings = config.load()
    found = list(config.problems(settings))
    if settings.durability != "memory" and (reason := why_unusable(settings.spool_dir)):
        found.append(config.Problem("audit.E022", reason, "name a folder of this user's own in AUDIT_SPOOL_DIR"))
    found += [
        config.Problem("audit.W003", f"{name} is no setting", "see `audit-ready config explain`")
        for name in config.unknown_variables(os.environ)
    ]
    if as_json:
        print_json([problem._asdict() for problem in found])
    for problem in [] if as_json else found:
        click.echo(f"{problem.id}: {problem.message} ({problem.hint})")
    if not found and not as_json:
        click.echo("settings are good")
    sys.exit(2 if any(".E" in problem.id for problem in found) else 0)


@command.command()
@json_option
def explain(as_json: bool) -> None:
    """Show every setting: its variable, its value here, where that comes from, what it does."""
    settings = config.load()
    rows = [_row(field, settings) for field in dataclasses.fields(settings)]
    if as_json:
        print_json([dict(zip(("variable", "value", "source", "help"), row, strict=True)) for row in rows])
        return
    print_table(("VARIABLE", "VALUE", "FROM", "MEANING"), rows)


def _row(field: dataclasses.Field[object], settings: config.Settings) -> tuple[str, str, str, str]:
    name = config.variable(field.name)
    value = getattr(settings, field.name)
    shown = ",".join(value) if isinstance(value, tuple) else str(value)
    if field.name in config.SECRETS and value is not None:
        shown = "(set)"
    source = "environment" if os.environ.get(name) else "default"
    return name, "" if value is None else shown, source, field.metadata["help"]
