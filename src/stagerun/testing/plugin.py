"""The pytest plugin: simulations as fixtures, over one seed or many, and time that passes at once.

It comes with ``stagerun[testing]`` by itself and does nothing for tests that use none of its
fixtures: ``simulated``, ``crashed_everywhere``, ``stagerun_seed`` and ``virtual_runtime``.
"""

import argparse
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
import trio.testing

from stagerun.engine.env import Env
from stagerun.engine.opening import open_runtime
from stagerun.engine.runtime import Runtime
from stagerun.store.inline import InlineStore
from stagerun.testing.crashes import CrashReport, crash_at_every_commit
from stagerun.testing.determinism import deterministic
from stagerun.testing.machine import BEGIN
from stagerun.testing.simulation import Simulation, simulate

__all__ = ["crashed_everywhere", "simulated", "stagerun_seed", "virtual_runtime"]

_TOLD: Final = pytest.StashKey[list[str]]()
"""What is said of a test's simulations if it fails."""
_LINES: Final = 40


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer the two options."""
    group = parser.getgroup("stagerun", "simulations of stagerun's pipelines")
    group.addoption(
        "--stagerun-seed",
        type=int,
        default=0,
        metavar="SEED",
        help="what simulations follow from (default: 0)",
    )
    group.addoption(
        "--stagerun-seeds",
        type=_positive,
        default=1,
        metavar="N",
        help="run each test with a simulation N times, with the seeds SEED, SEED + 1, ...",
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say in the first lines which seeds it will be, if somebody has said."""
    seeds = _seeds(config)
    if seeds == range(1):
        return None
    return f"stagerun: seed {seeds[0]}" + (f" to {seeds[-1]}" if len(seeds) > 1 else "")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat the tests that use a seed, if there are several."""
    seeds = _seeds(metafunc.config)
    said = any(
        "stagerun_seed" in str(mark.args[:1])
        for mark in metafunc.definition.iter_markers("parametrize")
    )
    if len(seeds) > 1 and "stagerun_seed" in metafunc.fixturenames and not said:
        names = [f"seed{seed}" for seed in seeds]
        metafunc.parametrize("stagerun_seed", seeds, ids=names, indirect=True)


@pytest.fixture
def stagerun_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test: ``--stagerun-seed``, or one of ``--stagerun-seeds``."""
    return int(getattr(request, "param", request.config.getoption("--stagerun-seed")))


@pytest.fixture
def simulated(stagerun_seed: int, request: pytest.FixtureRequest) -> Callable[..., Simulation]:
    """``simulate()`` with this test's seed; if the test fails, the seed and the log are shown."""

    def call(what: Any, items: Any = None, **options: Any) -> Simulation:
        options.setdefault("seed", stagerun_seed)
        told = request.node.stash.setdefault(_TOLD, [])
        told.append(f"simulation with seed {options['seed']} (--stagerun-seed)")
        simulation = simulate(what, items, **options)
        told += simulation.log[-_LINES:]
        return simulation

    return call


@pytest.fixture
def crashed_everywhere(stagerun_seed: int) -> Callable[..., CrashReport]:
    """``crash_at_every_commit()`` with this test's seed."""
    return partial(crash_at_every_commit, seed=stagerun_seed)


@pytest.fixture
def _virtual_time(request: pytest.FixtureRequest) -> None:
    if not _has_trio(request.config):
        pytest.fail("virtual_runtime is for tests on trio: pip install pytest-trio", pytrace=False)


@pytest.fixture
async def virtual_runtime(
    _virtual_time: None, stagerun_seed: int, tmp_path: Path
) -> AsyncIterator[Runtime]:
    """A runtime in virtual time, on the database ``runs.db`` in ``tmp_path``; for pytest-trio.

    Where all wait, the clock jumps to when the first one is due. Nothing may wait for a real
    thread or socket. Operators' settings, the test's environment, are not read. The order of
    tasks, back-off and identifiers follow from the test's seed.
    """
    chance = random.Random(stagerun_seed)  # noqa: S311 - it shall follow from the seed
    env = Env(
        wall=lambda: BEGIN + trio.current_time(),
        monotonic=trio.current_time,
        jitter=chance.random,
        new_id=lambda: f"{chance.getrandbits(128):032x}",
        threads=False,
        environ={},
    )
    async with open_runtime(store=InlineStore(str(tmp_path / "runs.db")), env=env) as runtime:
        yield runtime


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the tests that use ``virtual_runtime`` run in virtual time, and no other."""
    if _has_trio(config):
        for item in items:
            if "virtual_runtime" in getattr(item, "fixturenames", ()):
                params = getattr(getattr(item, "callspec", None), "params", {})
                seed = params.get("stagerun_seed", config.getoption("--stagerun-seed"))
                run = partial(_run_in_virtual_time, seed=int(seed))
                item.add_marker(pytest.mark.trio(run=run), append=False)


def _has_trio(config: pytest.Config) -> bool:
    names = ("trio", "pytest_trio.plugin")  # by its entry point; by -p
    return any(config.pluginmanager.hasplugin(name) for name in names)


def _run_in_virtual_time(
    main: Callable[[], Awaitable[Any]], *, clock: Any, instruments: Any, seed: int
) -> Any:

    clock = clock or trio.testing.MockClock(autojump_threshold=0)
    with deterministic(seed):
        return trio.run(main, clock=clock, instruments=instruments)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure what its simulations have to say."""
    report = yield
    told = item.stash.get(_TOLD, [])
    if report.when == "call" and report.failed and told:
        report.sections.append(("stagerun", "\n".join(told)))
    return report


def _seeds(config: pytest.Config) -> range:
    first = int(config.getoption("--stagerun-seed"))
    return range(first, first + int(config.getoption("--stagerun-seeds")))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)
