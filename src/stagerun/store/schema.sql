-- The first step of the schema. Later steps stand in files of their own and are never edited.
-- Times are integer microseconds, UTC. Values are msgpack. Outcomes are the numbers of Outcome.

CREATE TABLE owners (
    owner        INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,       -- random, made anew at every opening; the file's name
    device       INTEGER,                    -- which file is locked beside the database;
    inode        INTEGER,                    -- NULL: a database in memory
    pid          INTEGER NOT NULL,           -- for people only; nothing is decided by it
    host         TEXT NOT NULL,              -- likewise
    revision     TEXT,
    started_at   INTEGER NOT NULL,
    alive_at     INTEGER NOT NULL,           -- written by the store's thread, always
    tick_at      INTEGER NOT NULL,           -- the event loop's last sign of life, as of alive_at
    ended_at     INTEGER,                    -- NULL: open, or died and not yet settled
    ended_by     INTEGER,                    -- itself, or the owner that settled it
    ended_cause  TEXT CHECK (ended_cause IN ('closed', 'dead', 'lease')),
    memory_used  INTEGER,                    -- bytes, last seen, against its limit
    memory_limit INTEGER,
    commits      INTEGER NOT NULL DEFAULT 0, -- its acknowledged ones: compared after a disk's error
    CHECK ((ended_at IS NULL) = (ended_cause IS NULL))
) STRICT;
CREATE INDEX owners_open ON owners (owner) WHERE ended_at IS NULL;

CREATE TABLE runs (
    run           INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,      -- 128 bits; what everybody outside sees
    pipeline      TEXT NOT NULL,
    target        TEXT,                      -- module:name or file.py:name, when one is known
    generation    INTEGER NOT NULL,          -- the current one
    created_at    INTEGER NOT NULL,
    params        BLOB NOT NULL,
    source        TEXT NOT NULL,             -- stored | function | iterator | none
    own_source    INTEGER NOT NULL DEFAULT 0, -- 1: the pipeline's own, so that anybody has it
    source_length INTEGER,                   -- items the source has; NULL while unknown
    events        INTEGER NOT NULL DEFAULT 0, -- the sequence number of the last event
    events_pruned INTEGER NOT NULL DEFAULT 0, -- how many of them are no longer kept
    request_key   TEXT UNIQUE,               -- makes a repeated start find the first one
    concurrency_key TEXT,                    -- runs with the same one share so many places;
    concurrency   INTEGER,                   -- beyond them a run stays queued
    on_interrupt  TEXT NOT NULL DEFAULT 'settle', -- settle | resume: when its process died
    resumes       INTEGER NOT NULL DEFAULT 0 -- resumes of that sort that are left
) STRICT;
CREATE INDEX runs_by_age ON runs (created_at, run);
CREATE INDEX runs_by_pipeline ON runs (pipeline, run);
CREATE INDEX runs_resuming ON runs (run) WHERE on_interrupt = 'resume';
CREATE INDEX runs_by_concurrency ON runs (concurrency_key) WHERE concurrency_key IS NOT NULL;

CREATE TABLE labels (
    run   INTEGER NOT NULL REFERENCES runs,
    name  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX labels_by_value ON labels (name, value, run);

-- Invariant: a row with finished_at is never changed again (every UPDATE asks for status).
CREATE TABLE generations (
    run          INTEGER NOT NULL REFERENCES runs,
    generation   INTEGER NOT NULL,
    owner        INTEGER REFERENCES owners,
    opened_by    TEXT NOT NULL DEFAULT 'start', -- start | resume | resume_failed | recovery
    status       TEXT NOT NULL CHECK (status IN ('queued', 'running', 'succeeded', 'failed',
                                                 'cancelled', 'timed_out', 'interrupted')),
    cause        TEXT,
    message      TEXT,
    error_code   TEXT,
    created_at   INTEGER NOT NULL,
    started_at   INTEGER,
    updated_at   INTEGER NOT NULL,
    deadline_at  INTEGER,                    -- wall time, put right with each beat when a clock
                                             -- jumped or the machine slept; NULL: switched off
    grace        INTEGER NOT NULL DEFAULT 10000000, -- microseconds beyond it for the run's stop
    moved_at     INTEGER,                    -- the last outcome, report or heartbeat
    requested_at INTEGER,                    -- when a cancellation was asked for
    stopped_at   INTEGER,                    -- when the work had really stopped
    finished_at  INTEGER,
    ended_by     INTEGER,                    -- the owner that wrote the ending
    survivors    TEXT,                       -- JSON: what still ran when the generation ended
    percent      REAL,
    step         TEXT,
    note         TEXT,                       -- the last report's message
    done         REAL,
    total        REAL,
    CHECK ((finished_at IS NULL) = (status IN ('queued', 'running'))),
    CHECK ((finished_at IS NULL) = (cause IS NULL)),
    PRIMARY KEY (run, generation)
) STRICT, WITHOUT ROWID;
CREATE INDEX generations_by_status ON generations (status, run);
CREATE INDEX generations_by_owner ON generations (owner, status, run);
CREATE INDEX generations_again ON generations (run, generation) WHERE generation > 1;

-- Invariant: accepted >= the six outcomes + in_flight; what remains is waiting.
CREATE TABLE stages (
    run         INTEGER NOT NULL REFERENCES runs,
    generation  INTEGER NOT NULL,
    stage       INTEGER NOT NULL,
    name        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    version     INTEGER NOT NULL,
    workers     INTEGER NOT NULL DEFAULT 1,  -- as they stood for this generation: what is shown
    deadline    INTEGER,                     -- beside what was measured; NULL: switched off
    since        INTEGER NOT NULL DEFAULT 1, -- the first generation whose outcomes count here
    failed_since INTEGER NOT NULL DEFAULT 1, -- the same of failed, timed_out and crashed
    status      TEXT NOT NULL DEFAULT 'waiting',
    started_at  INTEGER,
    finished_at INTEGER,
    accepted    INTEGER NOT NULL DEFAULT 0,
    ok          INTEGER NOT NULL DEFAULT 0,
    failed      INTEGER NOT NULL DEFAULT 0,
    timed_out   INTEGER NOT NULL DEFAULT 0,
    cancelled   INTEGER NOT NULL DEFAULT 0,
    skipped     INTEGER NOT NULL DEFAULT 0,
    crashed     INTEGER NOT NULL DEFAULT 0,
    in_flight   INTEGER NOT NULL DEFAULT 0,
    error_code    TEXT,                      -- the stage's last failure
    error_message TEXT,
    CHECK (accepted >= ok + failed + timed_out + cancelled + skipped + crashed + in_flight),
    PRIMARY KEY (run, generation, stage)
) STRICT, WITHOUT ROWID;

-- One outcome per item, stage and generation; insert-only.
CREATE TABLE items (
    run        INTEGER NOT NULL,
    stage      INTEGER NOT NULL,
    item       INTEGER NOT NULL,             -- counts from 1 at the source and where items are made
    generation INTEGER NOT NULL,
    outcome    INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    elapsed    INTEGER NOT NULL,             -- microseconds from the first start, pauses included
    result     BLOB,                         -- when small; else in results
    PRIMARY KEY (run, stage, item, generation)
) STRICT, WITHOUT ROWID;
-- What is looked for is rarely `ok`: so most rows cost nothing here.
CREATE INDEX items_by_outcome ON items (run, stage, outcome, item, generation) WHERE outcome <> 0;

CREATE TABLE results (
    run        INTEGER NOT NULL,
    stage      INTEGER NOT NULL,
    item       INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    value      BLOB NOT NULL,
    PRIMARY KEY (run, stage, item, generation)
) STRICT;

CREATE TABLE failures (
    run        INTEGER NOT NULL,
    stage      INTEGER NOT NULL,
    item       INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    cause      TEXT NOT NULL,
    message    TEXT NOT NULL,
    error      TEXT,
    detail     TEXT,
    late       INTEGER,                      -- microseconds that cut work went on after its end
    PRIMARY KEY (run, stage, item, generation)
) STRICT, WITHOUT ROWID;

-- Items that were made rather than passed on, by the stage that receives them; insert-only.
-- From the source: parent 0, the position. From a stage: its item, and the ordinal or the key.
-- A group of a collect stage: parent 0, the group's key; its number is above those of children.
CREATE TABLE emissions (
    run         INTEGER NOT NULL,
    stage       INTEGER NOT NULL,
    item        INTEGER NOT NULL,            -- never given twice, in no generation
    generation  INTEGER NOT NULL,            -- 0: stored before the run began
    parent      INTEGER NOT NULL,
    ident       ANY NOT NULL,
    fingerprint BLOB,                        -- NULL: from the source
    value       BLOB NOT NULL,
    PRIMARY KEY (run, stage, item)
) STRICT, WITHOUT ROWID;
CREATE INDEX emissions_by_parent ON emissions (run, stage, parent) WHERE fingerprint IS NOT NULL;

-- Which upstream items belong to which group of a collect stage; insert-only.
CREATE TABLE members (
    run        INTEGER NOT NULL,
    stage      INTEGER NOT NULL,
    item       INTEGER NOT NULL,
    generation INTEGER NOT NULL,             -- the outcome's, or the stage's since if that is later
    key        BLOB NOT NULL,
    PRIMARY KEY (run, stage, item, generation)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_key ON members (run, stage, key, item);

-- Which item holds a key in a stage that declares one. Claims from before the stage's since, and of
-- superseded items, are void; a new claim replaces them.
CREATE TABLE keys (
    run        INTEGER NOT NULL,
    stage      INTEGER NOT NULL,
    key        BLOB NOT NULL,
    generation INTEGER NOT NULL,
    item       INTEGER NOT NULL,
    PRIMARY KEY (run, stage, key)
) STRICT, WITHOUT ROWID;

-- Items whose parent was repeated and gave something else; their outcomes no longer count.
-- The stage is the one at whose door the item got its number.
CREATE TABLE superseded (
    run   INTEGER NOT NULL,
    stage INTEGER NOT NULL,
    item  INTEGER NOT NULL,
    PRIMARY KEY (run, stage, item)
) STRICT, WITHOUT ROWID;

-- Items that were under way when their process died; insert-only. An item that was there again and
-- again, and alone, ends `crashed`.
CREATE TABLE deaths (
    run        INTEGER NOT NULL,
    stage      INTEGER NOT NULL,
    item       INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    among      INTEGER NOT NULL,             -- how many items were under way in that process
    at         INTEGER NOT NULL,
    PRIMARY KEY (run, stage, item, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    run   INTEGER NOT NULL,
    seq   INTEGER NOT NULL,                  -- gap-free per run, given in the same transaction
    generation INTEGER NOT NULL,
    at    INTEGER NOT NULL,
    kind  TEXT NOT NULL,                     -- run | stage | log | progress | survivor
    level TEXT,
    stage TEXT,
    item  INTEGER,
    body  TEXT NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE requests (
    request  INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice: a late answer must not stray
    run      INTEGER NOT NULL REFERENCES runs,
    generation INTEGER NOT NULL,             -- the one that is spoken to; void for a later one
    kind     TEXT NOT NULL,                  -- cancel | resume | why
    body     TEXT NOT NULL,                  -- JSON: by whom, and the reason
    asked_at INTEGER NOT NULL,
    taken_at INTEGER,                        -- when the run's owner has heard of it
    done_at  INTEGER,
    answer   TEXT                            -- JSON
) STRICT;
CREATE INDEX requests_open ON requests (request) WHERE done_at IS NULL;
CREATE INDEX requests_by_run ON requests (run, generation);

-- Pruned runs whose rows are still being deleted, a few at a time. Their heads are gone already.
CREATE TABLE pruned (
    run INTEGER PRIMARY KEY
) STRICT;

-- For people who query by hand. SQL cannot look at the lock of a run's process, so where nobody has
-- settled it yet and it has shown no life for 5 s, status and verdict say `silent`: it may be dead,
-- stopped, or wait for the write lock. `stagerun show` can tell which.
CREATE VIEW run_overview AS
SELECT r.id, r.pipeline, g.generation,
       CASE WHEN g.finished_at IS NOT NULL THEN g.status
            WHEN o.ended_at IS NOT NULL THEN 'interrupted'
            WHEN o.alive_at < (julianday('now') - 2440587.5) * 86400e6 - 5e6 THEN 'silent'
            ELSE g.status END AS status,
       g.cause, g.message, g.percent,
       CASE WHEN g.finished_at IS NOT NULL THEN 'ended'
            WHEN o.ended_at IS NOT NULL THEN 'dead'
            WHEN o.alive_at < (julianday('now') - 2440587.5) * 86400e6 - 5e6 THEN 'silent'
            WHEN o.alive_at - o.tick_at > 1000000 THEN 'blocked'
            WHEN g.status = 'queued' THEN 'queued'
            ELSE 'alive' END AS verdict,
       strftime('%Y-%m-%dT%H:%M:%SZ', r.created_at / 1000000, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', g.updated_at / 1000000, 'unixepoch') AS updated_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', g.finished_at / 1000000, 'unixepoch') AS finished_at
FROM runs r JOIN generations g ON g.run = r.run AND g.generation = r.generation
LEFT JOIN owners o ON o.owner = g.owner;

CREATE VIEW item_overview AS
SELECT r.id AS run, i.generation, s.name AS stage, i.item,
       CASE i.outcome WHEN 0 THEN 'ok' WHEN 1 THEN 'failed' WHEN 2 THEN 'timed_out'
                      WHEN 3 THEN 'cancelled' WHEN 4 THEN 'skipped' ELSE 'crashed' END AS outcome,
       i.attempts, i.elapsed / 1e6 AS seconds, f.cause, f.message
FROM items i
JOIN runs r ON r.run = i.run
JOIN stages s ON s.run = i.run AND s.generation = i.generation AND s.stage = i.stage
LEFT JOIN failures f ON f.run = i.run AND f.stage = i.stage AND f.item = i.item
                    AND f.generation = i.generation;
