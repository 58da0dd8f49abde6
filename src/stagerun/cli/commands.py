"""The commands' names, options and help. What they do stands elsewhere, imported when called."""

from importlib import metadata
from typing import Annotated, Final, Literal

from cyclopts import App, Parameter

from stagerun.cli.options import DEFAULT, Database, Json, Labels, Run, StatusName
from stagerun.cli.schedules import schedules
from stagerun.cli.values import json_or_text, pairs, positive, seconds
from stagerun.errors import UsageError

__all__ = ["app"]

# ruff: noqa: PLC0415 - `stagerun --help` must not wait for the imports of every command
# ruff: noqa: A002 - `json` and `input` are what the options are called

app: Final = App(
    name="stagerun",
    help="Run pipelines of several stages that always end, and see why they ended as they did.",
    version=metadata.version("stagerun"),
    version_flags=["--version"],
)

app.command(schedules)


@app.command
def run(
    target: str,
    /,
    *,
    input: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    db: Database = DEFAULT,
    json: Json = False,
    param: Annotated[list[str] | None, Parameter(negative=())] = None,
    label: Labels = None,
) -> int:
    """Run a pipeline to its end.

    Ctrl-C cancels the run, a second one leaves at once. Exit status: 0 succeeded, 1 failed, 2 wrong
    usage or input, 3 interrupted, 124 timed out, 130 cancelled.

    Parameters
    ----------
    target
        The pipeline: module:name or file.py:name.
    input
        A file with one JSON value a line, or - for standard input; else the pipeline's own source.
    param
        NAME=VALUE for the source and every stage, VALUE as JSON or else as text; may be repeated.
    """
    from stagerun.cli.running import run_target

    return run_target(
        target,
        input_=input,
        database=db,
        as_json=json,
        params={name: json_or_text(value) for name, value in pairs("--param", param).items()},
        labels=pairs("--label", label),
    )


@app.command
def resume(
    run: Run,
    target: str | None = None,
    /,
    *,
    failed: Annotated[bool, Parameter(negative=())] = False,
    changed: Literal["refuse", "repeat"] = "refuse",
    input: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    db: Database = DEFAULT,
    json: Json = False,
) -> int:
    """Go on with a run that has ended: only what has no final outcome runs again.

    Parameters
    ----------
    target
        Its pipeline, module:name or file.py:name; else the one it was started with.
    failed
        Also run again what failed, timed out or crashed.
    changed
        When stages have changed since: refuse, or repeat from the first changed one on.
    input
        The file that gave the items, if the run was started with one.
    """
    from stagerun.cli.running import resume_run

    return resume_run(
        run,
        target,
        failed=failed,
        changed=changed,
        input_=input,
        database=db,
        as_json=json,
    )


@app.command
def runs(
    *,
    status: StatusName | None = None,
    pipeline: str | None = None,
    label: Labels = None,
    older_than: str | None = None,
    finished_since: str | None = None,
    limit: int = 50,
    db: Database = DEFAULT,
    json: Json = False,
) -> int:
    """List runs, the newest first.

    Parameters
    ----------
    status
        Only runs that stand there.
    pipeline
        Only runs of that pipeline.
    older_than
        Only runs created longer ago, for example 15m.
    finished_since
        Only runs that ended in the last time, for example 24h.
    limit
        At most so many.
    """
    from stagerun.cli.reading import list_runs

    return list_runs(
        db,
        status=status,
        pipeline=pipeline,
        labels=pairs("--label", label),
        older_than=None if older_than is None else seconds("--older-than", older_than),
        finished_since=(
            None if finished_since is None else seconds("--finished-since", finished_since)
        ),
        limit=positive("--limit", limit),
        as_json=json,
    )


@app.command
def show(run: Run, /, *, db: Database = DEFAULT, json: Json = False) -> int:
    """Show all about one run: its status, stages, failures and last log lines."""
    from stagerun.cli.reading import show_run

    return show_run(db, run, as_json=json)


@app.command
def watch(run: Run, /, *, db: Database = DEFAULT, json: Json = False) -> int:
    """Watch a run until it ends; the exit status is that of `stagerun run`.

    Ctrl-C detaches (exit status 130) and leaves the run alone.
    """
    from stagerun.cli.following import watch_run

    return watch_run(db, run, as_json=json)


@app.command
def serve(
    *target: str,
    db: Database = DEFAULT,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: Annotated[str | None, Parameter(env_var="STAGERUN_TOKEN")] = None,
    allow_host: Annotated[list[str] | None, Parameter(negative=())] = None,
    alerts: str | None = None,
) -> int:
    """Serve the dashboard and the API, and run what is started there, until Ctrl-C or SIGTERM.

    Both shut down: streams and requests end within 1 s, runs within their grace, `interrupted`.

    Parameters
    ----------
    target
        The pipelines that may be started: module:name or file.py:name. None: runs are only looked
        at, cancelled and explained.
    host
        The address to listen at. One that other machines reach needs a token.
    port
        The port; 0 takes one that is free.
    token
        What changes something must bring it, and what comes from elsewhere; better given by its
        variable, for others see a command line. Without one it stands in the file DB.token.
    allow_host
        A name under which requests may ask for this server; may be repeated.
    alerts
        Who is told when runs end badly or stand still: module:name or file.py:name of an Alerts.
    """
    from stagerun.cli.serving import serve_targets

    if not 0 <= port < 2**16:
        raise UsageError(f"--port must be from 0 to 65535, got {port}")
    return serve_targets(
        target,
        database=db,
        alerts=alerts,
        host=host,
        port=port,
        token=token or None,
        allowed=allow_host or (),
    )


@app.command
def logs(
    run: Run,
    /,
    *,
    since: str | None = None,
    limit: int = 1000,
    follow: Annotated[bool, Parameter(["--follow", "-f"], negative=())] = False,
    db: Database = DEFAULT,
    json: Json = False,
) -> int:
    """Print the log lines kept with a run.

    Parameters
    ----------
    since
        Only lines of the last time, for example 10m.
    limit
        Only the last so many.
    follow
        Go on with new lines until the run ends; with --json one document a line.
    """
    from stagerun.cli.following import print_logs

    return print_logs(
        db,
        run,
        since=None if since is None else seconds("--since", since),
        limit=positive("--limit", limit),
        follow=follow,
        as_json=json,
    )


@app.command
def stats(
    pipeline: str, /, *, since: str = "24h", db: Database = DEFAULT, json: Json = False
) -> int:
    """Print how long a pipeline's runs took and how they ended.

    Parameters
    ----------
    since
        Of runs that ended in the last time, for example 7d.
    """
    from stagerun.cli.reading import show_statistics

    return show_statistics(db, pipeline, since=seconds("--since", since), as_json=json)


@app.command
def why(run: Run, /, *, db: Database = DEFAULT, json: Json = False) -> int:
    """Say why a run does not move: what it waits for, where, and what will end the wait.

    Its own process answers, also while a stage blocks it. Of a run that has ended it tells how.
    """
    from stagerun.cli.asking import explain_run

    return explain_run(db, run, as_json=json)


@app.command
def cancel(
    run: Run,
    /,
    *,
    reason: str | None = None,
    wait: bool = True,
    db: Database = DEFAULT,
    json: Json = False,
) -> int:
    """Cancel a run of any process; the exit status is that of its ending.

    Without an ending it is 1, or with --no-wait 0.

    Parameters
    ----------
    reason
        One sentence for people; it stands in the run's message.
    wait
        Wait for the ending: for the run's grace and 5 s at most.
    """
    from stagerun.cli.asking import cancel_run

    return cancel_run(db, run, reason=reason, wait=wait, as_json=json)


@app.command
def recover(
    *,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    db: Database = DEFAULT,
    json: Json = False,
) -> int:
    """Settle the runs of dead processes now, and list them.

    Parameters
    ----------
    dry_run
        Only list them.
    """
    from stagerun.cli.tending import recover_runs

    return recover_runs(db, dry_run=dry_run, as_json=json)


@app.command
def owners(*, limit: int = 20, db: Database = DEFAULT, json: Json = False) -> int:
    """List the processes that had the database open, the newest first: the restarts.

    Parameters
    ----------
    limit
        At most so many.
    """
    from stagerun.cli.tending import list_owners

    return list_owners(db, limit=positive("--limit", limit), as_json=json)


@app.command
def doctor(*, db: Database = DEFAULT, json: Json = False) -> int:
    """Check whether what stands in a database can be true; it changes nothing.

    Exit status: 0 sound, 1 something was found, 2 there is no such file.
    """
    from stagerun.cli.tending import doctor_database

    return doctor_database(db, as_json=json)


@app.command
def prune(
    *,
    older_than: str | None = None,
    keep: int | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    db: Database = DEFAULT,
    json: Json = False,
) -> int:
    """Delete ended runs, by what is given here or else by STAGERUN_KEEP_RUNS and _DAYS.

    Parameters
    ----------
    older_than
        Runs that ended longer ago, for example 30d.
    keep
        All but the newest so many.
    dry_run
        Only list them.
    """
    from stagerun.cli.tending import prune_database

    return prune_database(
        db,
        older_than=None if older_than is None else seconds("--older-than", older_than),
        keep=None if keep is None else positive("--keep", keep),
        dry_run=dry_run,
        as_json=json,
    )
