-- Short texts that the node keeps, such as whether it is enabled.
CREATE TABLE notes (
    name TEXT PRIMARY KEY,
    text TEXT NOT NULL
) WITHOUT ROWID;

-- Bookings that a score book beside the ledger is still to be told; a number is never given again.
CREATE TABLE owed_bookings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL,
    side TEXT NOT NULL,
    peer TEXT NOT NULL,
    party TEXT NOT NULL,
    points BIGINT NOT NULL,
    reason TEXT NOT NULL
);
