"""``audit-ready search``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from audit_middleware.cli.output import json_option, print_json, print_table
from audit_middleware.cli.remote import Remote, collector_url, pages

FILTERS = ("service", "principal", "action", "resource", "outcome", "ip", "request_id", "trace_id", "type", "stream")


@click.command("search")
@click.option("--url", help="The collector (default: AUDIT_COLLECTOR_URL); AUDIT_TOKEN is its token.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Search a collector's data folder instead, read only, without the collector.",
)
@click.option("--service", help="Name of the service.")
@click.option("--principal", help="Who acted.")
@click.option("--action", help="What was done, such as 'POST /orders' or orders.refund.")
@click.option("--resource", help="What was acted upon: its id, or type:id.")
@click.option("--outcome", type=click.Choice(["success", "denied", "failure", "unknown"]), help="How it ended.")
@click.option("--ip", help="Client address.")
@click.option("--request-id", help="The X-Request-ID of the answer.")
@click.option("--trace-id", help="The OpenTelemetry trace.")
@click.option("--type", help="Type of record, such as request, attempt or gap.")
@click.option("--stream", help="One process life.")
@click.option("--from", "from_", help="First moment, such as 2026-11-23T07:00:00Z.")
@click.option("--to", help="Last moment.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Records at most.")
@click.option("--proof", is_flag=True, help="With --json: the exact line and its inclusion proof.")
@json_option
def command(url: str | None, data: Path | None, limit: int, proof: bool, as_json: bool, **filters: str | None) -> None:
    """Search the records of a collector, newest first."""
    parameters: dict[str, Any] = {name: filters[name] for name in FILTERS if filters[name] is not None}
    parameters |= {"from": filters["from_"]} if filters["from_"] else {}
    parameters |= {"to": filters["to"]} if filters["to"] else {}
    parameters |= {"include": "line,proof"} if proof else {}
    found = _found(url, data, parameters, limit)
    if as_json:
        for record in found:
            print_json(record)
        return
    print_table(
        ("TIME", "SERVICE", "TYPE", "PRINCIPAL", "ACTION", "RESOURCE", "OUTCOME", "IP", "REQUEST ID"),
        [_row(item["record"]) for item in found],
    )


def _found(url: str | None, data: Path | None, parameters: dict[str, Any], limit: int) -> Iterator[dict[str, Any]]:
    if data is None:
        return pages(Remote(collector_url(url), token=os.environ.get("AUDIT_TOKEN")), parameters, limit)
    from audit_middleware.collector.offline import search_folder
    from audit_middleware.collector.problems import Problem

    try:
        return iter(list(search_folder(data, parameters, limit)))
    except Problem as error:
        raise click.UsageError(error.detail) from error


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    rec = line["rec"]
    if "principal" not in rec:
        return line["ts"], rec.get("service", ""), line["type"], *_own(rec)
    return (
        line["ts"],
        rec["service"],
        line["type"],
        rec["principal"]["id"],
        rec["action"],
        f"{rec['resource']['type']}:{rec['resource']['id']}",
        rec["outcome"],
        rec["source"]["ip"],
        rec["trace"]["request_id"],
    )


def _own(rec: dict[str, Any]) -> tuple[str, ...]:
    """Show what a process or a collector says of itself: who, what about what, and what came of it."""
    first = [str(next((rec[name] for name in names if rec.get(name)), "")) for names in _OWN]
    return *first, ""


_OWN: Final = (
    ("by", "deliverer", "instance"),
    ("kind", "reason", "case"),
    ("about", "what", "origin", "stream"),
    ("state",),
    ("source",),
)
"""Members of such records for the columns principal, action, resource, outcome and ip."""
