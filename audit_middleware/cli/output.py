"""What the commands share: JSON, tables, progress bars, keys from the environment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from audit_middleware import config
from audit_middleware.sealing.keys import Keyring

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def print_json(value: object) -> None:
    """Print one JSON value on one line, at once: a server's first line is read while it runs."""
    click.echo(msgspec.json.encode(value))


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print columns as wide as their contents, without control characters."""
    cells = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def printable(cell: object) -> str:
    """Return text without control characters: a record holds what clients sent, and a terminal must not obey it."""
    return "".join(letter if letter.isprintable() else "�" for letter in str(cell))


@contextmanager
def progress(label: str, *, is_quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Give a callback (done, total) that draws a bar on stderr, on a terminal only."""
    if is_quiet or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr, show_eta=True) as bar:

        def advance(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield advance


def keyring() -> Keyring:
    """Return the keys of the environment; announce the development key as no evidence."""
    keys = config.load().keyring()
    if keys.is_development:
        click.echo("audit-ready: using the development key; what it seals is no evidence", err=True)
    return keys
