"""``audit-ready retention``: what would go, let it go, and what may not go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from audit_middleware.cli.output import json_option, print_json, printable
from audit_middleware.cli.remote import Remote, collector_url
from audit_middleware.errors import ConfigurationError

url_option = click.option("--url", help="Collector to ask (default: AUDIT_COLLECTOR_URL).")
reason_option = click.option("--reason", required=True, help="Why; it goes on record.")


@click.group("retention")
def command() -> None:
    """Show what has expired, delete it by a plan, and hold what a case needs.

    Asks a running collector, as the token in AUDIT_TOKEN; deleting and holding take the role admin. `lifecycle` asks
    nobody.
    """


@command.command("plan")
@url_option
@json_option
def plan(url: str | None, as_json: bool) -> None:
    """Show every log, whether it would go now and why, and the holds. Nothing is deleted."""
    found = _remote(url).json("GET", "/v1/retention")
    if as_json:
        print_json(found)
        return
    for item in found["plan"]["items"]:
        click.echo(
            f"{item['verdict']:<7} {item['class']}/{item['period']}  {item['size']} entries, keep {item['keep']}"
        )
        click.echo(f"        {printable(item['why'])}")
    for held in found["holds"]:
        click.echo(printable(f"hold    {held['case']}: {held['state']} by {held['by']}: {held['reason']}"))
        click.echo(f"        {_scope(held)}")
    going = [item for item in found["plan"]["items"] if item["verdict"] == "delete"]
    if going:
        click.echo(f"{len(going)} logs would be deleted: audit-ready retention apply {found['plan']['id']}")
    else:
        click.echo("nothing would be deleted")


@command.command("apply")
@click.argument("plan_id", metavar="PLAN")
@url_option
@json_option
def apply(plan_id: str, url: str | None, as_json: bool) -> None:
    """Delete what PLAN says, if it is still the plan of this moment.

    Each log is read once more in full: one that was altered, or holds a line that a case needs, is not deleted.
    """
    found = _remote(url).json("POST", "/v1/retention", {"plan": plan_id})
    if as_json:
        print_json(found)
        return
    for item in found["deleted"]:
        click.echo(f"deleted {item['class']}/{item['period']}: {item['size']} entries, {item['why']}")
    click.echo(f"{len(found['deleted'])} logs deleted; what remains of them still verifies")


@command.command("hold")
@click.argument("case")
@reason_option
@click.option("--service", "services", multiple=True, help="Only records of this service; may be given several times.")
@click.option("--principal", "principals", multiple=True, help="Only records of this principal; several times.")
@click.option("--since", help="First day, such as 2026-07-01.")
@click.option("--until", help="Last day.")
@url_option
@json_option
def hold(  # noqa: PLR0917 - one parameter for each option
    case: str,
    reason: str,
    services: tuple[str, ...],
    principals: tuple[str, ...],
    since: str | None,
    until: str | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Hold what CASE needs, whatever its retention. It counts at once; a second person should confirm it."""
    body = {"case": case, "reason": reason, "services": services, "principals": principals}
    days = {name: day for name, day in (("since", since), ("until", until)) if day is not None}
    _show(_remote(url).json("POST", "/v1/holds", {**body, **days}), as_json)


@command.command("confirm")
@click.argument("case")
@reason_option
@url_option
@json_option
def confirm(case: str, reason: str, url: str | None, as_json: bool) -> None:
    """Confirm the hold of CASE, as the second person."""
    _show(_remote(url).json("POST", f"/v1/holds/{_quoted(case)}/confirm", {"reason": reason}), as_json)


@command.command("release")
@click.argument("case")
@reason_option
@url_option
@json_option
def release(case: str, reason: str, url: str | None, as_json: bool) -> None:
    """Ask to release the hold of CASE; it ends when a second person does the same."""
    _show(_remote(url).json("POST", f"/v1/holds/{_quoted(case)}/release", {"reason": reason}), as_json)


@command.command("lifecycle")
@click.option(
    "--config",
    "files",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="TOML file of the collector; several times for collectors that share a bucket.",
)
def lifecycle(files: tuple[Path, ...]) -> None:
    """Print the lifecycle configuration of the bucket: what S3 itself may remove, by [store] and [[retention]].

    For `aws s3api put-bucket-lifecycle-configuration`, which replaces all rules of a bucket: add your own. Print it
    again whenever the policy has changed.
    """
    import json

    click.echo(json.dumps({"Rules": _rules(files)}, indent=2))


def _rules(files: tuple[Path, ...]) -> list[dict[str, Any]]:
    from audit_middleware.collector.settings import read_keeping
    from audit_middleware.collector.storage.lifecycle import MAX_RULES, lifecycle_rules
    from audit_middleware.collector.storage.settings import S3Settings

    rules: dict[str, dict[str, Any]] = {}
    buckets: set[tuple[str, str | None]] = set()
    for file in files:
        keeping = read_keeping(file)
        if not isinstance(keeping.store, S3Settings):
            raise ConfigurationError(f'{file}: the tiles are in files; set [store] kind = "s3" and a bucket')
        if keeping.name is None:
            raise ConfigurationError(f"{file}: set name, which is part of the prefix that the rules are for")
        for rule in lifecycle_rules(keeping.store, keeping.policy, keeping.name):
            if rules.setdefault(rule["ID"], rule) != rule:
                raise ConfigurationError(f"{file}: {rule['ID']!r} differs from that of another --config")
        buckets.add((keeping.store.bucket, keeping.store.endpoint))
    if len(buckets) > 1:
        raise ConfigurationError("a bucket has a lifecycle configuration of its own: name collectors of one bucket")
    if len(rules) > MAX_RULES:
        raise ConfigurationError(f"{len(rules)} rules, and a bucket takes {MAX_RULES}: use fewer classes")
    return list(rules.values())


def _remote(url: str | None) -> Remote:
    return Remote(collector_url(url), token=os.environ.get("AUDIT_TOKEN"))


def _quoted(case: str) -> str:
    from urllib.parse import quote

    return quote(case, safe="")


def _show(held: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(held)
        return
    click.echo(f"{printable(held['case'])}: {held['state']} by {printable(held['by'])}; {_scope(held)}")


def _scope(held: dict[str, Any]) -> str:
    services, principals = held.get("services") or ["every service"], held.get("principals") or ["every principal"]
    days = f"{held.get('since') or 'the beginning'} to {held.get('until') or 'the end'}"
    return printable(f"{', '.join(services)}; {', '.join(principals)}; {days}")
