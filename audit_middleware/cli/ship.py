"""``audit-ready ship``: the shipper as a sidecar, cron job or preStop hook."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import click

from audit_middleware import config
from audit_middleware.cli.output import json_option, print_json
from audit_middleware.errors import ConfigurationError
from audit_middleware.journal.spool import Spool
from audit_middleware.shipping.dispatch import Dispatch, dispatch_for

LINGER_S = 0.25


@click.command("ship")
@click.argument("spool_dir", metavar="SPOOL", type=click.Path(path_type=Path, file_okay=False))
@click.option("--once", "mode", flag_value="once", default="once", help="Deliver what is there, then end (default).")
@click.option("--follow", "mode", flag_value="follow", help="Go on delivering until SIGTERM.")
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds --once tries.")
@json_option
def command(spool_dir: Path, mode: str, timeout: float, as_json: bool) -> None:
    """Deliver SPOOL to AUDIT_COLLECTOR_URL, streams of living and dead processes alike.

    No key is needed: whole lines travel as they are and the collector judges them. A sidecar may start before its
    application: --follow makes the folder. Exit 2 when something is left.
    """
    settings = config.load()
    if not settings.collector_url:
        raise ConfigurationError("AUDIT_COLLECTOR_URL is not set: nowhere to deliver to")
    if mode == "once" and not spool_dir.is_dir():
        raise ConfigurationError(f"{spool_dir} is no folder; nothing to deliver")
    spool = Spool(spool_dir)
    dispatch = dispatch_for(settings, spool, takes_living=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    dispatch.scan()
    left = _follow(dispatch, stop) if mode == "follow" else _once(dispatch, stop, time.monotonic() + timeout)
    held = dispatch.held() if mode == "once" else 0
    dispatch.release()
    dispatch.shipper.close()
    _report(dispatch, left, held, as_json=as_json)
    sys.exit(2 if left or held else 0)


def _once(dispatch: Dispatch, stop: threading.Event, deadline: float) -> int:
    while not stop.is_set() and time.monotonic() < deadline:
        if dispatch.turn():
            continue
        if not dispatch.shipper.backoff.wait_s and not dispatch.waits() and not dispatch.held():
            break
        stop.wait(max(0.05, min(LINGER_S, dispatch.shipper.backoff.wait_s)))
    dispatch.scan()
    return dispatch.waits()


def _follow(dispatch: Dispatch, stop: threading.Event) -> int:
    while not stop.is_set():
        if not (dispatch.turn() and dispatch.shipper.is_behind):
            stop.wait(max(LINGER_S, min(1.0, dispatch.shipper.backoff.wait_s)))
    return dispatch.waits()


def _report(dispatch: Dispatch, left: int, held: int, *, as_json: bool) -> None:
    shipped = dispatch.shipper.shipped
    if as_json:
        print_json(
            {
                "delivered": shipped.delivered,
                "quarantined": shipped.quarantined,
                "kept_aside": shipped.kept_aside,
                "streams_left": left,
                "streams_held": held,
                "last_error": shipped.last_error,
            }
        )
        return
    click.echo(f"delivered {shipped.delivered} lines, {left} streams still wait")
    if held:
        click.echo(f"{held} streams are held by another process, which has to deliver them", err=True)
    if shipped.last_error:
        click.echo(f"last trouble: {shipped.last_error}", err=True)
