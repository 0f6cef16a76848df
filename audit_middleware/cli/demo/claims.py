"""What the demo claims, each checked against the ledger's own bytes."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from audit_middleware.cli.demo.processes import Demo
from audit_middleware.cli.demo.traffic import Completed, Traffic
from audit_middleware.cli.ledgers import folder_reader, log_folders
from audit_middleware.tlog.note import Verifier
from audit_middleware.tlog.reader import LogReader


@dataclass(slots=True)
class Claims:
    """Claims that held and claims that failed, as lines to print."""

    lines: list[str] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    held: int = 0
    failed: int = 0

    def check(self, claim: str, holds: bool, figures: str) -> None:
        """Note one claim with the figures behind it."""
        self.held += holds
        self.failed += not holds
        self.results.append({"claim": claim, "holds": holds, "figures": figures})
        self.lines.append(f"  {'proved' if holds else 'FAILED'}  {claim}: {figures}")


def check_delivery(demo: Demo, traffic: Traffic, claims: Claims) -> None:
    """Every completed response has exactly one record, and it says the right thing."""
    requests = [line for line in ledger_lines(demo.data) if line["type"] == "request"]
    named = [line["rec"]["trace"] for line in requests if "client_request_id" in line["rec"]["trace"]]
    by_client = Counter(trace["client_request_id"] for trace in named)
    completed = traffic.completed
    once = [done for done in completed if by_client[done.client_id] == 1]
    twice = sum(1 for count in by_client.values() if count > 1)
    claims.check(
        "every completed response has exactly one record",
        len(once) == len(completed) and len(completed) > 0,
        f"{len(once):,} of {len(completed):,} found once, {twice} twice, {traffic.broken} broken connections",
    )
    by_id = {line["rec"]["trace"].get("client_request_id"): line["rec"] for line in requests}
    wrong = [done for done in once if not _is_as_expected(done, by_id[done.client_id])]
    kinds = Counter(done.expected.outcome for done in completed)
    claims.check(
        "each says who did what with which outcome, and the status that its client got",
        not wrong,
        ", ".join(f"{number:,} {kind}" for kind, number in kinds.items())
        + (f"; {len(wrong)} wrong, the first: {wrong[0]} {by_id[wrong[0].client_id]}" if wrong else ""),
    )
    joined = sum(1 for done in once if by_id[done.client_id]["trace"].get("trace_id") == done.trace_id)
    claims.check(
        "each carries the trace id its client sent (OpenTelemetry)",
        joined == len(once),
        f"{joined:,} of {len(once):,} joined",
    )


def check_verification(demo: Demo, claims: Claims) -> None:
    """The collector verifies over HTTP, as an auditor reads it: every seal, chain and tile, and no gap."""
    outcome = demo.run("verify", demo.collector_url, "--json")
    report = msgspec.json.decode(outcome.stdout) if outcome.stdout else {}
    found = report.get("findings", [])
    serious = [finding for finding in found if finding["severity"] != "note"]
    figures = ", ".join(f"{number:,} {what}" for what, number in report.get("counts", {}).items())
    claims.check(
        "verify passes and no stream has a gap",
        outcome.returncode == 0 and not serious,
        figures or outcome.stderr.decode()[-300:],
    )
    unclosed = [finding["message"] for finding in found if finding["rule"] == "unclosed"]
    claims.check(
        "the killed collector shows as unclosed, which is no tampering",
        any("audit-collector" in message for message in unclosed),
        f"{len(unclosed)} streams without close",
    )


def check_tampering(demo: Demo, claims: Claims) -> None:
    """One byte changed in a copy of the ledger, and one in a copy of the journal, and each is named."""
    copy = demo.folder / "ledger-copy"
    shutil.copytree(demo.data, copy, ignore=shutil.ignore_patterns("index.sqlite*", "*.lock", "log.key"))
    bundle = max(copy.glob("log/*/*/tile/entries/**/*"), key=lambda file: file.stat().st_size * file.is_file())
    _change_a_letter(bundle)
    _claim_found(demo, claims, "one byte changed in a copy of the ledger is found and named", copy, "entry")
    segment = max(demo.spool_copy.glob("streams/*/seg-*.ndjson"), key=lambda file: file.stat().st_size)
    _change_a_letter(segment)
    _claim_found(demo, claims, "one byte changed in a copy of a journal is found and named", demo.spool_copy, "line")


def _claim_found(demo: Demo, claims: Claims, claim: str, path: Path, place: str) -> None:
    outcome = demo.run("verify", str(path), "--json")
    report = msgspec.json.decode(outcome.stdout) if outcome.stdout else {}
    seals = [finding for finding in report.get("findings", []) if finding["rule"] == "seal"]
    named = f"{seals[0]['where']}: {seals[0]['meaning']}" if seals else outcome.stderr.decode()[-300:]
    claims.check(claim, outcome.returncode == 1 and len(seals) == 1 and place in seals[0]["where"], named)


def ledger_lines(data: Path) -> Iterator[dict[str, Any]]:
    """Yield every entry of a data folder's logs, parsed."""
    for _, reader in _readers(data):
        for _, line in reader.entries():
            yield msgspec.json.decode(line)


def _readers(data: Path) -> list[tuple[str, LogReader]]:
    verifiers = [Verifier.parse(vkey) for vkey in (data / "log.vkey").read_text(encoding="ascii").split()]
    by_period = {"/".join(verifier.name.split("/")[-2:]): verifier for verifier in verifiers}
    return [(name, LogReader(folder_reader(folder), by_period[name])) for name, folder in log_folders(data)]


def _is_as_expected(done: Completed, rec: dict[str, Any]) -> bool:
    said = (rec["principal"]["id"], rec["action"], rec["outcome"])
    is_same_request = done.request_id in {None, rec["trace"]["request_id"]}
    return (
        is_same_request
        and done.status == rec["http"]["status"]
        and said == (done.expected.principal, done.expected.action, done.expected.outcome)
    )


def _change_a_letter(file: Path) -> None:
    """Turn one principal into another of the same length, in the middle of the file: no format breaks."""
    file.chmod(0o600)
    content = bytearray(file.read_bytes())
    at = content.index(b'"id":"alice"', len(content) // 2) + len(b'"id":"')
    content[at : at + 1] = b"b"
    file.write_bytes(content)
