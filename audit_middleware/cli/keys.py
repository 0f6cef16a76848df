"""``audit-ready keys``."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import click

from audit_middleware import config
from audit_middleware.cli.output import json_option, print_json
from audit_middleware.errors import ConfigurationError
from audit_middleware.sealing.keys import has_kid, new_key, read_private


@click.group("keys")
def command() -> None:
    """Make application keys, and see which are configured."""


@command.command()
@click.argument("kid", default="k1")
@click.option("--file", type=click.Path(path_type=Path), help="Append to this key file (0600) instead of printing.")
@json_option
def new(kid: str, file: Path | None, as_json: bool) -> None:
    """Make a key named KID and print it as kid:base64url.

    Put it last in AUDIT_KEYS or the key file, for the application and the collector: the last one seals, all verify.
    """
    key = new_key(kid)
    if file is not None:
        _append(file, kid, key)
        key = f"{kid} appended to {file}"
    if as_json:
        print_json({"kid": kid, "file": str(file)} if file else {"kid": kid, "key": key})
    else:
        click.echo(key)


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Name the configured keys, never their bytes; the last one seals."""
    keys = config.load().keyring()
    names = list(keys.keys)
    if as_json:
        print_json({"kids": names, "seals": keys.newest, "development": keys.is_development})
        return
    for name in names:
        click.echo(f"{name}{'  (seals)' if name == keys.newest else ''}")


def _append(file: Path, kid: str, key: str) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(os.open(file, flags, 0o600), "r+b", buffering=0) as keys:
            fcntl.flock(keys, fcntl.LOCK_EX)
            text = read_private(keys.fileno(), file)
            if has_kid(text, kid, origin=str(file)):
                raise ConfigurationError(f"key file {file} has a key {kid!r} already: choose another name")
            is_cut = bool(text) and not text.endswith("\n")
            keys.write(f"{chr(10) * is_cut}{key}\n".encode())
    except OSError as error:
        raise ConfigurationError(f"key file {file}: {error.strerror}") from error
