"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import Parameter

__all__ = ["DEFAULT", "Database", "Json", "Labels", "Run", "StatusName"]

Database = Annotated[Path, Parameter(env_var="STAGERUN_DB", help="The database file.")]
Json = Annotated[
    bool,
    Parameter(negative=(), help="Print one JSON document and nothing else on standard output."),
]
Run = Annotated[
    str, Parameter(help="A run's identifier, the beginning of it, or 'latest' for the newest.")
]
Labels = Annotated[
    list[str] | None, Parameter("--label", negative=(), help="NAME=VALUE; may be repeated.")
]
StatusName = Literal[
    "queued", "running", "succeeded", "failed", "cancelled", "timed_out", "interrupted"
]
DEFAULT: Final = Path("stagerun.db")
"""The database, without ``--db`` and ``STAGERUN_DB``."""
