"""Says, from the ledger's files alone, what became of every record that was promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from audit_middleware.cli.ledgers import folder_reader, log_folders
from audit_middleware.sealing.keys import Keyring
from audit_middleware.sealing.seal import parse_frame
from audit_middleware.tlog.note import Verifier
from audit_middleware.tlog.reader import LogReader
from audit_middleware.verify import verify_logs
from audit_middleware.verify.ledger import Log
from audit_middleware.verify.report import Severity
from tests.faults.acks import MAC, Ack

GIVEN_UP = ("drop", "gap", "conflict", "quarantine")
"""Record types by which an application or a collector would say that something did not go as it should."""


@dataclass(slots=True)
class Verdict:
    """What a ledger holds, compared with what was promised."""

    compared: int = 0
    entries: int = 0
    lost: list[Ack] = field(default_factory=list)
    stored_twice: list[tuple[str, int]] = field(default_factory=list)
    conflicts: list[Ack] = field(default_factory=list)
    types: Counter[str] = field(default_factory=Counter)
    torn_tails_adopted: int = 0
    closed_pids: set[int] = field(default_factory=set)
    """Processes whose stream ends with a ``close`` record."""
    exit_code: int | None = None
    """Of `verify_logs`; None when it was not asked."""
    findings: list[str] = field(default_factory=list)
    """Everything `verify_logs` says that is not merely a note."""

    @property
    def excuses(self) -> dict[str, int]:
        """Records that say that something was given up, is missing or was set aside."""
        return {type_: self.types[type_] for type_ in GIVEN_UP if self.types[type_]}

    def require_clean(self) -> None:
        """Fail with the evidence unless every promise was kept and nothing had to be excused."""
        assert not self.lost, f"{len(self.lost)} acknowledged records are missing, the first: {self.lost[:5]}"
        assert not self.stored_twice, f"{len(self.stored_twice)} places twice, the first: {self.stored_twice[:5]}"
        assert not self.conflicts, f"{len(self.conflicts)} places with another seal: {self.conflicts[:5]}"
        assert self.exit_code == 0, f"verify says {self.exit_code}: {self.findings[:5]}"
        assert not self.findings, self.findings[:5]
        assert not self.excuses, f"records given up, missing or set aside: {self.excuses}"

    def __str__(self) -> str:
        verified = "not verified" if self.exit_code is None else f"verify exit {self.exit_code}"
        return (
            f"{self.compared:,} acknowledgements compared with {self.entries:,} entries: {len(self.lost)} lost, "
            f"{len(self.stored_twice)} stored twice, {len(self.conflicts)} conflicts; "
            f"{verified}, {len(self.findings)} findings"
        )


def judge(data: Path, acks: Iterable[Ack], keyring: Keyring, *, verify: bool = True) -> Verdict:
    """Read the ledger of a data folder and compare it with ``acks``; ``verify`` it as an auditor would."""
    verdict = Verdict()
    logs = _logs(data)
    stored = _read(logs, verdict)
    for ack in acks:
        verdict.compared += 1
        mac = stored.get(ack[:2])
        if mac is None:
            verdict.lost.append(ack)
        elif mac != ack.mac:
            verdict.conflicts.append(ack)
    if verify:
        report = verify_logs(logs, keyring)
        verdict.exit_code = report.exit_code
        serious = [finding for finding in report.findings if finding.severity is not Severity.NOTE]
        verdict.findings = [f"{each.rule} at {each.where}: {each.message}" for each in serious]
    return verdict


def _read(logs: list[Log], verdict: Verdict) -> dict[tuple[str, int], str]:
    """One pass over all entries: which seal each place has."""
    stored: dict[tuple[str, int], str] = {}
    pids: dict[str, int] = {}
    for line in _lines(logs):
        frame = parse_frame(line)
        place, mac = (frame.stream, frame.seq), line[MAC].decode()
        verdict.entries += 1
        verdict.types[frame.type] += 1
        if place in stored:
            verdict.stored_twice.append(place)
            if stored[place] != mac:
                verdict.conflicts.append(Ack(*place, mac))
        stored[place] = mac
        _note_life(verdict, pids, frame.stream, frame.type, frame.rec)
    return stored


def _note_life(verdict: Verdict, pids: dict[str, int], stream: str, type_: str, rec: bytes) -> None:
    if type_ == "open":
        pids[stream] = msgspec.json.decode(rec)["pid"]
    elif type_ == "close":
        verdict.closed_pids.add(pids[stream])
    elif type_ == "event" and b'"audit.spool.adopted"' in rec:
        verdict.torn_tails_adopted += msgspec.json.decode(rec)["details"]["torn_bytes"] > 0


def _lines(logs: list[Log]) -> Iterator[bytes]:
    for log in logs:
        for _, line in log.reader.entries():
            yield line


def _logs(data: Path) -> list[Log]:
    verifiers = [Verifier.parse(vkey) for vkey in (data / "log.vkey").read_text(encoding="ascii").split()]
    by_period = {"/".join(verifier.name.split("/")[-2:]): verifier for verifier in verifiers}
    return [Log(name, LogReader(folder_reader(folder), by_period[name])) for name, folder in log_folders(data)]
