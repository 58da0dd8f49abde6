"""What only a process itself sees, and may not be able to write down: that it is stuck."""

import os
import socket
from typing import Final

from attrs import evolve

from stagerun.engine.env import Env
from stagerun.engine.recorder import Recorder
from stagerun.engine.watch import Watch
from stagerun.model.sights import Blocked, Degraded, Sights

__all__ = ["with_own"]

_BLOCKED: Final = 1.0
"""Seconds from which on an event loop is called blocked."""


def with_own(sights: Sights, watch: Watch, recorder: Recorder, env: Env, owner: int) -> Sights:
    """Return *sights* with what is known of this process, from any thread of it."""
    own = _blocked(watch, env, owner)
    return evolve(
        sights,
        blocked=[*sights.blocked, *([] if own is None else [own])],
        degraded=_degraded(recorder, sights.now),
    )


def _blocked(watch: Watch, env: Env, owner: int) -> Blocked | None:
    block = watch.current
    if block is None:
        return None
    seconds = env.monotonic() - block.since
    if seconds < _BLOCKED:
        return None
    where = block.culprit
    return Blocked(
        owner=owner,
        who=f"process {os.getpid()} on {socket.gethostname()}",
        seconds=seconds,
        by=f"{where} at {where.place} in {where.function}",
    )


def _degraded(recorder: Recorder, now: int) -> Degraded | None:
    health = recorder.health()
    if health.status == "ok":
        return None
    since = now / 1e6 if health.since is None else health.since.timestamp()
    return Degraded(f"{health.status}: {health.why}", max(0.0, now / 1e6 - since))
