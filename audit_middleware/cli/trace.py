"""``audit-ready trace``: one principal's action through all services."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

from audit_middleware.cli.output import json_option, print_json, printable
from audit_middleware.cli.remote import Remote, collector_url, pages
from audit_middleware.cli.tree import TYPES, Found, Node, nodes_of, prefix, said

MAX_RECORDS: Final = 2000
MAX_SEARCHES: Final = 200
"""Each request of a trace is asked for by its own id too: what was recorded before the trace began does not name it."""

NOT_FOUND: Final = 1
_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_HYPHENED: Final = re.compile(r"-[A-Za-z0-9_-]{21}\.[0-9a-f]{1,16}")  # the id of a stream, and a counter
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")  # W3C Trace Context, section 3.2.2.3

Search = Callable[[dict[str, Any], int], Iterator[Found]]


class _Command(click.Command):
    """Takes a request id that begins with a hyphen for what it is: one in 64 does, and is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ids = [each for each in args if _HYPHENED.fullmatch(each)]
        if ids and "--" not in args:
            args = [*(each for each in args if each not in ids), "--", *ids]
        return super().parse_args(ctx, args)


@click.command("trace", cls=_Command)
@click.argument("id_", metavar="ID")
@click.option("--url", help="The collector (default: AUDIT_COLLECTOR_URL); AUDIT_TOKEN is its token.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Read a collector's data folder instead, read only, without the collector.",
)
@json_option
def command(id_: str, url: str | None, data: Path | None, as_json: bool) -> None:
    """Follow an action through all services, and draw it as a tree.

    ID is a request id, the X-Request-ID of an answer, or the id of a trace.

    Exit codes: 0 drawn, 1 nothing of that id is on record, 2 could not look.
    """
    if not _ID.fullmatch(id_):
        raise click.UsageError(
            f"{id_[:64]!r} is no request id, such as the X-Request-ID of an answer, and no trace id of 32 hex digits"
        )
    found, is_whole = gather(id_, searcher(url, data))
    nodes = nodes_of(found)
    if as_json:
        print_json({"id": id_, "is_whole": is_whole, "nodes": list(_as_dicts(nodes))})
    elif nodes:
        _draw(nodes, is_whole=is_whole)
    if not nodes:
        click.echo(
            f"audit-ready: nothing of {id_} is on record here; it may wait in a spool (`audit-ready spool status`), "
            "or be of a service that this token is not for",
            err=True,
        )
        sys.exit(NOT_FOUND)


def gather(id_: str, search: Search) -> tuple[list[Found], bool]:
    """Return every record that an id leads to, and whether that is all of them."""
    waiting = [("trace_id", id_), ("request_id", id_)] if _TRACE_ID.fullmatch(id_) else [("request_id", id_)]
    asked: set[tuple[str, str]] = set()
    found: dict[tuple[str, int], Found] = {}
    while waiting:
        key = waiting.pop(0)
        if key in asked:
            continue
        if len(asked) >= MAX_SEARCHES or len(found) >= MAX_RECORDS:
            return list(found.values()), False
        asked.add(key)
        for each in search({key[0]: key[1]}, MAX_RECORDS):
            if each["record"]["type"] in TYPES:
                found[each["log"], each["index"]] = each
                waiting += [name for name in _names(each) if name not in asked]
    return list(found.values()), True


def _names(found: Found) -> Iterator[tuple[str, str]]:
    """Yield the ids a record is joined with others by; the trace first, because it gives most at once."""
    rec = found["record"]["rec"]
    for parameter, value in (
        ("trace_id", said(rec, "trace", "trace_id")),
        ("request_id", said(rec, "cause", "request_id")),
        ("request_id", said(rec, "trace", "request_id")),
    ):
        if isinstance(value, str) and _ID.fullmatch(value):
            yield parameter, value


def searcher(url: str | None, data: Path | None) -> Search:
    """Return what searches a collector, or its data folder: parameters of ``GET /v1/records``, and how many at most."""
    if data is None:
        remote = Remote(collector_url(url), token=os.environ.get("AUDIT_TOKEN"))
        return lambda parameters, limit: pages(remote, parameters, limit)
    from audit_middleware.collector.offline import search_folder

    return lambda parameters, limit: search_folder(data, parameters, limit)


def _draw(nodes: Sequence[Node], *, is_whole: bool) -> None:
    services = {node.rec["service"] for node in nodes}
    traces = sorted({value for node in nodes if (value := said(node.rec, "trace", "trace_id"))})
    head = f"{len(services)} services, {len(nodes)} steps, {nodes[0].began}"
    click.echo(printable("  ".join([head, *(f"trace {each}" for each in traces[:3])])))
    for node in nodes:
        click.echo(printable(prefix(node) + "  ".join(_cells(node))))
    if not is_whole:
        click.echo(f"there is more: drawn from the first {MAX_RECORDS} records and {MAX_SEARCHES} searches", err=True)


def _cells(node: Node) -> Iterator[str]:
    rec, step = node.rec, _step(node)
    kind = f"{node.type} " if node.type in {"task", "event"} else ""
    yield f"{rec['service']}  {kind}{rec['action'] if node.type != 'attempt' else _tried(rec)}"
    who = rec["principal"]["id"]
    yield f"{who} for {behalf}" if (behalf := rec["principal"].get("on_behalf_of")) else who
    yield " ".join(str(each) for each in (rec["outcome"], step["status"]) if each is not None)
    if step["duration_us"] is not None:
        yield f"{step['duration_us'] / 1000:.1f} ms"
    yield node.began[11:]
    if node.marks:
        yield f"! {'; '.join(node.marks)}"


def _tried(rec: Any) -> str:  # noqa: ANN401 - a JSON object
    """Say what was attempted, which has no action yet when it is a request."""
    http = rec.get("http")
    return f"{http['method']} {http['path']}" if http else str(rec["action"])


def _step(node: Node) -> dict[str, Any]:
    for group in ("http", "task", "call"):
        if node.rec.get(group):
            return {name: node.rec[group].get(name) for name in ("status", "duration_us")}
    return {"status": None, "duration_us": None}


def _as_dicts(nodes: Sequence[Node]) -> Iterator[dict[str, Any]]:
    """Yield plain values: ``parent`` is the number of a node, so that no tree is too deep for a reader."""
    numbers = {id(node): number for number, node in enumerate(nodes)}
    for number, node in enumerate(nodes):
        rec = node.rec
        yield {
            "number": number,
            "parent": numbers[id(node.parent)] if node.parent is not None else None,
            "depth": node.depth,
            "type": node.type,
            "service": rec["service"],
            "action": rec["action"],
            "principal": rec["principal"],
            "resource": rec["resource"],
            "outcome": rec["outcome"],
            **_step(node),
            "ts": node.began,
            "trace": rec["trace"],
            "cause": rec.get("cause"),
            "marks": node.marks,
            "log": node.found["log"],
            "index": node.found["index"],
        }
