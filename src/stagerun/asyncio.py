"""stagerun for asyncio programs: the same names, async in asyncio's way.

The engine runs on trio in a thread of its own, so a stage that blocks never freezes this program's
event loop. Stages are written for trio, as everywhere; ``aio()`` brings them what belongs to this
program's loop.
"""

from stagerun.engine.context import Context, heartbeat, report
from stagerun.engine.foreign import aio
from stagerun.engine.token import CancellationToken
from stagerun.errors import (
    CancelRequested,
    InputError,
    PolicyError,
    RemoteError,
    RetryLater,
    RunCancelled,
    RunError,
    RunFailed,
    RunInterrupted,
    RuntimeClosedError,
    RunTimedOut,
    SettingError,
    StagerunError,
    StoreError,
    TargetError,
    UsageError,
    WorkerDied,
)
from stagerun.hosts.facade import Run, Runtime
from stagerun.hosts.opening import open_runtime
from stagerun.model.outcome import DROP, Drop, Failure, ItemCause, Outcome, StageOutcome
from stagerun.model.pipeline import Pipeline, batch, collect, stage
from stagerun.model.policy import Batch, Collect, Restart, Retry
from stagerun.model.schedule import Schedule
from stagerun.model.stage import Kind, Stage
from stagerun.model.status import Cause, Counts, Ending, Result, Status

__all__ = [
    "DROP",
    "Batch",
    "CancelRequested",
    "CancellationToken",
    "Cause",
    "Collect",
    "Context",
    "Counts",
    "Drop",
    "Ending",
    "Failure",
    "InputError",
    "ItemCause",
    "Kind",
    "Outcome",
    "Pipeline",
    "PolicyError",
    "RemoteError",
    "Restart",
    "Result",
    "Retry",
    "RetryLater",
    "Run",
    "RunCancelled",
    "RunError",
    "RunFailed",
    "RunInterrupted",
    "RunTimedOut",
    "Runtime",
    "RuntimeClosedError",
    "Schedule",
    "SettingError",
    "Stage",
    "StageOutcome",
    "StagerunError",
    "Status",
    "StoreError",
    "TargetError",
    "UsageError",
    "WorkerDied",
    "aio",
    "batch",
    "collect",
    "heartbeat",
    "open_runtime",
    "report",
    "stage",
]
