"""``audit-ready alerts``: whether they arrive."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audit_middleware.cli.output import json_option, print_json, print_table
from audit_middleware.errors import ConfigurationError, DeliveryError

if TYPE_CHECKING:
    from audit_middleware.collector.alerts.message import Message
    from audit_middleware.collector.alerts.settings import AlertSettings


@click.group("alerts")
def command() -> None:
    """Test whether alerts arrive."""


@command.command("test")
@click.argument("name", required=False)
@click.option("--config", "file", required=True, type=click.Path(path_type=Path), help="TOML file of the collector.")
@json_option
def test(name: str | None, file: Path, as_json: bool) -> None:
    """Send a test to the sink NAME, or to every sink of --config, and say what came back. Exit 2 when one failed.

    Needs no running collector. The test of a heartbeat is a heartbeat.
    """
    from audit_middleware.collector.alerts.message import Message
    from audit_middleware.collector.monitor.clock import real_clock
    from audit_middleware.collector.settings import read_alerts

    alerts, collector = read_alerts(file)
    chosen = [each for each in alerts if name in {None, each.name}]
    if not chosen:
        known = ", ".join(each.name for each in alerts) or "none"
        raise ConfigurationError(f"{file}: there is no [[alerts]] {name or ''}".rstrip() + f"; there are: {known}")
    now = real_clock()
    message = Message(collector=collector, now=now.wall, sent_at=now.text, is_test=True)
    found = [_try(each, message) for each in chosen]
    if as_json:
        print_json(found)
    else:
        rows = [(each["name"], each["kind"], "sent" if each["sent"] else "FAILED", each["answer"]) for each in found]
        print_table(("NAME", "KIND", "RESULT", "ANSWER"), rows)
    sys.exit(0 if all(each["sent"] for each in found) else 2)


def _try(settings: AlertSettings, message: Message) -> dict[str, object]:
    from audit_middleware.collector.alerts.senders import make_sender

    said: dict[str, object] = {"name": settings.name, "kind": settings.__struct_config__.tag}
    sender = make_sender(settings, os.environ)
    try:
        answer = sender.send(message)
    except DeliveryError as error:
        return said | {"sent": False, "answer": str(error)}
    finally:
        sender.close()
    return said | {"sent": True, "answer": answer}
