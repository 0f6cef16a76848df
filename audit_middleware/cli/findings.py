"""``audit-ready findings``: what the collector's monitor found, and who has seen to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import click
import msgspec

from audit_middleware.cli.output import json_option, print_json, print_table, printable
from audit_middleware.cli.remote import Remote, collector_url
from audit_middleware.errors import ConfigurationError, DeliveryError

STATES: Final = ("open", "acknowledged", "resolved")
SEVERITIES: Final = ("critical", "warning", "info")
HEAD: Final = ("ID", "SEVERITY", "KIND", "STATE", "WHO", "FIRST SEEN", "LAST SEEN", "EVIDENCE")
_WIDTH: Final = 80  # characters of the evidence in a table

url_option = click.option("--url", help="The collector (default: AUDIT_COLLECTOR_URL); AUDIT_TOKEN is its token.")


@click.group("findings", invoke_without_command=True)
@url_option
@json_option
@click.pass_context
def command(context: click.Context, url: str | None, as_json: bool) -> None:
    """Look into what the integrity monitor of a collector found, and see to it.

    Without a command: the findings that are not resolved.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_, url=url, as_json=as_json)
    elif url is not None or as_json:
        raise click.UsageError(f"give --url and --json behind {context.invoked_subcommand}")


@command.command("list")
@url_option
@click.option("--state", type=click.Choice([*STATES, "all"]), help="Default: all that are not resolved.")
@click.option("--kind", help="Such as gap, silence or tampering.")
@click.option("--severity", type=click.Choice(SEVERITIES), help="How grave it is.")
@click.option("--service", help="Name of the service.")
@json_option
def list_(
    url: str | None = None,
    state: str | None = None,
    kind: str | None = None,
    severity: str | None = None,
    service: str | None = None,
    as_json: bool = False,
) -> None:
    """List findings, those that were seen last first."""
    given = {"state": None if state == "all" else state, "kind": kind, "severity": severity, "service": service}
    found = fetch(connect(url), {name: value for name, value in given.items() if value is not None})
    if state is None:
        found = [each for each in found if each["state"] != "resolved"]
    if as_json:
        for finding in found:
            print_json(finding)
        return
    print_table(HEAD, [row(finding) for finding in found])


@command.command()
@click.argument("finding")
@url_option
@json_option
def show(finding: str, url: str | None, as_json: bool) -> None:
    """Show one finding: its evidence, what it means and what to do."""
    found = next((each for each in fetch(connect(url), {"limit": 10_000}) if each["id"] == finding), None)
    if found is None:
        raise _unknown(finding)
    _print(found, as_json=as_json)


@command.command()
@click.argument("finding")
@click.option("--note", help="What is known about it; stays on record.")
@url_option
@json_option
def ack(finding: str, note: str | None, url: str | None, as_json: bool) -> None:
    """Acknowledge a finding: somebody is on it. Needs a token with role admin."""
    _decide(finding, "acknowledged", note, url, as_json=as_json)


@command.command()
@click.argument("finding")
@click.option("--note", required=True, help="Why it is over; stays on record.")
@url_option
@json_option
def resolve(finding: str, note: str, url: str | None, as_json: bool) -> None:
    """Resolve a finding that does not end by itself. Needs a token with role admin."""
    _decide(finding, "resolved", note, url, as_json=as_json)


def connect(url: str | None) -> Remote:
    """Return the collector to ask."""
    return Remote(collector_url(url), token=os.environ.get("AUDIT_TOKEN"))


def fetch(remote: Remote, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return findings; raise `DeliveryError`, `ConfigurationError` for a collector without a monitor."""
    answer = remote.get("/v1/findings", parameters)
    if answer is None:
        raise ConfigurationError(f"{remote.url} has no findings: it is older, or runs with its monitor off")
    found: list[dict[str, Any]] = _decoded(remote, answer.content).get("findings", [])
    return found


def row(finding: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of `HEAD` for one finding."""
    who = finding["service"] or finding["stream"] or "-"
    evidence = ", ".join(f"{name}={_text(value)}" for name, value in finding["evidence"].items() if value is not None)
    times = (finding["first_seen"][:19], finding["last_seen"][:19])
    cut = evidence if len(evidence) <= _WIDTH else f"{evidence[: _WIDTH - 1]}…"
    return (finding["id"], finding["severity"], finding["kind"], finding["state"], who, *times, cut)


def _decide(finding: str, state: str, note: str | None, url: str | None, *, as_json: bool) -> None:
    remote = connect(url)
    answer = remote.post(f"/v1/findings/{finding}", {"state": state, "note": note})
    if answer is None:
        raise _unknown(finding)
    _print(_decoded(remote, answer.content), as_json=as_json)


def _decoded(remote: Remote, content: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError) as error:
        raise DeliveryError(f"{remote.url} answers with something else than findings: {error}") from error


def _print(finding: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(finding)
        return
    for name, value in finding.items():
        if value is not None and name not in {"evidence", "is_present"}:
            click.echo(f"{name + ':':18}{printable(value)}")
    for name, value in finding["evidence"].items():
        click.echo(f"  {name + ':':16}{printable(_text(value))}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _unknown(finding: str) -> ConfigurationError:
    return ConfigurationError(f"there is no finding {finding!r}; `audit-ready findings list --state all` has them all")
