"""``audit-ready verify``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from audit_middleware.cli.output import json_option, keyring, print_json, progress
from audit_middleware.cli.remote import RemoteLogs
from audit_middleware.errors import AuditError, ConfigurationError
from audit_middleware.tlog.note import Verifier
from audit_middleware.tlog.reader import LogReader, ReadFile
from audit_middleware.verify import Report, Severity, verify_logs, verify_spool
from audit_middleware.verify.ledger import Log
from audit_middleware.verify.report import Progress

SHOWN = 50
_WORDS = {Severity.TAMPERING: "TAMPERING", Severity.UNCHECKED: "UNCHECKED", Severity.NOTE: "note"}


@click.command("verify")
@click.argument("target", metavar="PATH_OR_URL")
@click.option("--vkey", "vkeys", multiple=True, help="Verifier key to trust (default: log.vkey beside the ledger).")
@json_option
def command(target: str, vkeys: tuple[str, ...], as_json: bool) -> None:
    """Verify a spool, a ledger (its data folder or one log), or a collector by its URL.

    Says which line breaks which rule, and what that means. An unknown key is unverifiable and a crash is unclosed:
    neither is tampering. Exit 0 good, 1 evidence of tampering, 2 something could not be checked.
    """
    run = _verification(target, vkeys)
    with progress("verifying", is_quiet=as_json) as advance:
        try:
            report = run(advance)
        except (OSError, AuditError) as error:
            raise ConfigurationError(f"{target} could not be verified: {error}") from error
    _print_json(report) if as_json else _print(report, target)
    sys.exit(report.exit_code)


def _verification(target: str, vkeys: tuple[str, ...]) -> Callable[[Progress], Report]:
    keys = keyring()
    if target.startswith(("http://", "https://")):
        remote = RemoteLogs(target, token=os.environ.get("AUDIT_TOKEN"))
        logs = remote.logs(vkeys)
        return lambda advance: verify_logs(logs, keys, advance)
    path = Path(target)
    if (path / "streams").is_dir():
        return lambda advance: verify_spool(path, keys, advance)
    folders = log_folders(path)
    if not folders:
        raise ConfigurationError(f"{path} holds neither a spool (streams/) nor a ledger (checkpoint, or log/)")
    verifiers = [Verifier.parse(vkey) for vkey in vkeys or _keys_beside(path)]
    logs = [Log(name, _reader(folder, verifiers)) for name, folder in folders]
    return lambda advance: verify_logs(logs, keys, advance)


def log_folders(path: Path) -> list[tuple[str, Path]]:
    """Return the logs of a data folder as (class/period, folder), oldest period first; a log folder is itself one."""
    if (path / "tile").is_dir() or (path / "checkpoint").exists():
        return [(path.name, path)]
    root = path / "log" if (path / "log").is_dir() else path
    found = [folder for folder in root.glob("*/*") if (folder / "tile").is_dir() or (folder / "checkpoint").exists()]
    return [("/".join(folder.parts[-2:]), folder) for folder in sorted(found, key=lambda folder: folder.name)]


def _keys_beside(path: Path) -> list[str]:
    for folder in (path, *path.resolve().parents[:4]):
        if (folder / "log.vkey").is_file():
            return (folder / "log.vkey").read_text(encoding="utf-8").split()
    raise ConfigurationError(f"no log.vkey beside {path}: give the log's verifier key with --vkey")


def _reader(folder: Path, verifiers: list[Verifier]) -> LogReader:
    """A log is read with the key that bears the name its checkpoint claims; the signature decides."""
    checkpoint = folder / "checkpoint"
    origin = checkpoint.read_text(encoding="utf-8").partition("\n")[0] if checkpoint.is_file() else ""
    verifier = next((each for each in verifiers if each.name == origin), verifiers[0])
    return LogReader(folder_reader(folder), verifier)


def folder_reader(folder: Path) -> ReadFile:
    """Return a function that reads the files of a log's folder, None for one that is not there."""

    def read(key: str) -> bytes | None:
        try:
            return (folder / key).read_bytes()
        except FileNotFoundError:
            return None

    return read


def _print_json(report: Report) -> None:
    print_json(
        {
            "exit_code": report.exit_code,
            "counts": report.counts,
            "by_severity": {severity.value: number for severity, number in report.by_severity.items()},
            "findings": [finding.as_dict() for finding in report.findings],
        }
    )


def _print(report: Report, target: str) -> None:
    shown = sorted(report.findings, key=lambda finding: list(Severity).index(finding.severity))
    for finding in shown[:SHOWN]:
        click.echo(f"{_WORDS[finding.severity]} {finding.rule}: {finding.where}")
        click.echo(f"    {finding.message}")
        click.echo(f"    which means: {finding.meaning}")
    hidden = sum(report.by_severity.values()) - min(len(shown), SHOWN)
    if hidden:
        click.echo(f"... and {hidden} more; --json lists them")
    looked = ", ".join(f"{number} {what}" for what, number in report.counts.items())
    verdict = {0: "good", 1: "EVIDENCE OF TAMPERING", 2: "could not be checked completely"}[report.exit_code]
    click.echo(f"{target}: {looked or 'nothing there'}: {verdict}")
