"""From a target of the command line, ``module:name`` or ``file.py:name``, to what it names."""

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

from attrs import frozen

from stagerun.errors import TargetError, UsageError
from stagerun.model.alert import Alerts
from stagerun.model.pipeline import Pipeline
from stagerun.model.schedule import Schedule
from stagerun.model.stage import Stage

__all__ = ["load_alerts", "load_pipeline", "load_served"]

S = TypeVar("S", Pipeline, Schedule)


def load_pipeline(target: str) -> tuple[Pipeline, str]:
    """Import what *target* names; return the pipeline, and the target to find it from anywhere.

    As with ``python FILE`` and ``python -m MODULE``, the file's folder or the current one comes
    first on ``sys.path`` from now on. A file inside a package is imported as the package's module,
    so that its imports of its neighbours work; then it is the folder that holds the package.

    Raises:
        TargetError: It does not lead to a pipeline; says what would.
    """
    module, name, place = _import(target)
    return _value(module, name, target, _PIPELINE), f"{place}:{name}"


def load_served(targets: Sequence[str]) -> tuple[Sequence[Pipeline], Sequence[Schedule]]:
    """Import what *targets* name, each a pipeline, a schedule, or a list or tuple of them.

    The pipelines of the schedules are among those that are returned. Each stands there once.

    Raises:
        TargetError: One does not lead to that; says what would.
        UsageError: Two different ones have the same name.
    """
    pipelines = dict[str, tuple[Pipeline, str]]()
    schedules = dict[str, tuple[Schedule, str]]()
    for target in targets:
        module, name, _ = _import(target)
        value = _value(module, name, target, _SERVED)
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, Schedule):
                _add(schedules, each, target)
            _add(pipelines, each.pipeline if isinstance(each, Schedule) else each, target)
    return [each for each, _ in pipelines.values()], [each for each, _ in schedules.values()]


def load_alerts(target: str) -> Alerts:
    """Import what *target* names, which must be `Alerts`.

    Raises:
        TargetError: It does not lead to that; says what would.
    """
    module, name, _ = _import(target)
    alerts: Alerts = _value(module, name, target, _ALERTS)
    return alerts


def _add(known: dict[str, tuple[S, str]], served: S, target: str) -> None:
    first, place = known.setdefault(served.name, (served, target))
    if first is not served:
        which = f"{place} and {target} are both" if place != target else f"two of {target} are"
        raise UsageError(
            f"{which} called {served.name!r}, and by their names they are known: give one of them"
            " another"
        )


@frozen
class _Wanted:
    """What a target must lead to."""

    words: str
    fits: Callable[[object], bool]


def _is_served(value: object) -> bool:
    several = list(value) if isinstance(value, list | tuple) else [value]
    return bool(several) and all(isinstance(each, Pipeline | Schedule) for each in several)


_PIPELINE: Final = _Wanted("pipeline", lambda value: isinstance(value, Pipeline))
_ALERTS: Final = _Wanted("set of alerts", lambda value: isinstance(value, Alerts))
_SERVED: Final = _Wanted("pipeline, schedule or list of them", _is_served)


def _import(target: str) -> tuple[ModuleType, str, str]:
    """Return the module that a target names, the name in it, and where it is found again."""
    place, _, name = target.rpartition(":") if ":" in target else (target, "", "")
    if not place:
        raise TargetError(f"{target!r} names no pipeline: write module:name or file.py:name")
    if place.endswith(".py") or "/" in place:
        path = Path(place).expanduser().absolute()
        return _import_file(path, place), name, str(path)
    return _import_module(place), name, place


def _import_file(path: Path, given: str) -> ModuleType:
    if not path.is_file():
        siblings = [sibling.name for sibling in path.parent.glob("*.py")]
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise TargetError(f"the file {given} {problem}{_meant(path.name, siblings)}")
    packaged = _packaged(path)
    if packaged is not None:
        return _import_packaged(*packaged, path, given)
    names = path.stem, f"stagerun_target_{path.stem}"
    for known in (sys.modules.get(name) for name in names):
        if known is not None and getattr(known, "__file__", None) == str(path):
            return known  # for another target: what stands in it is the same for both
    sys.path.insert(0, str(path.parent))
    # A name that is taken stays with its module: a file json.py must not become everybody's json.
    name = names[path.stem in sys.modules]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"the file {given} is not Python: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TargetError(_failed(given, error, path)) from error
    return module


def _packaged(path: Path) -> tuple[str, Path] | None:
    """Return a file's dotted name, and the folder that holds its package; None: it is in none."""
    folder, parts = path.parent, [path.stem]
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    if len(parts) == 1 or not all(part.isidentifier() for part in parts):
        return None
    return ".".join(parts), folder


def _import_packaged(name: str, folder: Path, path: Path, given: str) -> ModuleType:
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise TargetError(_failed(given, error, path)) from error
    if module.__file__ is None or not path.samefile(module.__file__):
        raise TargetError(
            f"the file {given} is module {name} of its package, and another file has that name:"
            f" {module.__file__}"
        )
    return module


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(
            f"{name!r} is not the name of a module: write module:name or file.py:name"
        )
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise TargetError(_failed(name, error)) from error
        here = [found.stem for found in Path.cwd().glob("*.py")]
        raise TargetError(
            f"there is no module {missing!r} here or on the Python path{_meant(missing, here)}"
        ) from error
    except (Exception, SystemExit) as error:
        raise TargetError(_failed(name, error)) from error


def _failed(given: str, error: BaseException, path: Path | None = None) -> str:
    """Tell an import's failure in one sentence, with the line of the user's file."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    frames = traceback.extract_tb(error.__traceback__)[1:]  # ours
    users = [frame for frame in frames if not frame.filename.startswith("<frozen importlib")]
    own = [frame for frame in users if path is not None and frame.filename == str(path)]
    where = "".join(f" ({last.filename}, line {last.lineno})" for last in (own or users)[-1:])
    return f"importing {given} raised {said}{where}"


def _value(module: ModuleType, name: str, target: str, wanted: _Wanted) -> Any:
    found = [each for each, value in vars(module).items() if wanted.fits(value)]
    there = f"; it holds {', '.join(found) or f'no {wanted.words} at all'}"
    if not name:
        example = found[0] if found else "pipeline"
        raise TargetError(f"{target!r} names no pipeline: write {target}:{example}{there}")
    try:
        value = getattr(module, name)
    except AttributeError:
        hint = _meant(name, found) or there
        raise TargetError(f"there is no {name!r} in {target.rpartition(':')[0]}{hint}") from None
    if wanted.fits(value):
        return value
    if isinstance(value, Stage):
        raise TargetError(
            f"{target} is a stage, not a pipeline: put it in one, Pipeline({name!r}, [{name}])"
        )
    if _SERVED.fits(value):
        there = f": `stagerun serve {target}` takes it{there}"
    raise TargetError(f"{target} is {_kind(value)}, not a {wanted.words}{there}")


def _kind(value: object) -> str:
    name = "schedule" if isinstance(value, Schedule) else type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"


def _meant(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
