"""Lines that are in the ledgers of two collectors, which share an index and do not see each other's ledgers.

A collector that dies between its ledger and the index has lines that nobody else knows; they are delivered again, to
another one. Equal lines are copies; other bytes in one place of a stream are a conflict.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from audit_middleware.errors import BadLedger, MalformedLine
from audit_middleware.sealing.seal import Frame, leaf_hash, parse_frame
from audit_middleware.tlog.reader import LogReader
from audit_middleware.verify.lines import MAX_ACCOUNTED, LineVerifier
from audit_middleware.verify.report import Finding, Severity


class _Met(NamedTuple):
    collector: str
    where: str
    leaf: bytes


class Copies:
    """Remembers places of streams that were met twice, at most `MAX_ACCOUNTED`; reads all that is there of them."""

    def __init__(self, lines: LineVerifier) -> None:
        self._lines = lines
        self._met: dict[tuple[str, int], list[_Met]] = {}
        self._is_full = False

    def take(self, frame: Frame) -> None:
        """Remember a place that was taken already."""
        if len(self._met) < MAX_ACCOUNTED:
            self._met.setdefault((frame.stream, frame.seq), [])
        else:
            self._is_full = True

    def finish(self, logs: Iterable[tuple[str, str, LogReader]]) -> None:
        """Read the logs, given as (collector, name, reader), once more, and say what lies in these places."""
        if not self._met:
            return
        for collector, name, reader in logs:
            self._read(collector, name, reader)
        for (stream, seq), met in self._met.items():
            self._judge(stream, seq, met)
        if self._is_full:
            message = f"more than {MAX_ACCOUNTED} places are there twice; the others were not compared"
            self._lines.note(Severity.UNCHECKED, "copy", "ledgers", message)

    def _read(self, collector: str, name: str, reader: LogReader) -> None:
        try:
            for index, line in reader.entries():
                try:
                    frame = parse_frame(line)
                except MalformedLine:
                    continue
                met = self._met.get((frame.stream, frame.seq))
                if met is not None:
                    met.append(_Met(collector, f"{name} entry {index}", leaf_hash(line)))
        except BadLedger:
            return  # was noted when this log was verified

    def _judge(self, stream: str, seq: int, met: list[_Met]) -> None:
        first, *others = met
        where = others[-1].where if others else first.where
        place = f"{seq} of {stream}"
        if len({each.leaf for each in met}) > 1:
            rule, severity, message = "conflict", Severity.TAMPERING, f"{place} has other bytes in {first.where}"
        elif len({each.collector for each in met}) < len(met):
            rule, severity, message = "replay", Severity.TAMPERING, f"{place} came before in the same ledger"
        elif others:
            rule, severity, message = "copy", Severity.NOTE, f"{place} is the same in {first.where}"
        else:
            rule, severity, message = "copy", Severity.UNCHECKED, f"{place} was in a log that has expired too"
        self._lines.report.add(Finding(severity, rule, where, message, stream, seq))
