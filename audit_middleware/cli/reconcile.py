"""``audit-ready reconcile``: an access log against the records; what bypassed auditing is listed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import click

from audit_middleware.cli.access_log import Witnessed, read_line
from audit_middleware.cli.matching import LINE_SECONDS, Matched, Recorded, match, recorded
from audit_middleware.cli.output import json_option, print_json, print_table
from audit_middleware.cli.trace import Search, searcher
from audit_middleware.errors import ConfigurationError

MAX_LINES: Final = 1_000_000
"""Lines, and records, in memory at a time."""

BYPASSED: Final = 1
SHOWN: Final = 1000
_NAMED: Final = 10  # unreadable lines whose numbers are said
_LONGEST: Final = 3600  # seconds that a request may have run before its line


class _Log(NamedTuple):
    lines: list[Witnessed]
    ignored: int
    unreadable: list[int]


@click.command("reconcile")
@click.argument("access_log", type=click.File("rb"))
@click.option("--url", help="The collector (default: AUDIT_COLLECTOR_URL); AUDIT_TOKEN is its token.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Read a collector's data folder instead, read only, without the collector.",
)
@click.option("--service", help="Only records of this service.")
@click.option("--ignore", multiple=True, metavar="PATTERN", help="Paths that need no record, such as '/static/*'.")
@click.option("--prefix", default="", help="What the proxy takes off a path before the application sees it.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 3600),
    default=2.0,
    show_default=True,
    help="Seconds that clocks may be apart.",
)
@json_option
def command(
    access_log: BinaryIO,
    url: str | None,
    data: Path | None,
    service: str | None,
    tolerance: float,
    as_json: bool,
    **paths: Any,  # noqa: ANN401 - click's
) -> None:
    """Compare an access log with the records, and list the requests that bypassed auditing.

    ACCESS_LOG is of nginx, Apache or gunicorn (combined), nginx or Envoy (JSON), uvicorn, or an AWS load balancer; - is
    standard input.

    Exit codes: 0 all are on record, 1 some are not, 2 could not compare.
    """
    log = _read(access_log, paths["ignore"], paths["prefix"])
    if not log.lines and not log.ignored:
        raise ConfigurationError(f"no line of {access_log.name} is of a known format: see audit-ready reconcile --help")
    records = _records(searcher(url, data), log.lines, service, tolerance) if log.lines else []
    result = match(log.lines, records, tolerance)
    if as_json:
        print_json(_as_dict(result, log))
    else:
        _print(result, log)
    if result.bypassed:
        sys.exit(BYPASSED)


def _read(file: Iterable[bytes], ignore: tuple[str, ...], prefix: str) -> _Log:
    log = _Log([], 0, [])
    for number, raw in enumerate(file, 1):
        if not raw.strip():
            continue
        line = read_line(number, raw.decode("utf-8", "replace"))
        if line is None:
            log.unreadable.append(number)
        elif any(fnmatchcase(line.path, pattern) for pattern in ignore):
            log = log._replace(ignored=log.ignored + 1)
        else:
            path = line.path.removeprefix(prefix) if prefix else line.path
            log.lines.append(line._replace(path=path if path.startswith("/") else f"/{path}"))
        if len(log.lines) > MAX_LINES:
            raise ConfigurationError(f"more than {MAX_LINES:,} lines: split the log, such as by day")
    return log


def _records(search: Search, lines: list[Witnessed], service: str | None, tolerance: float) -> Iterator[Recorded]:
    """Yield what is on record of the time of the log; an attempt only when nothing says how it ended."""
    times = [line.at for line in lines if line.at is not None]
    parameters: dict[str, Any] = {"service": service} if service else {}
    if len(times) == len(lines):
        parameters |= {"from": _spell(min(times) - tolerance - LINE_SECONDS)}
        parameters |= {"to": _spell(max(times) + tolerance + _LONGEST)}
    ended: set[str] = set()
    for type_ in ("request", "attempt"):
        for count, found in enumerate(search(parameters | {"type": type_}, MAX_LINES + 1)):
            if count == MAX_LINES:
                raise ConfigurationError(f"more than {MAX_LINES:,} records of that time: split the log, such as by day")
            each = recorded(found["record"])
            if each is not None and (type_ == "request" or each.ids[0] not in ended):
                ended.add(each.ids[0])
                yield each


def _spell(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def _as_dict(result: Matched, log: _Log) -> dict[str, Any]:
    return {
        "lines": len(log.lines),
        "recorded": result.recorded,
        "status_differs": result.differing,
        "bypassed": len(result.bypassed),
        "ignored": log.ignored,
        "unreadable": len(log.unreadable),
        "unreadable_lines": log.unreadable[:SHOWN],
        "requests": [line._asdict() for line in result.bypassed[:SHOWN]],
    }


def _print(result: Matched, log: _Log) -> None:
    if result.bypassed:
        rows = [
            (line.number, _spell(line.at) if line.at is not None else "-", line.method, line.path, line.status)
            for line in result.bypassed[:SHOWN]
        ]
        print_table(("LINE", "TIME", "METHOD", "PATH", "STATUS"), rows)
    differing = f" ({result.differing} with another status)" if result.differing else ""
    click.echo(
        f"{len(log.lines)} requests in the log: {result.recorded} on record{differing}, "
        f"{len(result.bypassed)} bypassed auditing; {log.ignored} lines ignored, {len(log.unreadable)} unreadable"
    )
    if log.unreadable:
        named = ", ".join(map(str, log.unreadable[:_NAMED]))
        click.echo(f"unreadable: lines {named}{', ...' if len(log.unreadable) > _NAMED else ''}", err=True)
