"""A test kit: pipelines in virtual time, crashes at every commit, and computers that misbehave.

Everything here runs the real engine with its real SQL; what is simulated is the world around it.
"""

from stagerun.testing.crashes import CrashReport, crash_at_every_commit
from stagerun.testing.faults import (
    CALM,
    ClockJump,
    Crash,
    DiskError,
    Fault,
    FaultPlan,
    Freeze,
    Lock,
    LostFile,
    Shutdown,
    Sleep,
    SlowDisk,
)
from stagerun.testing.reading import SimulatedRun
from stagerun.testing.simulation import BrokenPromiseError, Simulation, simulate

__all__ = [
    "CALM",
    "BrokenPromiseError",
    "ClockJump",
    "Crash",
    "CrashReport",
    "DiskError",
    "Fault",
    "FaultPlan",
    "Freeze",
    "Lock",
    "LostFile",
    "Shutdown",
    "SimulatedRun",
    "Simulation",
    "Sleep",
    "SlowDisk",
    "crash_at_every_commit",
    "simulate",
]
