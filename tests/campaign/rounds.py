"""Rounds of a part of the campaign, each in a fresh interpreter, and what all of them came to."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

__all__ = ["ROOT", "Rounds", "importing"]

ROOT: Final = Path(__file__).parents[2]
_LONGEST: Final = 180.0
"""Seconds after which a round that does not end is a violation."""


@frozen
class Rounds:
    """Plays ``python -m tests.campaign.PART --only NUMBER --json``, and sums up what they report.

    In such an interpreter nothing was opened, and no thread was begun, before its first fork.
    """

    part: str
    seed: int
    folder: Path
    """Where each round gets a folder; it stays where something is wrong."""
    plant: str = field(default="", kw_only=True)
    more: tuple[str, ...] = field(default=(), kw_only=True)
    """Further options of the part."""
    at_once: int = field(default=1, kw_only=True)
    violations: list[str] = field(init=False, factory=list)
    _counts: Counter[str] = field(init=False, factory=Counter)
    _took: dict[str, list[float]] = field(init=False, factory=dict)

    def play(self, numbers: Iterable[int], environment: Mapping[str, str] = os.environ) -> None:
        """Play the rounds of these numbers."""
        with ThreadPoolExecutor(self.at_once) as pool:
            for report in pool.map(partial(self._one, environment=environment), numbers):
                self.violations.extend(report["violations"])
                self._counts.update(report["counts"])
                for name, values in report["took"].items():
                    self._took.setdefault(name, []).extend(values)

    def figures(self) -> dict[str, Any]:
        """Return what was counted, and how long what took."""
        spreads = {name: _spread(values) for name, values in self._took.items() if values}
        return {**dict(sorted(self._counts.items())), **spreads}

    def _one(self, number: int, environment: Mapping[str, str]) -> dict[str, Any]:
        place = Path(tempfile.mkdtemp(prefix=f"round-{number}-", dir=self.folder))
        module = f"tests.campaign.{self.part}"
        replay = ["-m", module, "--only", str(number), "--seed", str(self.seed)]
        more = [*self.more, "--plant", self.plant, "--json", "--folder", str(place)]
        child = subprocess.Popen(
            [sys.executable, *replay, *more],
            cwd=ROOT,
            env={**environment, **importing()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            said, errors = child.communicate(timeout=_LONGEST)
        except subprocess.TimeoutExpired:
            said, errors = b"", f"it has not ended after {_LONGEST:.0f} s".encode()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # whoever is left of this round
            child.wait()
        report: dict[str, Any] = {"counts": {}, "took": {}}
        try:
            report |= json.loads(said)
        except ValueError:
            words = errors.decode(errors="replace")[-2_000:]
            report["violations"] = [f"python {' '.join(replay)}: {words}"]
        if not report["violations"]:
            shutil.rmtree(place)
        return report


def importing() -> dict[str, str]:
    """Return what a fresh interpreter needs to import what this one does."""
    there = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *([there] if there else [])])}


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
    return f"n {len(ordered)}, p50 {p50:.3f} s, p99 {p99:.3f} s, max {ordered[-1]:.3f} s"
