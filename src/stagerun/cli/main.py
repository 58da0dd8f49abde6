"""The command ``stagerun``: what is typed becomes a call, and errors become one sentence."""

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from stagerun.cli.exits import CANCELLED, SUCCEEDED, USAGE
from stagerun.errors import PolicyError, StoreError, UsageError

__all__ = ["call", "main"]

_LEAVING = 5.0
"""Seconds that threads which stages left behind may keep the command from ending."""


def main() -> None:
    """Run the command line of this process and leave with its exit status."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):  # None when closed, replaced by somebody's own
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # see above
    status = call(sys.argv[1:])
    with suppress(OSError, AttributeError):
        sys.stdout.flush()
    last_resort = threading.Timer(_LEAVING, os._exit, (status,))
    last_resort.daemon = True
    last_resort.start()
    sys.exit(status)


def _open_standard_streams() -> None:
    """Open to nowhere what was closed, lest a database or a socket take the number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def call(arguments: Sequence[str]) -> int:
    """Carry out one command and return its exit status. What is the user's mistake is said so."""
    try:
        import cyclopts  # noqa: PLC0415 - it comes with an extra that may be missing
        import rich  # noqa: F401, PLC0415 - likewise
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"stagerun: the command line needs {error.name}: pip install 'stagerun[cli]'\n"
        )
        return USAGE
    from stagerun.cli.commands import app  # noqa: PLC0415 - as above
    from stagerun.cli.terminal import closed_pipes_ignored, complain  # noqa: PLC0415 - as above

    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        with closed_pipes_ignored(sys.stdout):
            return command(*bound.args, **bound.kwargs) or SUCCEEDED
    except cyclopts.CycloptsError as error:
        complain(f"{error} (see `stagerun --help`)")
    except (UsageError, PolicyError, StoreError, UnicodeEncodeError) as error:
        complain(error)
    except KeyboardInterrupt:
        return CANCELLED
    else:
        return SUCCEEDED  # nobody reads the output any more
    return USAGE
