"""What the spool remembers of the logs it delivers to."""

import pytest

from audit_middleware.journal.spool import Spool
from audit_middleware.shipping.dispatch import Dispatch, dispatch_for, load_pins, save_pins
from audit_middleware.shipping.receipt import LogPins
from audit_middleware.shipping.shipper import Shipper
from audit_middleware.testing import FaultyFiles, SimulatedCollector
from audit_middleware.tlog.note import Signer
from tests.journal.kit import Clock, append, recorder_for, settings_for


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def collector():
    return SimulatedCollector()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def living(spool):
    """Makes recorders that live until the test ends."""
    made = []

    def make(count=3, **changes):
        made.append(recorder_for(spool, **changes))
        append(made[-1], count)
        return made[-1]

    yield make
    for recorder in made:
        recorder._writer.abandon()


def turns(dispatch, clock, count=12):
    for _ in range(count):
        clock.sleep(7 + dispatch.shipper.backoff.wait_s)
        dispatch.turn()


def test_pins_and_sizes_are_remembered_across_a_restart(spool, collector):
    opened, pins = Spool(spool), LogPins()
    pins.pin([collector.vkey])
    pins.newest = {}
    save_pins(opened, pins)
    assert load_pins(opened, ()).verifiers == pins.verifiers
    configured = Signer.generate("a.example").verifier
    assert load_pins(opened, (configured.vkey,)).verifiers == [configured]


def test_a_collector_that_was_rolled_back_is_noticed_after_a_restart(spool, collector, living, clock):
    recorder = living(5)

    def deliver():
        opened = Spool(spool)
        shipper = Shipper(collector, load_pins(opened, ()), opened.keep_aside, monotonic=clock)
        shipper.on_receipt = lambda _items, pins: save_pins(opened, pins)
        dispatch = Dispatch(opened, shipper, takes_living=True, monotonic=clock)
        turns(dispatch, clock, 3)
        dispatch.release()
        opened.close()
        return shipper.shipped.last_error

    deliver()
    assert collector.key_requests == 1
    collector.roll_back(2)
    append(recorder, 1)
    assert "rolled back" in deliver()
    assert collector.key_requests == 1


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"keys":["x"],"newest":{}}', b'{"keys":[],"newest":{"o":{"size":1,"root":"zz"}}}', b"\xff"],
)
def test_damaged_memories_are_forgotten_and_delivery_goes_on(spool, damage):
    opened = Spool(spool)
    opened.write_state("logs.json", damage)
    assert load_pins(opened, ()).sizes() == {}
    configured = Signer.generate("a.example").verifier
    assert load_pins(opened, (configured.vkey,)).verifiers == [configured]


def test_a_full_disk_only_makes_the_spool_remember_less(spool, collector):
    files = FaultyFiles()
    opened, pins = Spool(spool, files), LogPins()
    pins.pin([collector.vkey])
    files.room = 0
    save_pins(opened, pins)
    files.heal()
    save_pins(opened, pins)
    assert load_pins(opened, ()).verifiers == pins.verifiers


def test_settings_make_a_dispatch(spool, collector):
    settings = settings_for(spool, collector_url=("http://127.0.0.1:9",), log_keys=(collector.vkey,))
    opened = Spool(spool)
    dispatch = dispatch_for(settings, opened)
    assert dispatch.turn() is False
    assert dispatch.waits() == 0
    dispatch.shipper.close()
    opened.close()
