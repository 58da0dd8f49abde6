"""Pipelines of several stages inside async services that always end, and always say why."""

# The floor plan. Left may import right; tests/test_architecture.py keeps it so.
#
#   cli  ->  web  ->  hosts  ->  engine  ->  store, rules, model
#            http    ->  engine.context          (the only home of httpx; imported by its users)
#            alerts  ->  http, model             (who is told; imported by its users)
#            offload ->  engine.context, model   (worker processes; asyncio for user code)
#            store   ->  model                   (the only home of sqlite3 and aiosqlite)
#            rules   ->  model                   (pure decisions)
#            model   ->  attrs                   (frozen values)
#   errors, logs, redaction, phase are leaves for all.

from stagerun.engine.context import Context, heartbeat, report
from stagerun.engine.foreign import aio
from stagerun.engine.handle import Run
from stagerun.engine.opening import open_runtime
from stagerun.engine.runtime import Runtime
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
