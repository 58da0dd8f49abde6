"""One round of a crowd: who is in it, and what is done to them."""

import os
import random
import signal
import subprocess
import sys
import time
from typing import Final

from attrs import frozen

from tests.campaign import crowd, strangers
from tests.campaign.census import SETTLED_WITHIN
from tests.campaign.crowd import Member
from tests.campaign.crowdhistory import Process
from tests.campaign.crowdruns import EXECUTED
from tests.campaign.family import Family
from tests.campaign.rounds import ROOT, importing

__all__ = ["Plan", "Round"]

_DEEDS: Final = (
    "kill", "kill", "stop", "stop", "leave", "lock", "commits", "vacuum", "save", "copy", "command",
    "interrupt",
)  # fmt: skip


@frozen
class Plan:
    """What happens in a round: everything that does not depend on the machine."""

    size: int
    """Processes with a runtime."""
    writers: bool
    """Whether each has fifty tasks that start tiny runs, or a few that do everything."""
    seconds: float
    deeds: tuple[str, ...]
    """What is done to them, drawn from this at random; none: they are left in peace."""
    orderly: bool
    """Whether those who are left get SIGTERM at the end, or SIGKILL."""
    schedules: bool
    dice: random.Random

    @classmethod
    def of(cls, number: int, seed: int) -> "Plan":
        dice = random.Random(f"{seed} {number}")
        writers = number % 5 == 4
        return cls(
            size=8 if writers else dice.choice([2, 2, 8]),
            writers=writers,
            seconds=dice.uniform(2.0, 4.0),
            deeds=() if writers else tuple(dice.sample(_DEEDS, dice.randint(2, len(_DEEDS)))),
            orderly=dice.random() < 0.5,
            schedules=dice.random() < 0.5,
            dice=dice,
        )

    def member(self, plant: str) -> Member:
        few = not self.writers and self.dice.random() < 0.1
        return Member(
            seed=str(self.dice.getrandbits(64)),
            clients=50 if self.writers else self.dice.randint(1, 4),
            seconds=self.seconds,
            only_tiny=self.writers,
            schedules=self.schedules,
            descriptors=self.dice.randint(20, 48) if few else None,
            forks=not few and self.dice.random() < 0.2,
            plant=plant,
        )


@frozen
class Round(Family):
    """A crowd, and what is done to it."""

    plan: Plan
    plant: str

    def play(self) -> None:
        """Have it begin, disturb it, calm it down, and end it."""
        self.begin()
        observer = self.fork("observer", strangers.observe, self.path, self.say)
        gate = os.pipe()
        for _ in range(self.plan.size):
            self._join(gate)
        os.close(gate[0])
        os.close(gate[1])  # now all begin at once
        self._disturb(time.monotonic() + self.plan.seconds)
        self._calm_down()
        for process in self.those("worker"):
            if not self.plan.orderly:
                self.signal(process, signal.SIGKILL)
            elif not process.signalled(signal.SIGTERM):
                self.signal(process, signal.SIGTERM)
        there = [each for each in self.alive.values() if each.role == "worker"]
        self.until(lambda: all(_is_dead(each) for each in there), 30)
        heir = self.fork("heir", crowd.inherit, self.path, self.plant, self.say)
        self.until(lambda: heir.gone_at is not None, 70)
        self.signal(observer, signal.SIGTERM)
        self.until(lambda: not self.alive, 10)

    def _disturb(self, until: float) -> None:
        while (now := time.monotonic()) < until:
            pause = self.plan.dice.uniform(0.05, 0.5)
            self.until(lambda: False, min(pause, until - now))
            if self.plan.deeds and self.history.told.opened:
                getattr(self, f"_do_{self.plan.dice.choice(self.plan.deeds)}")()
            while len(self.those("worker")) < max(2, self.plan.size - 2):
                self._join()

    def _calm_down(self) -> None:
        """End what disturbs, and wait until the dead are settled."""
        while self.later:
            self.later.pop()[1]()
        self.until(lambda: not self.those("stranger"), 20)
        for process in self.those("command"):
            if not process.signalled(signal.SIGTERM, signal.SIGINT):
                self.signal(process, signal.SIGTERM)
        self.until(lambda: not self.those("command"), 20)
        if self.plan.writers:
            self.until(lambda: all(each.is_quiet for each in self.those("worker")), 40)
        if not self.those("worker"):
            self._join()
        self.until(lambda: not self.history.unsettled(), SETTLED_WITHIN + 2)

    # -- what is done -----------------------------------------------------------------------------

    def _do_kill(self) -> None:
        if there := self.those("worker") + self.those("command"):
            self.signal(self.plan.dice.choice(there), signal.SIGKILL)

    def _do_stop(self) -> None:
        if there := self._undisturbed("worker"):
            process = self.plan.dice.choice(there)
            self.signal(process, signal.SIGSTOP)

            def go_on() -> None:
                self.signal(process, signal.SIGCONT)

            self.later.append((time.monotonic() + self.plan.dice.uniform(0.1, 3.0), go_on))

    def _do_leave(self) -> None:
        there = self._undisturbed("worker") + self._undisturbed("command")
        if there:
            self.signal(self.plan.dice.choice(there), signal.SIGTERM)

    def _do_interrupt(self) -> None:
        if there := self._undisturbed("command"):
            process = self.plan.dice.choice(there)
            self.signal(process, signal.SIGINT)
            if self.plan.dice.random() < 0.5:

                def again() -> None:
                    self.signal(process, signal.SIGINT)

                self.later.append((time.monotonic() + self.plan.dice.uniform(0.0, 0.3), again))

    def _do_lock(self) -> None:
        seconds = self.plan.dice.choice([0.1, 0.5, 2.0, 5.0])
        self.fork("stranger", strangers.hold_lock, self.path, seconds, self.say)

    def _do_commits(self) -> None:
        seconds = self.plan.dice.uniform(0.3, 2.0)
        self.fork("stranger", strangers.commit_back_to_back, self.path, seconds, self.say)

    def _do_vacuum(self) -> None:
        self.fork("stranger", strangers.vacuum, self.path, self.say)

    def _do_save(self) -> None:
        at = self.path.with_name(f"saved-{len(self.history.processes)}.db")
        self.history.told_before(at)
        self.fork("stranger", strangers.save, self.path, at, self.say)

    def _do_copy(self) -> None:
        at = self.path.with_name(f"copied-{len(self.history.processes)}.db")
        self.fork("stranger", strangers.copy, self.path, at, self.say)

    def _do_command(self) -> None:
        """Start a run by the command line, as a fresh program."""
        if len(self.those("command")) > 2:
            return
        name = self.plan.dice.choice(["steady", "hung"])
        number = len(self.history.processes)
        words = ["run", f"tests.campaign.crowdruns:{name}", "--db", str(self.path), "--json"]
        errors, said = (self.path.with_name(f"{name}-{number}") for name in ("errors", "said"))
        with errors.open("wb") as err, said.open("wb") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "stagerun", *words, "--param", f"mark=command-{number}"],
                cwd=ROOT,
                env={**os.environ, **importing()},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=[int(os.environ[EXECUTED])],
            )
        child.returncode = 0  # it is waited for like the others, not by this object
        self.born(Process(child.pid, "command", errors, said, target=name))

    # -- processes --------------------------------------------------------------------------------

    def _join(self, gate: tuple[int, int] | None = None) -> None:
        member = self.plan.member(self.plant)

        def work() -> None:
            if gate is not None:
                os.close(gate[1])
                os.read(gate[0], 1)  # until nobody holds the other end any more
            crowd.work(self.path, member, self.say)

        self.fork("worker", work, limited=member.descriptors is not None)

    def _undisturbed(self, role: str) -> list[Process]:
        if role == "command":
            said = self.path.with_name("executed").read_text()
            for each in self.those(role):
                each.has_begun = f"{each.pid} " in said
        return [each for each in self.those(role) if not each.signals and each.has_begun]


def _is_dead(process: Process) -> bool:
    """Whether it is dead, reaped or not."""
    if process.gone_at is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
