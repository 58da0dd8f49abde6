"""The command ``schedules`` and those below it: names, options and help."""

from typing import Annotated, Final

from cyclopts import App, Parameter

from stagerun.cli.options import DEFAULT, Database, Json

__all__ = ["schedules"]

# ruff: noqa: PLC0415 - `stagerun --help` must not wait for the imports of every command


schedules: Final = App(
    name="schedules",
    help="List what runs by itself: when, whether it is served, and what became of its last slot.",
)

Name = Annotated[str, Parameter(help="The schedule's name.")]


@schedules.default
def list_(*, db: Database = DEFAULT, json: Json = False) -> int:
    """List all schedules, by name."""
    from stagerun.cli.scheduling import list_schedules

    return list_schedules(db, as_json=json)


@schedules.command
def show(name: Name, /, *, db: Database = DEFAULT, json: Json = False) -> int:
    """Show one schedule and its last slots: what each became, or why it was skipped."""
    from stagerun.cli.scheduling import show_schedule

    return show_schedule(db, name, as_json=json)


@schedules.command
def pause(name: Name, /, *, db: Database = DEFAULT, json: Json = False) -> int:
    """Let no slot come until it is resumed. Runs under way go on."""
    from stagerun.cli.scheduling import pause_schedule

    return pause_schedule(db, name, as_json=json)


@schedules.command
def resume(name: Name, /, *, db: Database = DEFAULT, json: Json = False) -> int:
    """Let slots come again from now on; none is made up for."""
    from stagerun.cli.scheduling import resume_schedule

    return resume_schedule(db, name, as_json=json)


@schedules.command
def forget(name: Name, /, *, db: Database = DEFAULT, json: Json = False) -> int:
    """Forget a schedule that no process serves any more, with its slots. Its runs stay."""
    from stagerun.cli.scheduling import forget_schedule

    return forget_schedule(db, name, as_json=json)


@schedules.command
def trigger(name: Name, /, *, db: Database = DEFAULT, json: Json = False) -> int:
    """Have its run started now, by a process that serves it, paused or not.

    Exit status: 0, also when its `overlap` lets none begin now; 1 when no process has taken it
    within 5 s; 2 when none serves it.
    """
    from stagerun.cli.scheduling import trigger_schedule

    return trigger_schedule(db, name, as_json=json)
