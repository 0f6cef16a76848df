"""The coverage gate: each entry point of an application is on record, exempt with a reason, or named."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from audit_integrations.entry_points import entry_points, load
from audit_middleware import AuditRecord, ConfigurationError, __version__
from audit_middleware.capture.coverage import Covered, EntryPoint, Tally, percentage
from audit_middleware.capture.exemption import today
from audit_middleware.testing.recording import Recording, recording

_OUTPUT: Final = "audit_coverage"
_WORDS: Final = {
    "audited": "audited",
    "defects": "audited with defects",
    "exempt": "exempt",
    "expired": "exemption expired",
    "unseen": "never seen",
}


class Gate:
    """One test run's coverage; with xdist every worker counts, and the controller adds up."""

    def __init__(self, targets: list[str], config: pytest.Config) -> None:
        self._targets = targets
        self._config = config
        self._applications: dict[str, Any] = {}
        self._tally = Tally()
        self._covered: list[Covered] = []
        self._problem = ""
        self._taken: Recording | None = None
        self._open = ExitStack()

    def note(self, records: Iterable[AuditRecord]) -> None:
        """Count records."""
        for record in records:
            self._tally.note(record)

    def pytest_sessionstart(self) -> None:
        """Take every record of the run, except in the controller of xdist, which runs no test."""
        if self._config.getoption("dist", "no") != "no" and not hasattr(self._config, "workerinput"):
            self._announce()
            return
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="audit-coverage-")))
        self._taken = self._open.enter_context(recording(folder))

    def pytest_collection_finish(self) -> None:
        """Say of a wrong application that it is, when the test modules are imported and before a test runs."""
        if not hasattr(self._config, "workerinput"):
            self._announce()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Count what was taken; hand it to the controller, or judge it."""
        if self._taken is not None:
            self.note(self._taken.records)
        self._open.close()
        if hasattr(self._config, "workerinput"):
            self._config.workeroutput[_OUTPUT] = self._tally.rows()  # type: ignore[attr-defined] # xdist puts it there
            return
        self._judge()
        if self._fails() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:  # noqa: ANN401 - a worker of xdist, which may not be installed
        """Add what a worker counted."""
        for row in getattr(node, "workeroutput", {}).get(_OUTPUT, []):
            self._tally.add(*row)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        if hasattr(self._config, "workerinput"):
            return
        terminalreporter.section("audit coverage")
        for line in self._lines():
            terminalreporter.write_line(line)

    def _announce(self) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        for problem in self._load():
            if reporter is not None:
                reporter.write_line(f"audit coverage: {problem} (tried again after the run)", red=True)

    def _load(self) -> list[str]:
        """Load the applications that are not loaded yet; return why one of them cannot be."""
        problems = []
        for target in self._targets:
            if target not in self._applications:
                try:
                    self._applications[target] = load(target)
                except ConfigurationError as error:
                    problems.append(str(error))
        return problems

    def _judge(self) -> None:
        points: list[EntryPoint] = []
        problems = self._load()
        for application in self._applications.values():
            try:
                points += entry_points(application)
            except ConfigurationError as error:
                problems.append(str(error))
        self._problem = "; ".join(problems)
        self._covered = self._tally.cover(points, today())
        self._write()

    def _fails(self) -> bool:
        wanted = self._config.getoption("--audit-fail-under")
        is_expired = any(each.state == "expired" for each in self._covered)
        return bool(self._problem) or is_expired or (wanted is not None and percentage(self._covered) < wanted)

    def _write(self) -> None:
        report = {
            "version": __version__,
            "applications": self._targets,
            "percent": round(percentage(self._covered), 2),
            "fail_under": self._config.getoption("--audit-fail-under"),
            "passed": not self._fails(),
            "problem": self._problem or None,
            "entry_points": [each.as_dict() for each in self._covered],
        }
        file = self._config.rootpath / self._config.getoption("--audit-coverage-json")
        try:
            file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            self._problem = "; ".join(filter(None, [self._problem, f"{file} cannot be written: {error.strerror}"]))

    def _lines(self) -> Iterable[str]:
        width = max((len(_place(each.entry_point)) for each in self._covered), default=0)
        for each in self._covered:
            yield f"{_place(each.entry_point):<{width}}  {_WORDS[each.state]}{_why(each)}"
        if self._problem:
            yield f"audit coverage could not be found out: {self._problem}"
            return
        counts: Counter[str] = Counter(each.state for each in self._covered)
        total = ", ".join(f"{counts[state]} {words}" for state, words in _WORDS.items() if counts[state])
        wanted = self._config.getoption("--audit-fail-under")
        needed = [f"needed {wanted:g} %"] if wanted is not None else []
        needed += ["needed no exemption that has expired"] if counts["expired"] else []
        verdict = f", {' and '.join(needed)}: {'FAILED' if self._fails() else 'passed'}" if needed else ""
        yield f"{len(self._covered)} entry points: {total or 'none'}: {percentage(self._covered):.1f} %{verdict}"


def _place(point: EntryPoint) -> str:
    return f"{point.method if point.kind == 'http' else point.kind.upper()} {point.route}"


def _why(each: Covered) -> str:
    exemption = each.entry_point.exemption
    if exemption is not None:
        return f": {exemption.reason}" + (f" (until {exemption.until})" if exemption.until else "")
    if each.defects:
        return f": {', '.join(each.defects)}"
    return f" ({each.records})" if each.records else ""
