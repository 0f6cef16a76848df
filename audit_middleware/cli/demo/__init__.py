"""``audit-ready demo``: the main job on real processes, with every claim checked."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import click

from audit_middleware.cli.demo.claims import Claims, check_delivery, check_tampering, check_verification
from audit_middleware.cli.demo.following import check_coverage, check_following, check_switched_off
from audit_middleware.cli.demo.processes import Demo
from audit_middleware.cli.demo.traffic import Traffic
from audit_middleware.cli.output import json_option, print_json
from audit_middleware.errors import ConfigurationError

MARKER = ".audit-demo"


@click.command("demo")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("audit-demo"),
    show_default=True,
    help="Its folder.",
)
@click.option("--seconds", type=float, default=4.0, show_default=True, help="Length of each of the three phases.")
@json_option
def command(folder: Path, seconds: float, as_json: bool) -> None:
    """Run a collector, three example services and a worker, kill the collector under traffic, prove what is claimed.

    Exit 0 only if every claim held, 1 if one failed, 2 if the demo could not run.
    """
    began = time.monotonic()
    _empty(folder)
    claims = Claims()
    with Demo(folder.resolve(), find_app(), is_quiet=as_json) as demo:
        _run(demo, claims, seconds)
    if as_json:
        print_json({"claims": claims.results, "seconds": round(time.monotonic() - began)})
        sys.exit(1 if claims.failed else 0)
    click.echo()
    for line in claims.lines:
        click.echo(line)
    click.echo(f"\n{claims.held} claims held, {claims.failed} failed, {time.monotonic() - began:.0f} s")
    click.echo("Look around:")
    for example in ("--principal alice", "--outcome denied", "--action orders.refund --json --proof --limit 1"):
        click.echo(f"  {_command()} search --data {folder}/data {example}")
    click.echo(f"  AUDIT_KEY_FILE={folder}/keys {_command()} verify {folder}/data")
    sys.exit(1 if claims.failed else 0)


def _run(demo: Demo, claims: Claims, seconds: float) -> None:
    demo.say("starting the collector, FastAPI (uvicorn), Flask (gunicorn), Django (uvicorn) and a Celery worker")
    demo.start_collector()
    demo.start_apps()
    with Traffic(demo.app_urls) as traffic:
        demo.say(f"traffic of several principals at {', '.join(demo.app_urls.values())}")
        demo.watch(traffic, seconds)
        demo.say("SIGKILL to the collector; traffic goes on")
        demo.kill_collector()
        demo.watch(traffic, seconds)
        demo.copy_spool()
        demo.say("the collector comes back")
        demo.start_collector()
        demo.watch(traffic, seconds)
    demo.say("alice checks an order out: orders, billing, the back office and the worker act for her")
    demo.say("what came of it:\n" + check_following(demo, claims))
    check_coverage(demo, claims)
    demo.say("billing starts again with its audit trail switched off")
    check_switched_off(demo, claims)
    demo.say("waiting until the spool has drained, then stopping the services")
    demo.wait_until_drained()
    demo.stop_apps()
    check_delivery(demo, traffic, claims)
    check_verification(demo, claims)
    check_tampering(demo, claims)


def find_app() -> Path:
    """Return the root of the checkout that holds the example apps; raise `ConfigurationError` without one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / "example_apps" / "fastapi_app" / "main.py").is_file():
        raise ConfigurationError(
            "the demo runs the example app of a source checkout: clone the repository, `make demo`"
        )
    return root


def _empty(folder: Path) -> None:
    """Start in an empty folder; one that is not the demo's own is never touched."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise ConfigurationError(f"{folder} holds something else; name another folder with --dir")
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    (folder / MARKER).touch()


def _command() -> str:
    return sys.argv[0] if "/" in sys.argv[0] and Path(sys.argv[0]).name == "audit-ready" else "audit-ready"
