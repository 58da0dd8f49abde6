"""The rooms and their one-way doors, kept by reading the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "stagerun"

LEAVES = {"errors", "logs", "phase", "redaction"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "phase": set(),
    "redaction": {"errors"},
    "logs": {"errors", "redaction"},
    "model": {"errors"},
    "rules": {"model", "errors"},
    # The one judgement that documents need: pure, and of plain numbers.
    "store": {"model", "rules.liveness", *LEAVES},
    "offload": {"engine.context", "engine.token", "store.codec", "model", *LEAVES},
    "engine": {"offload", "store", "rules", "model", *LEAVES},
    "names": set(),
    "hosts": {"engine", "store", "rules", "model", *LEAVES},
    "http": {"engine.context", "names", *LEAVES},
    "alerts": {"http", "model", *LEAVES},
    "web": {"hosts", "engine", "store", "rules", "model", *LEAVES},
    "cli": {"web", "engine", "store", "rules", "model", *LEAVES},
    "testing": {"engine", "store", "rules", "model", *LEAVES},
}
"""What each room may import. The package's own front door may import all of them."""

HOMES = {
    "sqlite3": {"store", "cli", "testing"},
    "aiosqlite": {"store"},
    "asyncio": {"store", "offload", "hosts"},
    "httpx": {"http"},
    "rich": {"cli"},
    "cyclopts": {"cli"},
    "trio": {"engine", "offload", "store", "http", "names", "hosts", "cli", "testing"},
    # Under asyncio and under trio: the web side knows neither.
    "anyio": {"web", "store"},
    "starlette": {"web"},
    "prometheus_client": {"web"},
    "uvicorn": {"cli"},
    "opentelemetry": {"engine"},
    "cronsim": {"model"},
    "hypothesis": {"testing"},
    "pytest": {"testing"},
    "trustme": {"testing"},
}
"""The only rooms in which these packages are known."""

FORBIDDEN_IN_ENGINE = {("time", "time"), ("random", "random"), ("uuid", "uuid4"), ("os", "urandom")}
"""Calls that would make a run depend on more than its env; ``env.py`` is their one home."""

MODULES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_through_the_doors_of_its_room(path: Path) -> None:
    room = room_of(path)
    if room in {"__init__", "__main__", "asyncio"}:
        return
    allowed = MAY_IMPORT[room] | {room}
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "stagerun":
            assert any(rest == a or rest.startswith(f"{a}.") for a in allowed) or rest in {
                f"{a}" for a in allowed
            }, f"{room} may not import {name}"
        elif top in HOMES:
            assert room in HOMES[top], f"{top} is not known in {room}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_is_short_enough_to_be_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_engine_takes_time_and_chance_from_its_env_alone() -> None:
    for path in MODULES:
        if room_of(path) != "engine" or path.name == "env.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                call = (node.value.id, node.attr)
                assert call not in FORBIDDEN_IN_ENGINE, f"{path.name}:{node.lineno} {call}"


def test_no_error_is_swallowed_by_a_bare_except() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path.name}:{node.lineno}"
                empty = all(isinstance(statement, ast.Pass) for statement in node.body)
                assert not empty, f"{path.name}:{node.lineno} swallows an error"
