"""Clocks on the wall that jump, for one process or all: a machine's sleep, and a clock that is set.

In a round two processes start runs, watch each other, and serve a schedule; a third is killed.
Meanwhile the clocks of all, or those of one, go an hour ahead or back, to 1970, ten years ahead,
or as after a sleep of up to three days, and their time zones change. Monotonic time goes on as it
does. No run may end for it, none may last for ever, and nobody alive may be taken for dead.

``python -m tests.campaign.clocks --rounds 20 --seed 1``; ``--only 7`` replays one round.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from tests.campaign import clock_shim, clockruns, strangers
from tests.campaign.census import slots, takeovers, waits
from tests.campaign.clock_shim import Clock
from tests.campaign.family import Family
from tests.campaign.images import look
from tests.campaign.part import Part
from tests.campaign.rounds import ROOT, Rounds

__all__ = ["main", "run"]

AT_ONCE: Final = 4
"""Rounds beside each other: they wait most of their time."""
_HOUR: Final = 3600.0
_JUMPS: Final = (
    "sleep", "sleep", "sleep", "hour ahead", "hour back", "to 1970", "ten years ahead", "right",
)  # fmt: skip


def run(rounds: int, seed: int, folder: Path, *, plant: str = "") -> Part:
    """Play so many rounds, each in fresh interpreters; *plant*: see ``clockruns.PLANTS``."""
    began, library = time.monotonic(), clock_shim.build(folder)
    played = Rounds("clocks", seed, folder, plant=plant, at_once=AT_ONCE)
    if library is not None:
        clock = Clock(folder / "clock-of-all")
        played.play(range(rounds), clock_shim.environment(library, clock))
    return Part(
        name="clocks",
        what=(
            "Two processes run, watch each other and serve a schedule, and a third is killed, while"
            " the wall clocks of all or one of them jump: an hour ahead or back, to 1970, ten years"
            " ahead, and as after a sleep of one minute to three days; time zones change. Endings"
            " are held against monotonic time, takeovers against who was alive."
        ),
        command=f"python -m tests.campaign.clocks --rounds {rounds} --seed {seed}",
        trials=0 if library is None else rounds,
        violations=tuple(played.violations),
        skipped=clock_shim.unavailable(),
        seconds=time.monotonic() - began,
        counts=played.figures(),
    )


@frozen
class ClockRound(Family):
    """One round, in a process that has the shim."""

    dice: random.Random
    plant: str
    seconds: float
    """More than the 15 s for which a process must be silent to be given up, unless in haste."""
    all_clocks: bool = field(init=False)
    clock: Clock = field(init=False)

    @all_clocks.default
    def _(self) -> bool:
        return self.dice.random() < 0.6

    @clock.default
    def _(self) -> Clock:
        return Clock(self.path.with_name("clock"))

    def play(self) -> None:
        """Have it begin, move the clocks, and end it."""
        self.begin()
        observer = self.fork("observer", strangers.observe, self.path, self.say)
        one = self._work(follows=self.all_clocks)
        two = self._work(follows=True)
        dies = self._work(follows=self.dice.random() < 0.5)
        reader = self.fork("observer", self._read)
        killed_at = time.monotonic() + self.dice.uniform(1.0, self.seconds / 2)
        self.later.append((killed_at, lambda: self.signal(dies, signal.SIGKILL)))
        until = time.monotonic() + self.seconds
        while (left := until - time.monotonic()) > 0:
            self.until(lambda: False, min(left, self.dice.uniform(0.5, 6.0)))
            self._jump(self.dice.choice(_JUMPS))
        if self.all_clocks:
            self._jump("right")
        self.until(lambda: one.is_quiet and two.is_quiet, 25)
        self.until(lambda: not self.history.unsettled(), 8)
        if not self.plant:
            self._commands()
        for process in (one, two, observer, reader):
            self.signal(process, signal.SIGTERM)
        self.until(lambda: not self.alive, 20)

    def _work(self, *, follows: bool) -> Any:
        seed, clock = str(self.dice.getrandbits(64)), self.clock

        def work() -> None:
            if follows:
                clock_shim.follow(clock)
            schedules = self.all_clocks
            clockruns.work(self.path, self.seconds, seed, schedules, self.plant, self.say)

        return self.fork("worker", work)

    def _read(self) -> None:
        clock_shim.follow(self.clock)
        clockruns.look_at_documents(self.path, self.say)

    def _jump(self, name: str) -> None:
        self.history.counts[f"jumps: {name}"] += 1
        match name:
            case "sleep":
                self.clock.sleep(self.dice.choice([60, 600, _HOUR, 8 * _HOUR, 72 * _HOUR]))
            case "hour ahead":
                self.clock.jump(_HOUR)
            case "hour back":
                self.clock.jump(-_HOUR)
            case "to 1970":
                self.clock.jump(86_400 - self.clock.wall)
            case "ten years ahead" if self.clock.wall < time.time() + 60 * 365 * 86_400:
                self.clock.jump(10 * 365.25 * 86_400)
            case _:
                self.clock.put_right()

    def _commands(self) -> None:
        """Look by the command line, by a clock that is wrong."""
        self._jump(self.dice.choice(("hour back", "to 1970", "ten years ahead")))
        environment = {**os.environ, "CAMPAIGN_CLOCK": str(self.clock.path)}
        for words in (["runs"], ["show", "latest"], ["why", "latest"], ["stats", "items"],
                      ["owners"], ["doctor"], ["schedules"]):  # fmt: skip
            command = [sys.executable, "-m", "stagerun", *words, "--db", str(self.path), "--json"]
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
                timeout=60,
            )  # fmt: skip
            if done.returncode or "Traceback" in done.stderr:
                said = done.stderr[-800:] + done.stdout[-800:]
                self.history.wrong.append(f"stagerun {words[0]} gave {done.returncode}: {said}")
            else:
                json.loads(done.stdout)
        self.clock.put_right()


def judge(round_: ClockRound, replay: str) -> dict[str, Any]:
    """Return what is wrong, what was counted, and what took how long."""
    history, path = round_.history, round_.path
    wrong = [*history.wrong, *history.told.contradictions, *waits(history)]
    for process in history.processes:
        said = process.errors.read_text(errors="replace")
        if process.status != (-signal.SIGKILL if process.is_killed else 0) or "Traceback" in said:
            wrong.append(f"{process.role} (pid {process.pid}) {process.status}: {said[-1500:]}")
    with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as connection:
        wrong += look(connection, history.told, whole=True)
        wrong += takeovers(connection, history, trusts_wall=False)
        wrong += slots(connection, clock_jumps=True)
        wrong += [
            f"run {run[:8]} is left {status}"
            for run, status in connection.execute(
                "SELECT r.id, g.status FROM runs r JOIN generations g USING (run)"
                " WHERE g.finished_at IS NULL"
            )
        ]
        if round_.all_clocks:
            ((fired, missed),) = connection.execute("SELECT fired, missed FROM schedules")
            history.counts["slots fired"] += fired
            history.counts["rounds with slots that were missed"] += missed > 0
        (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    history.counts["runs"] += runs
    history.counts[f"rounds with the clocks of {'all' if round_.all_clocks else 'one'}"] += 1
    return {
        "violations": [f"{replay}: {each}" for each in wrong],
        "counts": dict(history.counts),
        "took": {name: [b - a for a, b in spans] for name, spans in history.took.items()},
    }


# -- the command line -----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, or replay one round; the exit status is 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.clocks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of a round to replay")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long a round jumps")
    parser.add_argument("--plant", choices=("", *clockruns.PLANTS), default="")
    parser.add_argument("--folder", type=Path, help="where its files go; else into a new one")
    parser.add_argument("--json", action="store_true", help="one document on standard output")
    given = parser.parse_args(arguments)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="stagerun-clocks-"))
    if given.json:  # one of many, with the shim
        dice = random.Random(f"{given.seed} {given.only}")
        here = ClockRound(folder / "x.db", dice, given.plant, given.seconds)
        here.play()
        replay = f"python -m tests.campaign.clocks --only {given.only} --seed {given.seed}"
        print(json.dumps(judge(here, replay)))
        return 0
    if given.only is None:
        part = run(given.rounds, given.seed, folder, plant=given.plant)
        violations, figures = part.violations, part.counts
        print(part.skipped or f"{part.trials} rounds in {part.seconds:.0f} s")
    else:
        library = clock_shim.build(folder)
        if library is None:
            print(clock_shim.unavailable())
            return 0
        played = Rounds("clocks", given.seed, folder, plant=given.plant)
        played.play([given.only], clock_shim.environment(library, Clock(folder / "clock-of-all")))
        violations, figures = tuple(played.violations), played.figures()
    for name, value in figures.items():
        print(f"{name}: {value}")
    print(*violations, sep="\n")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
