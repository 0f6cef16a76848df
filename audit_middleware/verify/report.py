"""What a verification found: findings with their evidence, and what was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

MAX_FINDINGS: Final = 1_000
Progress = Callable[[int, int], None]
"""Called now and then with (done, total): entries of a ledger, bytes of a spool."""


class Severity(Enum):
    """What a finding is evidence of."""

    TAMPERING = "tampering"
    """Bytes were altered, removed, added or reordered after they were sealed."""
    UNCHECKED = "unchecked"
    """Could not be checked: a key is missing, or a file cannot be read."""
    NOTE = "note"
    """Known and explained: a crash, a torn tail, records given up by policy."""


MEANINGS: Final = {
    "seal": "the line was altered after it was sealed, or sealed with another key",
    "line": "these bytes are not a sealed line",
    "gap": "lines are missing: late, lost or removed",
    "broken": "the line does not link to the line before it: inserted, or the chain was forked",
    "conflict": "two different lines carry one number: a forgery, or a cloned process",
    "replay": "a line is there twice",
    "copy": "a line is in the ledgers of two collectors: the first one died before the others could know of it",
    "order": "lines of a journal stand in another order than they were written",
    "truncated": "the beginning or end of a stream is missing: something that was known to exist is not there",
    "stream": "the line belongs to another stream than the folder it lies in",
    "json": "the record is not strict JSON, which no producer of ours writes",
    "schema": "the record has not the members its type requires",
    "ledger": "a file of the ledger contradicts its signed checkpoint",
    "signature": "the checkpoint is not signed by the pinned key",
    "unknown_key": "sealed with a key that is not in the keyring: unverifiable, which is not tampered",
    "unreadable": "a file could not be read",
    "unclosed": "the stream has no close record: its process was killed, or still runs",
    "torn": "a half-written line at the end of a file: the process died while writing it",
    "drop": "records were given up by the stated policy, and the source says so",
    "given_up": "numbers were given up at the source; the lines around them link",
    "missing_stream": "a stream that a later one names as its predecessor is not here",
    "missing_log": "a log that was signed for is not here",
    "rollback": "the log is older than what was signed before, or another one: history was taken back",
    "ahead": "entries lie beyond the newest signed checkpoint that is here, and were not verified",
    "overlaid": "somebody deleted or overwrote a file of the ledger; the version that was put first is verified",
    "lock": "a file of the ledger is not locked for as long as the settings say",
    "expired": "the entries of this log were deleted by its retention policy, and the collector's own record says so",
    "deleted": "the entries of this log are gone, and nothing on record says that they may be",
    "quarantine": "the collector set this line aside, and says why",
    "quarantine_lost": "a line that the collector set aside is not kept any more as it came",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: the rule (a key of `MEANINGS`), where, and what exactly."""

    severity: Severity
    rule: str
    where: str
    message: str
    stream: str | None = None
    seq: int | None = None

    @property
    def meaning(self) -> str:
        """The rule in plain words."""
        return MEANINGS[self.rule]

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        return {
            "severity": self.severity.value,
            "rule": self.rule,
            "where": self.where,
            "message": self.message,
            "meaning": self.meaning,
            "stream": self.stream,
            "seq": self.seq,
        }


@dataclass(slots=True)
class Report:
    """Findings, at most `MAX_FINDINGS` of each severity in full, and the counts of everything."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    by_severity: dict[Severity, int] = field(default_factory=lambda: dict.fromkeys(Severity, 0))
    by_rule: dict[tuple[Severity, str], int] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Note a finding; those of a severity beyond `MAX_FINDINGS` are only counted."""
        kind = (finding.severity, finding.rule)
        self.by_severity[finding.severity] += 1
        self.by_rule[kind] = self.by_rule.get(kind, 0) + 1
        if self.by_severity[finding.severity] <= MAX_FINDINGS:
            self.findings.append(finding)

    def count(self, what: str, number: int = 1) -> None:
        """Count something that was looked at."""
        self.counts[what] = self.counts.get(what, 0) + number

    @property
    def exit_code(self) -> int:
        """0 good, 1 evidence of tampering, 2 something could not be checked."""
        if self.by_severity[Severity.TAMPERING]:
            return 1
        return 2 if self.by_severity[Severity.UNCHECKED] else 0
