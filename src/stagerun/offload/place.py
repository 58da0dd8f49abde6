"""Where a stage's function can be found again: a module and a name, never a pickle."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from attrs import frozen

from stagerun.errors import UsageError
from stagerun.model.stage import Stage

__all__ = ["MAIN", "Place", "find", "place_of"]

MAIN = "__stagerun_main__"
"""The name of the program's own file in a worker: no block behind ``__name__ == "__main__"`` runs
a second time."""


@frozen
class Place:
    """A module, the name of something in it, and the file that the module came from."""

    module: str
    name: str
    file: str | None


def place_of(stage: Stage) -> Place:
    """Return where another process finds the function of *stage*.

    Raises:
        UsageError: It would not find it, or would find something else under that name.
    """
    function = stage.function
    module, name = function.__module__, function.__qualname__
    loaded = sys.modules.get(module)
    if loaded is None:
        raise _lost(stage, f"its module {module!r} is not imported under that name")
    if _found(loaded, name) is not function:
        raise _lost(stage, f"{module}.{name} is something else by now")
    file = getattr(loaded, "__file__", None)
    if module != "__main__":
        return Place(module, name, file)
    if loaded.__spec__ is not None:  # python -m package.module
        return Place(loaded.__spec__.name, name, file)
    if file is None:
        raise _lost(stage, "it was typed in, or given by -c, and stands in no file")
    return Place(MAIN, name, file)


def find(place: Place) -> Any:
    """Return the function at *place*, importing its module. For the child."""
    module = sys.modules.get(place.module) or _imported(place)
    function = _found(module, place.name)
    if function is None:
        raise UsageError(f"{place.module} has no {place.name} in the worker process")
    return function


def _imported(place: Place) -> ModuleType:
    file = place.file
    spec = None if place.module == MAIN else _spec(place.module)
    if spec is not None and (file is None or spec.origin == file):
        return importlib.import_module(place.module)
    # Not where its name leads: the command line loads a file under whatever name is free.
    spec = None if file is None else importlib.util.spec_from_file_location(place.module, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"the worker process cannot import {place.module}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[place.module] = module
    spec.loader.exec_module(module)
    return module


def _spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:  # the package above it is not there
        return None


def _found(module: ModuleType, name: str) -> Any:
    """Return what *name* leads to; of a stage, its function."""
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    return value.function if isinstance(value, Stage) else value


def _lost(stage: Stage, problem: str) -> UsageError:
    return UsageError(
        f"stage {stage.name!r} has mode='process', but a worker process would not find its function"
        f" again: {problem}. Define it at the top level of a module"
    )
