"""The documentation is run: every block, every name, every link.

A ``python`` block is executed, the blocks of a page one after the other in one namespace, in a
folder of their own. What a block prints stands in a ``text`` block right behind it. Blocks in
another language are not run. Two comments help where a reader needs no help:

    <!-- file: NAME.py -->   the block behind it is the file NAME.py: it can be imported later on
    <!-- run: ... -->        code that is run and not shown
"""

import contextlib
import inspect
import io
import os
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import stagerun
from stagerun import (
    Batch,
    Cause,
    Collect,
    Context,
    ItemCause,
    Kind,
    Outcome,
    Pipeline,
    Restart,
    Result,
    Retry,
    Run,
    Runtime,
    Schedule,
    Stage,
    Status,
    testing,
)
from stagerun.alerts import Alert, Alerts
from stagerun.cli.commands import app
from stagerun.model.status import Counts
from stagerun.store.inline import InlineStore
from stagerun.testing import cases, plugin, statemachine, strategies
from tests.conftest import Bench, virtual_env

ROOT = Path(__file__).parent.parent
FOLDERS = [ROOT / "docs", ROOT / "docs" / "migration"]
PAGES = [ROOT / "README.md", *[page for each in FOLDERS for page in sorted(each.glob("*.md"))]]
EVERY_PAGE = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")

_PIECE = re.compile(
    r"<!-- file: (?P<file>\S+) -->\n+```python\n(?P<filed>.*?)^```$"
    r"|<!-- run:\n(?P<hidden>.*?)^-->$"
    r"|^```python\n(?P<shown>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_OUTPUT = re.compile(r"\n\n?```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


@attrs.frozen
class Block:
    """A piece of code of a page, and what it is said to print."""

    code: str
    line: int
    file: str | None
    prints: str | None


def blocks(text: str) -> Iterator[Block]:
    for found in _PIECE.finditer(text):
        kind = next(name for name in ("filed", "hidden", "shown") if found[name] is not None)
        output = _OUTPUT.match(text, found.end()) if kind != "hidden" else None
        yield Block(
            code=found[kind],
            line=text.count("\n", 0, found.start(kind)),
            file=found["file"],
            prints=None if output is None else output[1],
        )


def run_block(block: Block, page: Path, module: types.ModuleType) -> str:
    """Execute a block in a module's namespace; return what it printed."""
    # Empty lines in front: a traceback then names the line of the page.
    code = compile("\n" * block.line + block.code, str(page), "exec", dont_inherit=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, module.__dict__)
    return printed.getvalue()


@pytest.mark.real
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_of_a_page_runs_and_prints_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("STAGERUN_")]:
        monkeypatch.delenv(variable)
    main = types.ModuleType(f"page_{page.stem}".replace("-", "_"))
    monkeypatch.setitem(sys.modules, main.__name__, main)
    for block in blocks(page.read_text(encoding="utf-8")):
        module = main
        if block.file is not None:
            (tmp_path / block.file).write_text(block.code, encoding="utf-8")
            module = types.ModuleType(block.file.removesuffix(".py"))
            module.__file__ = str(tmp_path / block.file)
            monkeypatch.setitem(sys.modules, module.__name__, module)
        printed = run_block(block, page, module)
        assert printed.strip() == (block.prints or "").strip(), f"{page.name}:{block.line}"


def test_the_pages_hold_code_that_can_be_run() -> None:
    counts = {page.name: len(list(blocks(page.read_text(encoding="utf-8")))) for page in PAGES}
    assert all(counts[name] for name in ("README.md", "tutorial.md", "how-to.md")), counts


def test_a_block_that_prints_something_else_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    page = "```python\nprint(1)\n```\n\n```text\n2\n```\n\n```python\nprint(3)\n```\n"
    found = list(blocks(page))
    assert [(block.prints, block.line) for block in found] == [("2\n", 1), (None, 9)]
    assert run_block(found[0], tmp_path / "page.md", types.ModuleType("page")) == "1\n"


# -- the reference is complete ----------------------------------------------------------------


def section(title: str) -> str:
    """Return what stands under a heading of the reference, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(title)}$", REFERENCE, re.MULTILINE)
    assert found, f"docs/reference.md has no section {title!r}"
    rest = REFERENCE[found.end() :]
    end = re.search(r"^#+ ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(title: str) -> list[str]:
    """Return the first cell of every row of the section's tables: what they list."""
    return re.findall(r"^\| `([^`]+)`(?: \*)? \|", section(title), re.MULTILINE)


def public(thing: type) -> list[str]:
    names = dict.fromkeys([*getattr(thing, "__slots__", ()), *vars(thing)])
    return [name for name in names if not name.startswith("_")]


@pytest.mark.parametrize("name", stagerun.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert re.search(rf"(?:`@?|^#+ .*){name}\b", REFERENCE, re.MULTILINE), name


@pytest.mark.parametrize("module", [testing, cases, statemachine, strategies])
def test_every_public_name_for_tests_is_in_the_reference(module: types.ModuleType) -> None:
    listed = {re.split(r"\W", name)[0] for name in rows("Testing")}
    assert {*module.__all__} <= listed


def test_every_fixture_and_option_of_the_plugin_is_in_the_reference() -> None:
    for name in plugin.__all__:
        assert f"`{name}`" in section("Testing"), name
    for option in re.findall(r'"(--stagerun-\w+)"', inspect.getsource(plugin)):
        assert f"`{option} " in section("Testing"), option


@pytest.mark.parametrize(
    ("title", "values"),
    [
        ("Statuses", [each.value for each in Status]),
        ("Causes of a run's end", [each.value for each in Cause]),
        ("Outcomes", [each.label for each in Outcome]),
        ("Causes of an item's outcome", [each.value for each in ItemCause]),
        ("Kinds of stages", [each.value for each in Kind]),
    ],
)
def test_a_closed_list_is_explained_value_by_value(title: str, values: list[str]) -> None:
    assert rows(title) == values


_NOT_GIVEN: dict[type, set[str]] = {
    Stage: {"function", "kind", "batch", "collect", "wants_ctx", "value_type", "result_type"}
}
"""Fields that a declaration fills by itself; the text names them."""


@pytest.mark.parametrize(
    "policy", [Stage, Retry, Restart, Batch, Collect, Pipeline, Schedule, Alerts]
)
def test_every_option_stands_in_the_table_of_its_owner(policy: type) -> None:
    names = [each.name for each in attrs.fields(policy)]
    derived = _NOT_GIVEN.get(policy, set())
    assert rows(f"Options of {policy.__name__}") == [name for name in names if name not in derived]
    for name in derived:
        assert f"`{name}`" in section(f"Options of {policy.__name__}"), name


@pytest.mark.parametrize("policy", [Stage, Retry, Restart, Batch, Pipeline, Schedule, Alerts])
def test_the_defaults_in_the_tables_are_those_of_the_code(policy: type) -> None:
    shown = dict(
        re.findall(
            r"^\| `(\w+)` \| `([^`]+)` \|", section(f"Options of {policy.__name__}"), re.MULTILINE
        )
    )
    plain = {
        each.name: each.default
        for each in attrs.fields(policy)
        if isinstance(each.default, int | float | str | None)
        and each.name not in _NOT_GIVEN.get(policy, ())
    }
    assert {name: in_words(value) for name, value in plain.items()} == {
        name: value for name, value in shown.items() if name in plain
    }


def in_words(default: Any) -> str:
    return f"{default:g}" if isinstance(default, float) else repr(default)


@pytest.mark.parametrize(
    ("title", "thing"),
    [
        ("Context", Context),
        ("CancellationToken", stagerun.CancellationToken),
        ("Result", Result),
        ("Counts", Counts),
        ("Run", Run),
        ("Runtime", Runtime),
        ("Alert", Alert),
    ],
)
def test_every_member_of_a_class_is_in_its_section(title: str, thing: type) -> None:
    listed = {re.split(r"\W", name)[0] for name in rows(title)}
    members = {each.name for each in attrs.fields(thing)} if attrs.has(thing) else set()
    members = {name for name in {*members, *public(thing)} if not name.startswith("_")}
    engine_only = {"cut"} if thing is Context else set()
    assert listed == members - engine_only


async def test_the_run_s_document_is_described_field_by_field(bench: Bench) -> None:
    @stagerun.stage
    async def fails(number: int) -> int:
        if number == 1:
            raise ValueError(number)
        return number

    run = await bench.runtime.start(Pipeline("document", [fails]), [1, 2])
    await run.wait()
    document = await run.document()
    (stage_document,) = document["stages"]
    assert rows("The run's document") == list(document)
    assert rows("A stage in the document") == list(stage_document)
    assert rows("A log line in the document") == list(document["recent_logs"][0])


async def test_a_schedule_s_document_is_described_field_by_field(bench: Bench) -> None:
    @stagerun.stage
    async def double(number: int) -> int:
        return 2 * number

    schedule = Schedule("often", Pipeline("doubles", [double], source=[1]), every=3600)
    store = InlineStore(":memory:")
    async with stagerun.open_runtime(
        store=store, env=virtual_env(), schedules=[schedule]
    ) as runtime:
        slot = await runtime.trigger_schedule("often")
        (document,) = await runtime.schedules()
    cells = re.findall(r"^\|([^|]*)\|", section("Schedules"), re.MULTILINE)
    described = re.findall(r"`(\w+)`", " ".join(cells))
    assert sorted(described) == sorted([*document, "slots", *slot])


@pytest.mark.parametrize("name", [n for n in stagerun.__all__ if n.endswith(("Error", "Later"))])
def test_every_error_is_in_the_section_on_errors(name: str) -> None:
    assert f"`{name}`" in section("Errors")


# -- commands ---------------------------------------------------------------------------------

_COMMAND = re.compile(r"(?<![\w./])(?:\.venv/bin/)?stagerun ([^&|\n]+)")


def test_the_reference_lists_the_commands_that_there_are() -> None:
    listed = re.findall(r"^\| `stagerun (\w+)", section("Command line"), re.MULTILINE)
    listed = [*dict.fromkeys(listed)]  # some have commands below them, each in a row
    assert sorted(listed) == sorted(name for name in app if not name.startswith("-"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_is_understood(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in _COMMAND.findall(block):
            app.parse_args(shlex.split(line), exit_on_error=False, print_error=False)
    for name in re.findall(r"`stagerun (\w+)", text):
        assert name in app, name


# -- settings ---------------------------------------------------------------------------------

_SETTING = re.compile(r"\bSTAGERUN_[A-Z0-9_]+\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    listed = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    options = tuple(re.findall(r"^\| `([A-Z_]+)` \|", listed, re.MULTILINE))
    process = {*re.findall(r"^\| `(STAGERUN_[A-Z_]+)` \|", listed, re.MULTILINE), "STAGERUN_DB"}
    named = {*_SETTING.findall(page.read_text(encoding="utf-8"))} - process
    mistakes = {"STAGERUN_INTEGRITY_PAGES_WORKRES"}  # of whom settings.md speaks
    strange = [name for name in named - mistakes if not name.endswith(options)]
    assert not strange, f"{page.name} names {strange}: docs/settings.md knows no such setting"


# -- links ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_another_page_leads_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(place), f"{page.name} links to {target}: no such heading"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
