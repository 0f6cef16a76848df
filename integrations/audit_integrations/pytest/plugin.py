"""The pytest plugin: nothing of the audit trail is imported before a test asks for it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from audit_integrations.pytest.gate import Gate
    from audit_integrations.pytest.log import AuditLog

_GATE: Final[pytest.StashKey[Gate]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the coverage gate."""
    group = parser.getgroup("audit", "audit coverage")
    group.addoption(
        "--audit-coverage",
        action="append",
        metavar="MODULE:APP",
        help="List which entry points of this application the tests saw on record; may be given several times.",
    )
    group.addoption(
        "--audit-fail-under",
        type=_percent,
        metavar="PERCENT",
        help="Fail if fewer entry points are audited or exempt.",
    )
    group.addoption(
        "--audit-coverage-json",
        default="audit-coverage.json",
        metavar="FILE",
        help="Where the coverage is written, for evidence (default: %(default)s).",
    )
    group.addoption(
        "--audit-rules",
        metavar="FILE",
        help="Hold every record of a test to the organisation's own rules; the same as AUDIT_RULES_FILE.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Take the rules, and make the gate if it was asked for."""
    rules = config.getoption("--audit-rules")
    if rules is not None:
        _take_rules(rules)
    targets = config.getoption("--audit-coverage")
    if not targets:
        if config.getoption("--audit-fail-under") is not None:
            raise pytest.UsageError("--audit-fail-under needs --audit-coverage=MODULE:APP")
        return
    if config.option.collectonly:  # nothing runs, so nothing can be judged
        return
    from audit_integrations.pytest.gate import Gate

    config.stash[_GATE] = Gate(targets, config)
    config.pluginmanager.register(config.stash[_GATE], "audit-gate")


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:  # noqa: PLR2004 - percent; what is no number, such as nan, passed whatever came out
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage from 0 to 100")
    return value


def _take_rules(file: str) -> None:
    from audit_middleware.errors import ConfigurationError
    from audit_middleware.record_rules import read_record_rules

    path = Path(file).absolute()
    try:
        read_record_rules(path)
    except ConfigurationError as error:
        raise pytest.UsageError(f"--audit-rules: {error}") from error
    os.environ["AUDIT_RULES_FILE"] = str(path)


@pytest.fixture
def audit_log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditLog]:
    """The records that this test makes the application write, sealed and verified for real in a temporary spool."""
    from audit_integrations.pytest.log import AuditLog
    from audit_middleware.testing.recording import recording

    with recording(tmp_path_factory.mktemp("audit")) as taken:
        log = AuditLog(taken)
        yield log
        gate = request.config.stash.get(_GATE, None)
        if gate is not None:
            gate.note(taken.records)
        log.assert_rules_kept()
