"""The pytest plugin: nothing of the audit trail is imported before a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
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
        "--audit-fail-under", type=float, metavar="PERCENT", help="Fail if fewer entry points are audited or exempt."
    )
    group.addoption(
        "--audit-coverage-json",
        default="audit-coverage.json",
        metavar="FILE",
        help="Where the coverage is written, for evidence (default: %(default)s).",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the gate if it was asked for."""
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


@pytest.fixture
def audit_log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditLog]:
    """The records that this test makes the application write, sealed and verified for real in a temporary spool."""
    from audit_integrations.pytest.log import AuditLog
    from audit_middleware.testing.recording import recording

    with recording(tmp_path_factory.mktemp("audit")) as taken:
        yield AuditLog(taken)
        gate = request.config.stash.get(_GATE, None)
        if gate is not None:
            gate.note(taken.records)
