"""``audit-ready collect``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from audit_middleware.cli.output import json_option, print_json
from audit_middleware.errors import ConfigurationError


@click.command("collect")
@click.option("--data", type=click.Path(path_type=Path), help="Data folder (default: audit-data).")
@click.option("--listen", help="HOST:PORT (default: 127.0.0.1:8600); anything but loopback needs tokens.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="TOML file with settings.")
@click.option("--name", help="Name of the log, such as audit.example.com (default: this host's name).")
@click.option("--guard", type=click.Path(path_type=Path), help="Second place for the last signed sizes and roots.")
@json_option
def command(
    data: Path | None, listen: str | None, file: Path | None, name: str | None, guard: Path | None, as_json: bool
) -> None:
    """Run the collector until SIGINT or SIGTERM; SIGHUP begins anew with the settings as they are then.

    Application keys come from AUDIT_KEYS or AUDIT_KEY_FILE, tokens from AUDIT_TOKENS, or all of it from --config.
    Prints the log's verifier key (vkey); give it to whoever verifies.
    """
    try:
        from audit_middleware.collector.serve import serve
        from audit_middleware.collector.settings import read_settings
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is missing: pip install 'audit-ready[collector]'") from error
    from audit_middleware.cli.telemetry import set_up_telemetry

    explicit = {"data": data, "listen": listen, "name": name, "guard": guard}
    texts: dict[str, Any] = {key: str(value) for key, value in explicit.items() if value is not None}
    settings = read_settings(file, **texts)
    set_up_telemetry("audit-collector")
    os.umask(0o077)  # records name people
    if settings.data.is_dir() and settings.data.stat().st_mode & 0o077:
        click.echo(f"audit-ready: other users can reach {settings.data}: chmod 700 {settings.data}", err=True)
    if settings.keyring.is_development:
        click.echo("audit-ready: using the development key; what it seals is no evidence", err=True)

    def announce(collector: object, url: str) -> None:
        label, is_worm = getattr(collector, "store", ("", False))
        if as_json:
            found = {"url": url, "data": str(settings.data), "log_keys": list(getattr(collector, "vkeys", ()))}
            print_json(found | {"store": label, "worm": is_worm})
            return
        click.echo(f"collecting at {url} into {settings.data}")
        click.echo(f"store: {label}")
        for vkey in getattr(collector, "vkeys", ()):
            click.echo(f"log key: {vkey}")

    if serve(settings, announce, require_settings=lambda: read_settings(file, **texts)):
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the command this process began with
