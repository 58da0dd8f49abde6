"""The peers: what each is, what it needs, and how much of the work it is given."""

from pathlib import Path

from attrs import frozen

PROGRAMS = Path(__file__).parent / "programs"


@frozen
class Subject:
    title: str
    program: str
    share: float = 1.0
    """Of the items that were asked for: slow ones have fewer, so that all take a while."""
    requirements: tuple[str, ...] = ()
    """What is installed for it; nothing means that it runs where the benchmark does."""
    variant: str = ""
    needs_redis: bool = False
    untried: str = ""
    """Why it is not killed, if it is not."""
    goal: float | None = None
    """How many times as fast stagerun shall be, at least."""

    def items(self, asked: int) -> int:
        return max(1, round(asked * self.share))


_NOTHING_STORED = "nothing is stored"
_DBOS = ("dbos==3.4.0", "sqlalchemy==2.1.9")

SUBJECTS = {
    "stagerun": Subject("stagerun", "staged.py", 20),
    "dbos": Subject("DBOS, SQLite, serial", "dbos_sqlite.py", 1, _DBOS, goal=300),
    "dbos-threads": Subject(
        "DBOS, SQLite, 8 threads",
        "dbos_sqlite.py",
        1,
        _DBOS,
        "threads",
        untried="as serial: both are started alike for it",
    ),
    "dbos-wal": Subject(
        "DBOS, SQLite with WAL, serial", "dbos_sqlite.py", 2, _DBOS, "wal", goal=100
    ),
    "huey": Subject("Huey, SQLite, chains", "huey_sqlite.py", 2, ("huey==3.5.4",), goal=15),
    # Prefect 3.8.8 does not import with the newest fastapi.
    "prefect": Subject(
        "Prefect 3, ephemeral", "prefect_flow.py", 0.2, ("prefect==3.8.8", "fastapi==0.139.2")
    ),
    # SAQ imports typing_extensions without asking for it.
    "saq": Subject(
        "SAQ, Redis, chains",
        "saq_redis.py",
        2,
        ("saq[redis]==0.26.4", "redis==7.4.1", "typing_extensions==4.16.0"),
        needs_redis=True,
    ),
    "pypeln": Subject(
        "pypeln, task mode, nothing stored",
        "pypeln_task.py",
        10,
        ("pypeln==0.4.9",),
        untried=_NOTHING_STORED,
    ),
    "gather": Subject("asyncio.gather, nothing stored", "gather.py", 20, untried=_NOTHING_STORED),
}
