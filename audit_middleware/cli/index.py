"""``audit-ready index``."""

from __future__ import annotations

from pathlib import Path

import click

from audit_middleware.cli.output import json_option, print_json
from audit_middleware.errors import ConfigurationError


@click.group("index")
def command() -> None:
    """Look after the index that collectors share in PostgreSQL."""


@command.command()
@click.option("--dsn-file", type=click.Path(path_type=Path), help="File with the DSN (default: AUDIT_INDEX_DSN).")
@click.option("--anew", is_flag=True, help="Drop what there is; stop the collectors before, they fill it again.")
@json_option
def migrate(dsn_file: Path | None, anew: bool, as_json: bool) -> None:
    """Make tables, roles and rights of the index, or bring them to this release.

    The DSN is of somebody who may create roles and schemas. Collectors log in as members of audit_writer.
    """
    try:
        from audit_middleware.collector.index_settings import read_dsn
        from audit_middleware.collector.postgres import schema
    except ImportError as error:
        raise ConfigurationError(f"{error.name} is missing: pip install 'audit-ready[postgres]'") from error
    steps = schema.migrate(read_dsn(dsn_file), anew=anew)
    if as_json:
        print_json({"steps": steps, "version": len(schema.MIGRATIONS)})
    else:
        click.echo(f"index: version {len(schema.MIGRATIONS)}, {steps} steps")
