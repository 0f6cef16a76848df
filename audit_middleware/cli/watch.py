"""``audit-ready watch``: a collector on one screen, drawn anew every second, or once for a script."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click
import msgspec

from audit_middleware.cli.findings import SEVERITIES, connect, fetch, row, url_option
from audit_middleware.cli.output import json_option, print_json, printable
from audit_middleware.cli.remote import Remote
from audit_middleware.errors import ConfigurationError, DeliveryError

HOME: Final = "\x1b[H"
CLEAR_LINE: Final = "\x1b[K"
CLEAR_BELOW: Final = "\x1b[J"
OTHER_SCREEN: Final = "\x1b[?1049h\x1b[?25l"
OWN_SCREEN: Final = "\x1b[?25h\x1b[?1049l"
COLORS: Final = {"critical": "red", "warning": "yellow", "info": "cyan"}
_HEAD: Final = ("SEVERITY", "KIND", "STATE", "WHO", "FIRST SEEN", "EVIDENCE", "ID")


@click.command("watch")
@url_option
@click.option("--interval", type=click.FloatRange(min=0.2), default=1.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Print one view and end; without a terminal that is what happens anyway.")
@json_option
def command(url: str | None, interval: float, once: bool, as_json: bool) -> None:
    """Watch a collector: its services, its findings, and the patrol of its store. Ctrl-C ends it."""
    remote = connect(url)
    if as_json:
        print_json(look(remote))
    elif once or not sys.stdout.isatty():
        click.echo("\n".join(view(remote.url, look(remote), _columns())))
    else:
        _run(remote, interval)


def look(remote: Remote) -> dict[str, Any]:
    """Return status and findings that are not resolved; raise `DeliveryError`, `ConfigurationError`."""
    answer = remote.get("/v1/status")
    if answer is None:
        raise ConfigurationError(f"{remote.url} has no status: it is an older collector")
    try:
        status = msgspec.json.decode(answer.content, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError) as error:
        raise DeliveryError(f"{remote.url} answers with something else than its status: {error}") from error
    found = fetch(remote, {}) if "monitor" in status else []
    return status | {"open_findings": [each for each in found if each["state"] != "resolved"]}


def view(url: str, seen: Mapping[str, Any], width: int) -> Iterator[str]:
    """Yield the lines of the screen, without control characters but for colours."""
    entries = sum(log["size"] for log in seen["logs"])
    yield f"{printable(url)}  {seen['state']}  {entries:,} entries in {len(seen['logs'])} logs"
    if "monitor" not in seen:
        yield "this collector runs without its monitor"
        return
    yield _patrol(seen["monitor"])
    yield ""
    services = [
        (each["service"], each["streams"], each["silent"], each["records_this_hour"], each["last_heard"][:19])
        for each in seen["services"]
    ]
    yield from _table(("SERVICE", "STREAMS", "SILENT", "RECORDS THIS HOUR", "LAST HEARD"), services, width)
    yield ""
    found = sorted(seen["open_findings"], key=lambda each: (SEVERITIES.index(each["severity"]), each["first_seen"]))
    if not found:
        yield click.style("no open findings", fg="green")
        return
    lines = list(_table(_HEAD, [_cells(each) for each in found], width))
    yield lines[0]
    for line, finding in zip(lines[1:], found, strict=True):
        yield click.style(line, fg=COLORS[finding["severity"]])


def _patrol(monitor: Mapping[str, Any]) -> str:
    patrol = monitor["patrol"]
    share = 100 * patrol["entries"] // max(1, patrol["total"])
    now = f"pass at {share} % of {patrol['total']:,}" if patrol.get("began") else "between two passes"
    last = patrol.get("last_full_pass", "never")[:19]
    ready = "" if monitor["is_ready"] else "  still reading what happened before"
    return f"store: {now}, last full pass {last}{ready}"


def _cells(finding: Mapping[str, Any]) -> tuple[str, ...]:
    id_, severity, kind, state, who, first_seen, _, evidence = row(finding)
    return (severity, kind, state, who, first_seen, evidence, id_)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> Iterator[str]:
    cells = [[printable(cell) for cell in each] for each in (head, *rows)]
    widths = [max(len(each[column]) for each in cells) for column in range(len(head))]
    for each in cells:
        text = "  ".join(cell.ljust(size) for cell, size in zip(each, widths, strict=True)).rstrip()
        yield text[:width]


def _run(remote: Remote, interval: float) -> None:
    click.echo(OTHER_SCREEN, nl=False)
    try:
        while True:
            lines = list(_lines(remote))[: _rows()]
            click.echo(HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW, nl=False)
            time.sleep(interval)
    finally:
        click.echo(OWN_SCREEN, nl=False)


def _lines(remote: Remote) -> Iterator[str]:
    """Yield the screen, or why there is none; a collector that is away may come back."""
    try:
        seen = look(remote)
    except DeliveryError as error:
        yield click.style(printable(error), fg="red")
        return
    yield from view(remote.url, seen, _columns())


def _columns() -> int:
    return shutil.get_terminal_size((200, 50)).columns


def _rows() -> int:
    return max(3, shutil.get_terminal_size((200, 50)).lines - 1)
