"""What ``import stagerun`` offers."""

import subprocess
import sys

import stagerun


def test_the_public_names_are_all_there_and_each_once() -> None:
    assert len(set(stagerun.__all__)) == len(stagerun.__all__)
    assert all(hasattr(stagerun, name) for name in stagerun.__all__)


def test_every_public_name_says_what_it_is() -> None:
    for name in stagerun.__all__:
        thing = getattr(stagerun, name)
        assert (thing.__doc__ or "").strip(), name


def test_importing_loads_nothing_that_may_never_be_needed() -> None:
    program = (
        "import sys, stagerun\n"
        "late = {'asyncio', 'aiosqlite', 'httpx', 'rich', 'cyclopts', 'hypothesis'}\n"
        "print(sorted(late & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
