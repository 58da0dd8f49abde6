"""The peers: what each is, what it needs, and how much of the work it is given."""

from pathlib import Path

from attrs import evolve, frozen

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
    again: str = ""
    """What its program does when it is started again after a kill."""
    untried: str = ""
    """Why it is not killed, if it is not."""
    goal: float | None = None
    """How many times as fast stagerun shall be, at least."""

    def items(self, asked: int) -> int:
        return max(1, round(asked * self.share))


_NOTHING_STORED = "nothing is stored"
_DBOS = Subject(
    "DBOS, SQLite, serial",
    "dbos_sqlite.py",
    requirements=("dbos==3.4.0", "sqlalchemy==2.1.9"),
    again="the same workflow ids",
)

SUBJECTS = {
    "stagerun": Subject("stagerun", "staged.py", share=20, again="the same key"),
    "dbos": evolve(_DBOS, goal=300),
    "dbos-threads": evolve(
        _DBOS,
        title="DBOS, SQLite, 8 threads",
        variant="threads",
        untried="a trial uses threads for serial, too",
    ),
    "dbos-wal": evolve(
        _DBOS, title="DBOS, SQLite with WAL, serial", variant="wal", share=2, goal=100
    ),
    "huey": Subject(
        "Huey, SQLite, chains",
        "huey_sqlite.py",
        share=2,
        requirements=("huey==3.5.4",),
        again="a consumer, nothing enqueued again",
        goal=15,
    ),
    "prefect": Subject(
        "Prefect 3, ephemeral",
        "prefect_flow.py",
        share=0.2,
        # It does not import with the newest fastapi.
        requirements=("prefect==3.8.8", "fastapi==0.139.2"),
        again="the flow from its beginning",
    ),
    "saq": Subject(
        "SAQ, Redis, chains",
        "saq_redis.py",
        share=2,
        # It imports typing_extensions without asking for it.
        requirements=("saq[redis]==0.26.4", "redis==7.4.1", "typing_extensions==4.16.0"),
        needs_redis=True,
        again="a worker, nothing enqueued again",
    ),
    "pypeln": Subject(
        "pypeln, task mode, nothing stored",
        "pypeln_task.py",
        share=10,
        requirements=("pypeln==0.4.9",),
        untried=_NOTHING_STORED,
    ),
    "gather": Subject(
        "asyncio.gather, nothing stored", "gather.py", share=20, untried=_NOTHING_STORED
    ),
}
