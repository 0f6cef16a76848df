"""``audit-ready coverage``: what services declare, and what was recorded of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

import click
import msgspec

from audit_middleware.cli.output import json_option, print_json, print_table, printable
from audit_middleware.cli.remote import Remote, collector_url
from audit_middleware.errors import ConfigurationError, DeliveryError

HEAD: Final = ("STATE", "KIND", "METHOD", "ROUTE", "RECORDS", "LAST SEEN", "REMARKS")
COVERED: Final = frozenset({"audited", "exempt"})
WORST_FIRST: Final = ("undeclared", "expired", "defects", "unseen", "exempt", "audited")
LIMIT: Final = 50_000


class Point(msgspec.Struct):
    """One entry point, as the collector says it."""

    component: str | None
    kind: str
    method: str
    route: str
    state: str
    records: int
    name: str | None = None
    first_seen: str | None = None
    last_seen: str | None = None
    defects: list[str] = []
    last_defect: str | None = None
    exempt: str | None = None
    until: str | None = None


class Component(msgspec.Struct):
    """What declares them."""

    component: str
    version: str
    policy: str
    declared: str
    digest: str = ""
    rules: str | None = None
    versions: dict[str, str] = {}
    stream: str = ""
    entry_points: int = 0
    beyond: int = 0
    settings: dict[str, str] = {}


class Service(msgspec.Struct):
    """One service; ``percent`` is of what is declared, None where nothing is."""

    service: str
    percent: float | None
    states: dict[str, int]
    components: list[Component]
    entry_points: list[Point]
    beyond: int = 0
    left_out: int = 0


class Answer(msgspec.Struct):
    """What one collector answers, or several together."""

    counted_since: str
    counted_by: list[str]
    services: list[Service]
    uncounted: int = 0
    beyond: int = 0


@click.command("coverage")
@click.option(
    "--url",
    "urls",
    multiple=True,
    help="The collector (default: AUDIT_COLLECTOR_URL); AUDIT_TOKEN is its token. Give it for each collector that "
    "counts: their records are added up.",
)
@click.option("--service", help="Only this service.")
@click.option(
    "--fail-under",
    type=click.FloatRange(0, 100),
    help="Exit with 1 if less is audited or exempt, in percent of what a service declares, or an exemption has ended.",
)
@json_option
@click.pass_context
def command(
    context: click.Context, urls: Sequence[str], service: str | None, fail_under: float | None, *, as_json: bool
) -> None:
    """Show what services declare and what was recorded of it, the worst first.

    States: audited, defects (with a field unknown or replaced, within the last day that it was recorded), exempt,
    expired (its exemption has ended), unseen (never recorded), undeclared (recorded, and no inventory names it).
    """
    answer = together([_fetch(url, service) for url in urls or (None,)])
    if as_json:
        print_json(answer)
    else:
        _print(answer)
    failures = [] if fail_under is None else list(_failures(answer, service, fail_under))
    for failure in failures:
        click.echo(f"audit-ready: {printable(failure)}", err=True)
    if failures:
        context.exit(1)


def together(answers: Sequence[Answer]) -> Answer:
    """Return what several collectors answer as one; each has counted what was delivered to itself."""
    first, *others = answers
    for other in others:
        first.counted_since = max(first.counted_since, other.counted_since)
        first.counted_by += other.counted_by
        first.uncounted += other.uncounted
        first.beyond += other.beyond
        known = {each.service: each for each in first.services}
        for service in other.services:
            if service.service in known:
                _add(known[service.service], service)
            else:
                first.services.append(service)
    first.services.sort(key=lambda each: each.service)
    return first


def _add(to: Service, other: Service) -> None:
    to.beyond += other.beyond
    to.left_out += other.left_out
    components = {each.component: each for each in to.components}
    for component in other.components:
        known = components.get(component.component)
        if known is None or known.declared < component.declared:
            components[component.component] = component
    to.components = [components[name] for name in sorted(components)]
    points: dict[tuple[str | None, str, str, str], Point] = {}
    for point in [*to.entry_points, *other.entry_points]:
        key = (point.component, point.kind, point.method, point.route)
        points[key] = _sum(points[key], point) if key in points else point
    declared = {(kind, method, route) for component, kind, method, route in points if component is not None}
    for point in [each for each in points.values() if each.component is None and _is_in(each, declared)]:
        _count_as_declared(points, point)
    to.entry_points = [point for point in points.values() if point.state != "undeclared" or not _is_in(point, declared)]
    to.entry_points.sort(key=lambda each: (WORST_FIRST.index(each.state), each.kind, each.route, each.method))
    to.states = {state: sum(each.state == state for each in to.entry_points) for state in WORST_FIRST}
    of_declared = [each.state in COVERED for each in to.entry_points if each.component is not None]
    to.percent = 100.0 * sum(of_declared) / len(of_declared) if of_declared else None


def _count_as_declared(points: dict[tuple[str | None, str, str, str], Point], seen: Point) -> None:
    """Add what one collector has counted and only another one knows the inventory of."""
    known = msgspec.structs.replace(seen, state="defects" if seen.defects else "audited")
    for key, point in points.items():
        if key[0] is not None and (key[1], key[3]) == (seen.kind, seen.route) and key[2] in {"*", seen.method}:
            points[key] = msgspec.structs.replace(_sum(point, known), component=key[0], method=key[2], name=point.name)


def _is_in(point: Point, declared: set[tuple[str, str, str]]) -> bool:
    return bool({(point.kind, point.method, point.route), (point.kind, "*", point.route)} & declared)


def _sum(one: Point, other: Point) -> Point:
    newer, older = sorted((one, other), key=lambda each: each.last_seen or "", reverse=True)
    states = {one.state, other.state}
    lasting = next(
        (state for state in ("expired", "exempt", "undeclared", "defects", "audited") if state in states), "unseen"
    )
    return msgspec.structs.replace(
        newer,
        state=lasting,
        records=one.records + other.records,
        first_seen=min((each for each in (one.first_seen, other.first_seen) if each), default=None),
        defects=sorted({*one.defects, *other.defects}),
        last_defect=max((each for each in (one.last_defect, other.last_defect) if each), default=None),
        exempt=newer.exempt or older.exempt,
        until=newer.until or older.until,
    )


def _fetch(url: str | None, service: str | None) -> Answer:
    remote = Remote(collector_url(url), token=os.environ.get("AUDIT_TOKEN"))
    parameters = {"limit": LIMIT} | ({"service": service} if service is not None else {})
    answer = remote.get("/v1/coverage", parameters)
    if answer is None:
        raise ConfigurationError(f"{remote.url} knows of no coverage: it is older, or runs with its monitor off")
    try:
        return msgspec.json.decode(answer.content, type=Answer)
    except (msgspec.MsgspecError, ValueError) as error:
        raise DeliveryError(f"{remote.url} answers with something else than coverage: {error}") from error


def _print(answer: Answer) -> None:
    for service in answer.services:
        click.echo(f"{printable(service.service)}: {_summary(service)}")
        for each in service.components:
            beyond = f", {each.beyond} more had no room" if each.beyond else ""
            text = (
                f"  {each.component} {each.version}, policy {each.policy[:12]}, declared {each.declared[:19]}{beyond}"
            )
            click.echo(printable(text))
        if service.entry_points:
            print_table(HEAD, [_cells(each) for each in service.entry_points])
        if service.left_out:
            click.echo(f"{service.left_out} more are left out: ask for --service")
        if service.beyond:
            click.echo(f"{service.beyond} records or entry points had no room and are not counted")
        click.echo()
    click.echo(printable(f"counted since {answer.counted_since[:19]} by {', '.join(answer.counted_by)}"))
    if not answer.services:
        click.echo("no service has declared or recorded anything since")
    if answer.uncounted or answer.beyond:
        click.echo(f"not counted: {answer.uncounted} lines that were read late, {answer.beyond} records without room")


def _summary(service: Service) -> str:
    states = ", ".join(f"{service.states[state]} {state}" for state in WORST_FIRST if service.states.get(state))
    return (
        f"{'declares nothing' if service.percent is None else f'{service.percent:.1f} %'} ({states or 'nothing seen'})"
    )


def _cells(point: Point) -> tuple[str, ...]:
    until = f" until {point.until}" if point.until else ""
    remarks = f"{point.exempt}{until}" if point.exempt is not None else ", ".join(point.defects)
    last = (point.last_seen or "-")[:19]
    return (point.state, point.kind, point.method, point.route, str(point.records), last, remarks)


def _failures(answer: Answer, service: str | None, fail_under: float) -> Iterator[str]:
    """Say what is not as it has to be; nothing that is declared is no proof of anything."""
    declaring = [each for each in answer.services if each.percent is not None]
    if not declaring:
        yield f"{service or 'every service'} declares nothing"
    for each in declaring:
        if each.percent is not None and each.percent < fail_under:
            yield f"{each.service}: {each.percent:.1f} % is less than {fail_under:g} %"
        if each.states.get("expired"):
            yield f"{each.service}: {each.states['expired']} exemptions have ended"
