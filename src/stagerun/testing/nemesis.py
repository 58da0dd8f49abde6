"""Has a plan of faults befall a machine."""

from collections.abc import Sequence

import trio

from stagerun.testing.faults import (
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
from stagerun.testing.machine import Machine, Process

__all__ = ["befall"]


async def befall(machine: Machine, processes: Sequence[Process], plan: FaultPlan) -> None:
    """Let happen what is planned, each thing at its time; return when all of it is over."""
    async with trio.open_nursery() as nursery:
        for fault in plan.faults:
            await trio.sleep_until(fault.at)
            nursery.start_soon(_happen, machine, processes, fault)


async def _happen(machine: Machine, processes: Sequence[Process], fault: Fault) -> None:
    process = processes[getattr(fault, "process", 0)]
    match fault:
        case Crash(downtime=downtime):
            process.kill(downtime)
        case Shutdown(downtime=downtime):
            process.shut_down(downtime)
        case Freeze(seconds=seconds):
            process.freeze(seconds)
        case LostFile():
            process.lose_file()
        case Sleep(seconds=seconds):
            machine.note(f"the computer sleeps for {seconds:.0f} s", harm=True)
            machine.set_clock(seconds)
        case ClockJump(seconds=seconds):
            machine.note(f"the clock is set by {seconds:.0f} s", harm=True)
            machine.set_clock(seconds)
        case Lock(seconds=seconds):
            await _refuse(machine, "SQLITE_BUSY", seconds)
        case DiskError(seconds=seconds, error=error):
            await _refuse(machine, error, seconds)
        case SlowDisk(seconds=seconds, each=each):
            machine.note(f"for {seconds:.3f} s each commit takes {each:.3f} s", harm=True)
            machine.slowness += each
            try:
                await trio.sleep(seconds)
            finally:
                machine.slowness -= each


async def _refuse(machine: Machine, error: str, seconds: float) -> None:
    machine.note(f"for {seconds:.3f} s the disk says {error}", harm=True)
    machine.refusals.append(error)
    try:
        await trio.sleep(seconds)
    finally:
        machine.refusals.remove(error)
    machine.note(f"the disk says {error} no more", harm=True)
