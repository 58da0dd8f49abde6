# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
"""Stages that a worker process imports: they have to stand in a module."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

from attrs import define

import stagerun
from stagerun import DROP, Context, Retry, batch, stage


class Moody(Exception):  # noqa: N818 - a class that only this module knows
    def __init__(self, first, second) -> None:
        super().__init__(f"{first} and {second}")
        self.retry_after = 0.01


@define
class Point:
    x: int
    y: int


@stage(mode="process")
def square(number: int) -> int:
    return number * number


@stage(mode="process")
def move(point: Point) -> Point:
    assert isinstance(point, Point)
    return Point(point.x + 1, point.y)


@stage(mode="process")
def where(_number):
    return os.getpid()


@stage(mode="process", deadline=0.3)
def hang(folder: str):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(folder, "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(60)


@stage(mode="process", deadline=10)
def hang_long(folder: str):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    part = Path(folder, "part")
    part.write_text(f"{os.getpid()} {child.pid}")
    part.rename(Path(folder, "pids"))
    time.sleep(60)


@stage(mode="process", deadline=0.3)
def hold_the_lock(_number):
    import re

    re.match(r"(a+)+$", "a" * 40 + "b")


@stage(mode="process")
def die(how: str):
    if how == "exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(4)
    if how == "crash":
        ctypes.string_at(0)
    if how == "kill":
        os.kill(os.getpid(), 9)
    return how


@stage(mode="process", retry=Retry(attempts=2, base=0.0, on=stagerun.WorkerDied))
def die_once(folder: str, ctx: Context):
    if ctx.attempt == 1:
        os._exit(1)
    return folder


@stage(mode="process", retry=Retry(attempts=3, base=0.0, on=Moody))
def moody(number: int, ctx: Context):
    if ctx.attempt < 3:
        raise Moody("this", "that")
    return number


@stage(mode="process")
def raise_it(name: str):
    raise {"KeyError": KeyError("k"), "Moody": Moody(1, 2), "Unicode": _unicode()}[name]


def _unicode():
    return UnicodeDecodeError("utf-8", b"x", 0, 1, "why not")


@stage(mode="process")
def odd(what: str):
    return {
        "object": object(),
        "large": "x" * 5_000_000,
        "drop": DROP,
        "text": "plain",
    }[what]


@stage(mode="process")
def talk(number: int, ctx: Context):
    ctx.report("step", f"item {ctx.item}", 1, 2)
    stagerun.heartbeat()
    ctx.log.info("hello from %s, %s", number, ctx.params)
    ctx.log.warning("attempt %d of stage %s", ctx.attempt, ctx.stage)
    assert ctx.deadline > time.monotonic()
    return [ctx.item, ctx.attempt, ctx.params]


@stage(mode="process", deadline=20)
def polite(folder: str, ctx: Context):
    Path(folder, "begun").touch()
    while not ctx.token.cancelled:
        time.sleep(0.01)
    Path(folder, "stopped").write_text(ctx.token.reason or "")
    ctx.token.raise_if_cancelled()


@batch(mode="process", size=3, wait=0.01)
def halve(numbers: list[int]) -> list[int | ValueError]:
    return [n // 2 if n % 2 == 0 else ValueError(f"{n} is odd") for n in numbers]


@stage(mode="process", deadline=20, heartbeat_timeout=0.4)
def beat(number: int, ctx: Context):
    for _ in range(12):
        time.sleep(0.05)
        if number == 1:
            ctx.heartbeat()
    if number == 2:
        time.sleep(20)
    return number


@stage(mode="process", deadline=20)
def misbehave(how: str):
    folder, _, how = how.rpartition(":")
    if how.startswith("close"):
        os.closerange(3, 1000)
        time.sleep(0.0 if how == "close and go" else 60)
    if how == "fork":
        if os.fork() == 0:
            part = Path(folder, "part")
            part.write_text(str(os.getpid()))
            part.rename(Path(folder, "pids"))
            time.sleep(60)
        while not Path(folder, "pids").exists():
            time.sleep(0.01)
        os._exit(3)
    if how == "swallow":
        while True:
            try:
                time.sleep(60)
            except BaseException:  # noqa: BLE001 - the fault that is played here
                continue
    return how


@stage(mode="process", deadline=20)
def flood(times: int, ctx: Context):
    for number in range(times):
        ctx.report("flood", "", number, times)
        ctx.heartbeat()
    return times
