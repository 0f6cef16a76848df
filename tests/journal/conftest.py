import os

import pytest

from tests.journal.kit import recorder_for


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def open_recorder(spool):
    """Makes recorders on the test's spool; their descriptors are closed afterwards."""
    opened = []

    def make(**changes):
        opened.append(recorder_for(changes.pop("spool", spool), **changes))
        return opened[-1]

    yield make
    for recorder in opened:
        recorder._writer.abandon()


@pytest.fixture
def fd_count():
    """How many descriptors this process has open."""
    return lambda: len(os.listdir("/proc/self/fd"))
