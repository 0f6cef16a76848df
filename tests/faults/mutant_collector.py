"""The collector without dedupe: a line it has already is stored once more. Run as ``audit-ready`` is."""

from __future__ import annotations

from audit_middleware.cli import main
from audit_middleware.collector.index_rows import Entry
from audit_middleware.collector.ingest import Judge
from audit_middleware.sealing.parse import parse_rec


def forget_what_was_seen() -> None:
    judge_frame = Judge._judge_frame

    def judged(self, line, name, frame, caller, log_of):
        entry, log = judge_frame(self, line, name, frame, caller, log_of)
        return entry or Entry(self._streams.find(frame.stream).number, frame, parse_rec(line, frame)), log

    Judge._judge_frame = judged


if __name__ == "__main__":
    forget_what_was_seen()
    main()
