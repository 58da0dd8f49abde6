"""Several schedules side by side, a site that hangs, a network that goes away, a computer asleep."""

import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import frozen

from examples.integrity.network import Network, running_network
from examples.integrity.service import running_service
from stagerun.http import Client, open_client
from tests.real.integrity_before import ROOT, before, until
from tests.real.serving import COMMAND, environment

pytestmark = pytest.mark.real

EVERY = 3
TARGET = ROOT / "examples" / "integrity" / "schedules.py:schedules"
SITE = {"entities": 4, "records": 500, "hang": 1, "seed": 4}
"""Eight pages. One of the first entity, which is in the first half, is never answered."""
TERMINAL = {"succeeded", "failed", "cancelled", "timed_out", "interrupted"}
MOST = 90
"""Seconds for each of the things that are waited for."""


def settings(address: str) -> dict[str, str]:
    short = {
        "DEADLINE": 20,
        "SOURCE_DEADLINE": 2,
        "PAGES_RETRY_ATTEMPT_DEADLINE": 1,
        "PAGES_RETRY_ATTEMPTS": 2,
        "PAGES_WORKERS": 2,
    }
    of = {"INTEGRITY": 0.85, "SYNC_THREAD": 0.5, "SYNC_PROCESS": 0.5}  # of the one entity: half
    return environment(
        INTEGRITY_ADDRESS=address,
        INTEGRITY_EVERY=str(EVERY),
        **{f"STAGERUN_{p}_{option}": str(short[option]) for p in of for option in short},
        **{f"STAGERUN_{p}_PAGES_LEAST_OK": str(share) for p, share in of.items()},
    )


@frozen
class Served:
    process: trio.Process
    client: Client
    token: str

    async def schedules(self) -> dict[str, Any]:
        """All but the nightly one."""
        each = (await self.client.get("/schedules")).json()["schedules"]
        return {one["name"]: one for one in each if one["every"]}

    async def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.client.get("/runs?limit=1000")).json()["runs"]
        return found
