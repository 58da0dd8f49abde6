-- The second step of the schema: schedules. It adds, and changes nothing that the first one has.

ALTER TABLE schema_steps ADD COLUMN needs INTEGER NOT NULL DEFAULT 1; -- the step that a program
                                         -- must know at least to work with a database that has it

CREATE TABLE schedules (
    schedule   INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    pipeline   TEXT NOT NULL,
    cron       TEXT,
    every      INTEGER,                      -- microseconds
    zone       TEXT NOT NULL,
    overlap    TEXT NOT NULL CHECK (overlap IN ('skip', 'queue', 'cancel_previous')),
    active     INTEGER NOT NULL,             -- runs of it that may be under way at once
    created_at INTEGER NOT NULL,
    declared_by INTEGER,                     -- the owner whose declaration this is
    next_at    INTEGER,                      -- the next slot; moved on in the transaction that
                                             -- decides about it. NULL: it was paused until now
    paused_at  INTEGER,
    fired      INTEGER NOT NULL DEFAULT 0,
    skipped    INTEGER NOT NULL DEFAULT 0,
    missed     INTEGER NOT NULL DEFAULT 0,   -- slots that nobody was there for
    CHECK ((cron IS NULL) <> (every IS NULL))
) STRICT;

-- What became of the last slots, and of each time that somebody triggered one. A row with
-- decided_at is never changed again.
CREATE TABLE slots (
    slot       INTEGER PRIMARY KEY AUTOINCREMENT,
    schedule   INTEGER NOT NULL REFERENCES schedules,
    at         INTEGER NOT NULL,             -- when it was due, or asked for
    asked_by   TEXT,                         -- NULL: its time had come
    missed     INTEGER NOT NULL DEFAULT 0,   -- slots just before it that nobody was there for
    decided_at INTEGER,                      -- NULL: asked for, and nobody has taken it yet
    decision   TEXT CHECK (decision IN ('fired', 'skipped')),
    run        TEXT,                         -- the identifier of the run that it became
    reason     TEXT,                         -- why there is none
    CHECK ((decided_at IS NULL) = (decision IS NULL))
) STRICT;
CREATE INDEX slots_by_schedule ON slots (schedule, slot);
CREATE INDEX slots_asked ON slots (schedule) WHERE decided_at IS NULL;

-- Which processes serve a schedule; those of owners that have ended are void.
CREATE TABLE schedule_owners (
    schedule INTEGER NOT NULL REFERENCES schedules,
    owner    INTEGER NOT NULL REFERENCES owners,
    PRIMARY KEY (schedule, owner)
) STRICT, WITHOUT ROWID;
