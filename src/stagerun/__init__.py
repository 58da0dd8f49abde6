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

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Whoever imports a program that only may run a pipeline does not pay for the engine: a name is
# loaded when it is first asked for.
_ROOMS = {
    "engine.context": "Context heartbeat report",
    "engine.foreign": "aio",
    "engine.handle": "Run",
    "engine.opening": "open_runtime",
    "engine.runtime": "Runtime",
    "engine.token": "CancellationToken",
    "errors": (
        "CancelRequested InputError PolicyError RemoteError RetryLater RunCancelled "
        "RunError RunFailed RunInterrupted RuntimeClosedError RunTimedOut SettingError "
        "StagerunError StoreError TargetError UsageError WorkerDied"
    ),
    "model.outcome": "DROP Drop Failure ItemCause Outcome StageOutcome",
    "model.pipeline": "Pipeline batch collect stage",
    "model.policy": "Batch Collect Restart Retry",
    "model.schedule": "Schedule",
    "model.stage": "Kind Stage",
    "model.status": "Cause Counts Ending Result Status",
}
_HOMES = {name: module for module, names in _ROOMS.items() for name in names.split()}


if not TYPE_CHECKING:  # a type checker shall see that a name is none

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        thing = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return thing


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
