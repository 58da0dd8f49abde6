"""What ``import stagerun`` offers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stagerun


def test_the_public_names_are_all_there_and_each_once() -> None:
    assert len(set(stagerun.__all__)) == len(stagerun.__all__)
    assert all(hasattr(stagerun, name) for name in stagerun.__all__)


def test_every_public_name_says_what_it_is() -> None:
    for name in stagerun.__all__:
        thing = getattr(stagerun, name)
        assert (thing.__doc__ or "").strip(), name


def test_what_is_loaded_late_is_what_a_type_checker_sees() -> None:
    tree = ast.parse(Path(stagerun.__file__).read_text())
    seen = {
        alias.name: (node.module or "").removeprefix("stagerun.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stagerun.")
        for alias in node.names
    }
    assert seen == stagerun._HOMES
    assert set(seen) == set(stagerun.__all__) <= set(dir(stagerun))


def test_a_name_that_is_none_is_said() -> None:
    with pytest.raises(AttributeError, match="'stagerun' has no attribute 'Pipelines'"):
        stagerun.Pipelines  # type: ignore[attr-defined]  # noqa: B018


def test_importing_loads_nothing_that_may_never_be_needed() -> None:
    program = (
        "import sys, stagerun\n"
        "late = {'asyncio', 'aiosqlite', 'httpx', 'rich', 'cyclopts', 'hypothesis'}\n"
        "print(sorted({*late, 'trio', 'stagerun.engine'} & set(sys.modules)))\n"
        "from stagerun import Pipeline, open_runtime, stage\n"
        "print(sorted(late & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["[]", "[]"]


FIRST_ITEM = """
import sys, trio
from stagerun import Pipeline, open_runtime, stage

late = {
    "httpx", "zoneinfo", "importlib.resources", "statistics", "stagerun.engine.services",
    "stagerun.engine.why", "stagerun.model.alert", "stagerun.model.schedule",
}

@stage
async def first(item):
    ours = [sys.modules[name] for name in sys.modules if name.startswith("stagerun")]
    values = {
        thing for module in ours for thing in vars(module).values()
        if isinstance(thing, type) and "__attrs_attrs__" in vars(thing)
    }
    print(sorted(late & set(sys.modules)), len(ours), len(values))

async def main():
    async with open_runtime(sys.argv[1]) as runtime:
        await (await runtime.start(Pipeline("first", [first]), [1])).wait()
        with trio.fail_after(30):
            while "stagerun.engine.why" not in sys.modules:
                await trio.sleep(0.01)

trio.run(main)
"""


def test_a_first_item_waits_for_no_module_that_it_does_not_need(tmp_path: Path) -> None:
    """Each frozen value costs half a millisecond before it: it is compiled when it is declared.

    What says `why` is loaded soon afterwards: a program in trouble may have no file descriptor left
    to load it by.
    """
    done = subprocess.run(
        [sys.executable, "-c", FIRST_ITEM, str(tmp_path / "first.db")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    late, modules, values = done.stdout.rsplit(maxsplit=2)
    assert late == "[]"
    assert int(modules) <= 112
    assert int(values) <= 90
