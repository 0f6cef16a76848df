"""What the monitor remembers comes back as it was, or not at all."""

import pytest

from audit_middleware.collector.monitor.memory import MonitorFile, Patrolled, Remembered
from audit_middleware.collector.monitor.watch import Watch
from tests.collector.kit import OTHER_KEYRING

SEED = bytes(32)


@pytest.fixture
def remembered(stand_of):
    """A watch that has something of everything to remember."""
    stand = stand_of(expected_services=["orders", "billing"], spool_bytes=1)
    app = stand.app()
    app.work(5)
    app.beat(spool_bytes=7)
    stand.app(keyring=OTHER_KEYRING)
    stand.app(service="down", previous=stand.app(deliver=False).head())
    stand.pass_seconds(100, beating=[app])
    state = stand.watch.remember()
    assert all(
        (state.book.findings, state.book.unsaid, state.memory.streams, state.memory.promises, state.memory.hours)
    )
    return Remembered(sizes={"a/b": 7}, state=state, patrolled=Patrolled("a/b", 0, 3, 1.5, 1.0, 1.25))


def test_everything_comes_back_as_it_was(remembered, tmp_path, stand):
    file = MonitorFile(tmp_path / "monitor.json", SEED)
    file.save(remembered)
    assert file.load() == remembered
    assert file.path.stat().st_mode & 0o777 == 0o600
    again = Watch(stand.settings, stand.finder, stand.now, file.load().state)
    assert list(again.book) == remembered.state.book.findings


@pytest.mark.parametrize("damage", ["another seed", "a byte", "cut", "empty", "folder"])
def test_what_is_not_whole_and_ours_is_not_believed(remembered, tmp_path, damage, caplog):
    path = tmp_path / "monitor.json"
    MonitorFile(path, b"x" * 32 if damage == "another seed" else SEED).save(remembered)
    data = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage != "another seed":
        path.write_bytes({"a byte": data.replace(b"orders", b"orderz"), "cut": data[:-1], "empty": b""}[damage])
    assert MonitorFile(path, SEED).load() is None
    assert str(path) in caplog.text


def test_nothing_there_is_nothing_remembered_and_no_warning(tmp_path, caplog):
    assert MonitorFile(tmp_path / "monitor.json", SEED).load() is None
    assert caplog.text == ""


def test_a_folder_that_cannot_be_written_costs_the_memory_only(remembered, tmp_path, caplog):
    MonitorFile(tmp_path / "gone" / "monitor.json", SEED).save(remembered)
    assert "cannot be written" in caplog.text
