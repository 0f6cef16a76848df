"""Simulators of what fails between an application and its evidence: a collector, a disk. For tests, ours and yours.

They implement the real protocols and fail the way networks and disks do, both ways: "it never arrived" and "it
arrived, and the answer was lost". Nothing here is imported by the rest of the package.
"""

from __future__ import annotations

from audit_middleware.testing.collector import SimulatedCollector
from audit_middleware.testing.faults import Behaviour
from audit_middleware.testing.files import FaultyFiles, FileCall
from audit_middleware.testing.power import PowerLossFiles
from audit_middleware.testing.recording import Recording, recording

__all__ = ["Behaviour", "FaultyFiles", "FileCall", "PowerLossFiles", "Recording", "SimulatedCollector", "recording"]
