"""``audit-ready verify``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from audit_middleware import config
from audit_middleware.cli.ledgers import Target, Trust, folder_target, together
from audit_middleware.cli.output import json_option, keyring, print_json, printable, progress
from audit_middleware.cli.remote import RemoteLogs
from audit_middleware.errors import AuditError, ConfigurationError
from audit_middleware.sealing.keys import Keyring
from audit_middleware.tlog.note import MAX_NOTE
from audit_middleware.verify import Report, Severity, verify_logs, verify_spool
from audit_middleware.verify.report import Finding, Progress
from audit_middleware.verify.rollback import KeptCheckpoint

SHOWN = 50
SHOWN_OF_A_RULE = 5
_WORDS = {Severity.TAMPERING: "TAMPERING", Severity.UNCHECKED: "UNCHECKED", Severity.NOTE: "note"}
_HINTS = {"unknown_key": "set AUDIT_KEY_FILE or AUDIT_KEYS to the key that sealed them"}


@click.command("verify")
@click.argument("targets", metavar="PATH_OR_URL...", nargs=-1, required=True)
@click.option(
    "--vkey",
    "vkeys",
    multiple=True,
    help="Verifier key to trust; its log has to be there (default: AUDIT_LOG_KEYS, else log.vkey beside the ledger).",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A checkpoint kept from earlier; its log has to extend it. May be given several times.",
)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="For s3://: the collector's TOML file; says how to reach the bucket and how long files have to be locked.",
)
@json_option
def command(
    targets: tuple[str, ...], vkeys: tuple[str, ...], checkpoints: tuple[Path, ...], file: Path | None, as_json: bool
) -> None:
    """Verify a spool, a ledger (its data folder, one log, or s3://BUCKET/PREFIX), or a collector by its URL.

    Says which line breaks which rule, and what that means. An unknown key is unverifiable and a crash is unclosed:
    neither is tampering. Name all collectors that share an index at once: streams move between them. An older copy
    put back whole looks good in itself: only --checkpoint, the guard and the shippers find it. Exit 0 good, 1 evidence
    of tampering, 2 something could not be checked.
    """
    run, named = _verification(targets, vkeys, [_kept(each) for each in checkpoints], file), ", ".join(targets)
    with progress("verifying", is_quiet=as_json) as advance:
        try:
            report = run(advance)
        except (OSError, AuditError) as error:
            raise ConfigurationError(f"{named} could not be verified: {error}") from error
    _print_json(report) if as_json else _print(report, named)
    sys.exit(report.exit_code)


def _verification(
    targets: tuple[str, ...], vkeys: tuple[str, ...], kept: list[KeptCheckpoint], file: Path | None
) -> Callable[[Progress], Report]:
    keys = keyring()
    trust = Trust.parse(vkeys, config.load().log_keys)
    if len(targets) > 1:
        found = together([(target, _ledger(target, trust, kept, file)) for target in targets])
    elif (Path(targets[0]) / "streams").is_dir():
        return _spool_verification(Path(targets[0]), keys, kept, file)
    else:
        found = _ledger(targets[0], trust, kept, file)
    return lambda advance: _verify(found, keys, advance)


def _spool_verification(
    path: Path, keys: Keyring, kept: list[KeptCheckpoint], file: Path | None
) -> Callable[[Progress], Report]:
    if file is not None:
        raise _config_is_for_buckets(str(path))
    if kept:
        raise ConfigurationError(f"{path} is a spool: --checkpoint is for a ledger or a collector")
    if not any((path / "streams").iterdir()):
        raise ConfigurationError(f"nothing there: {path} is a spool without a journal; nothing was checked")
    return lambda advance: verify_spool(path, keys, advance)


def _ledger(target: str, trust: Trust, kept: list[KeptCheckpoint], file: Path | None) -> Target:
    if target.startswith("s3://"):
        from audit_middleware.cli.buckets import bucket_target

        return bucket_target(target, trust, kept, file)
    if file is not None:
        raise _config_is_for_buckets(target)
    if target.startswith(("http://", "https://")):
        return RemoteLogs(target, token=os.environ.get("AUDIT_TOKEN")).target(trust, kept)
    if (Path(target) / "streams").is_dir():
        raise ConfigurationError(f"{target} is a spool, which is verified by itself; only ledgers go together")
    try:
        return folder_target(Path(target), trust, kept)
    except OSError as error:
        raise ConfigurationError(f"{target} could not be verified: {error}") from error


def _config_is_for_buckets(target: str) -> ConfigurationError:
    return ConfigurationError(f"{target}: --config is for s3://BUCKET/PREFIX")


def _verify(target: Target, keys: Keyring, advance: Progress) -> Report:
    report = verify_logs(target.logs, keys, advance, scope=target.scope)
    for finding in target.found():
        report.add(finding)
    return report


def _kept(file: Path) -> KeptCheckpoint:
    with open(file, "rb") as note:
        return KeptCheckpoint(str(file), note.read(MAX_NOTE))


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
    groups: dict[tuple[Severity, str], list[Finding]] = {}
    for finding in shown:
        groups.setdefault((finding.severity, finding.rule), []).append(finding)
    room = SHOWN
    for (severity, rule), findings in groups.items():
        number = report.by_rule[severity, rule]
        part = findings[: min(room, 1 if rule in _HINTS else SHOWN_OF_A_RULE)]
        room -= len(part)
        for finding in part:
            _print_finding(finding)
        if number > len(part):
            click.echo(f"{_WORDS[severity]} {rule}: {number - len(part)} more like this; --json lists them")
        if rule in _HINTS:
            click.echo(f"    what to do: {_HINTS[rule]}")
    looked = ", ".join(f"{number} {what}" for what, number in report.counts.items())
    verdict = {0: "good", 1: "EVIDENCE OF TAMPERING", 2: "could not be checked completely"}[report.exit_code]
    click.echo(f"{target}: {looked or 'nothing there'}: {verdict}")


def _print_finding(finding: Finding) -> None:
    click.echo(f"{_WORDS[finding.severity]} {finding.rule}: {printable(finding.where)}")
    click.echo(f"    {printable(finding.message)}")
    click.echo(f"    which means: {finding.meaning}")
