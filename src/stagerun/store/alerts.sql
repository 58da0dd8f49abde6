-- The third step of the schema: alerts. It adds, and changes nothing: programs that know only the
-- first step go on with the database, and what their runs come to is told as well.

-- Who listens: a row for each name of alerts. Its version goes up with whatever is raised, so that
-- of several processes that have seen the same only one raises it.
CREATE TABLE alert_books (
    name     TEXT PRIMARY KEY,
    version  INTEGER NOT NULL DEFAULT 0,
    ending   INTEGER NOT NULL,               -- the last one of endings that it has looked at
    window   TEXT NOT NULL,                  -- JSON: since when is counted, and what: told and held
    looked_at INTEGER NOT NULL               -- when somebody has served it last, within an hour
) STRICT, WITHOUT ROWID;

-- Which owners serve a name, and as what: a digest of their rules and of the names of their sinks.
-- Those that live have the same one. Rows of owners that have ended mean nothing.
CREATE TABLE alert_listeners (
    name        TEXT NOT NULL REFERENCES alert_books,
    owner       INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    PRIMARY KEY (name, owner)
) STRICT, WITHOUT ROWID;

-- Generations that have ended, in the order in which their endings were committed, as long as
-- somebody has not looked at them. Whoever ends a run in whichever way puts it in line.
CREATE TABLE endings (
    ending     INTEGER PRIMARY KEY AUTOINCREMENT,
    run        INTEGER NOT NULL,
    generation INTEGER NOT NULL
) STRICT;
CREATE TRIGGER ended_later AFTER UPDATE OF finished_at ON generations
WHEN NEW.finished_at IS NOT NULL AND OLD.finished_at IS NULL
     AND EXISTS (SELECT 1 FROM alert_books)
BEGIN
    INSERT INTO endings (run, generation) VALUES (NEW.run, NEW.generation);
END;
CREATE TRIGGER ended_at_once AFTER INSERT ON generations
WHEN NEW.finished_at IS NOT NULL AND EXISTS (SELECT 1 FROM alert_books)
BEGIN
    INSERT INTO endings (run, generation) VALUES (NEW.run, NEW.generation);
END;

-- What lasts and has been told: a run that is stalled, for example. Until it has not been seen for
-- a while it is not told again.
CREATE TABLE alert_episodes (
    name    TEXT NOT NULL REFERENCES alert_books,
    key     TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (name, key)
) STRICT, WITHOUT ROWID;

-- One delivery: an alert and a sink. Open until delivered_at or given_up_at.
CREATE TABLE alerts (
    alert         INTEGER PRIMARY KEY,
    id            TEXT NOT NULL,             -- of the alert, the same for all its sinks
    name          TEXT NOT NULL,
    sink          TEXT NOT NULL,
    rule          TEXT NOT NULL,
    body          TEXT NOT NULL,             -- JSON: the alert as it is sent, without secrets
    raised_at     INTEGER NOT NULL,
    tries         INTEGER NOT NULL DEFAULT 0,
    next_try_at   INTEGER NOT NULL,
    claimed_by    INTEGER,                   -- the owner that delivers it just now, until
    claimed_until INTEGER,                   -- then; sooner when that owner has ended
    delivered_at  INTEGER,
    given_up_at   INTEGER,
    error         TEXT,                      -- why the last try failed
    UNIQUE (id, sink)
) STRICT;
CREATE INDEX alerts_open ON alerts (name, sink, next_try_at)
    WHERE delivered_at IS NULL AND given_up_at IS NULL;
CREATE INDEX alerts_waiting ON alerts (name, raised_at)
    WHERE delivered_at IS NULL AND given_up_at IS NULL;
CREATE INDEX alerts_by_age ON alerts (raised_at);
