"""``audit-ready rebuild-index``."""

from __future__ import annotations

from pathlib import Path

import click

from audit_middleware.cli.output import json_option, print_json, progress


@click.command("rebuild-index")
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Data folder."
)
@click.option("--config", "file", type=click.Path(path_type=Path), help="TOML file with settings.")
@click.option("--guard", type=click.Path(path_type=Path), help="The second place that the collector uses.")
@json_option
def command(data: Path, file: Path | None, guard: Path | None, as_json: bool) -> None:
    """Build the search index of a data folder anew from its ledger; no collector may run on it."""
    from audit_middleware.collector.catchup import rebuild_index
    from audit_middleware.collector.settings import read_settings

    entries = 0

    def note(done: int, total: int) -> None:
        nonlocal entries
        entries = total
        advance(done, total)

    with progress("indexing", is_quiet=as_json) as advance:
        rebuild_index(read_settings(file, data=str(data), guard=str(guard) if guard else None), note)
    if as_json:
        print_json({"data": str(data), "entries": entries})
    else:
        click.echo(f"index of {data} is complete: {entries} entries")
