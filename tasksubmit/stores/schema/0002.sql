-- Leases, what was given up, the story of each task, and what retention leaves.

ALTER TABLE tasks ADD COLUMN max_attempts INTEGER NOT NULL DEFAULT 1;
ALTER TABLE tasks ADD COLUMN lease_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN lease_expires_at BIGINT;
ALTER TABLE tasks ADD COLUMN is_lease_bound BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE tasks ADD COLUMN put_back_at BIGINT;
ALTER TABLE tasks ADD COLUMN heard_at BIGINT;
ALTER TABLE tasks ADD COLUMN ended_at BIGINT;
ALTER TABLE tasks ADD COLUMN delivery_given_up_at BIGINT;
ALTER TABLE tasks ADD COLUMN result_sha256 TEXT NOT NULL DEFAULT '';

-- What is there when this is applied has all of its time from then on.
UPDATE tasks SET lease_ms = 86400000, lease_expires_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000 + 86400000
    WHERE side = 'receiver' AND status = 'EXECUTING';
UPDATE tasks SET heard_at = answered_at
    WHERE side = 'submitter' AND status IN ('NEW', 'ACCEPTED', 'EXECUTING') AND features LIKE '%"ack"%';
UPDATE tasks SET ended_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000
    WHERE status IN ('DECLINED', 'CANCELLED', 'EXPIRED', 'SUCCEEDED') OR (side = 'submitter' AND status = 'COMPLETED');

CREATE INDEX tasks_receiver_lease_expires_at ON tasks (lease_expires_at)
    WHERE side = 'receiver' AND status IN ('EXECUTING') AND lease_expires_at IS NOT NULL;
-- Also the order in which what was put back is taken again.
CREATE INDEX tasks_receiver_put_back_at ON tasks (put_back_at)
    WHERE side = 'receiver' AND status IN ('EXECUTING') AND put_back_at IS NOT NULL;
CREATE INDEX tasks_submitter_heard_at ON tasks (heard_at)
    WHERE side = 'submitter' AND status IN ('NEW', 'ACCEPTED', 'EXECUTING') AND heard_at IS NOT NULL;
CREATE INDEX tasks_ended_at ON tasks (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX tasks_result_bytes ON tasks (result_bytes) WHERE result_bytes > 0;

ALTER TABLE deliveries ADD COLUMN given_up_at BIGINT;
UPDATE deliveries SET created_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000;
CREATE INDEX deliveries_by_age ON deliveries (created_at) WHERE given_up_at IS NULL;

-- One line each; task is the number of the task.
CREATE TABLE events (
    task INTEGER NOT NULL,
    line INTEGER NOT NULL,
    at BIGINT NOT NULL,
    name TEXT NOT NULL,
    by TEXT NOT NULL,
    status TEXT NOT NULL,
    detail TEXT NOT NULL,
    times INTEGER NOT NULL,
    last_at BIGINT,
    PRIMARY KEY (task, line)
) WITHOUT ROWID;

CREATE TABLE tombstones (
    task_id TEXT NOT NULL,
    side TEXT NOT NULL,
    peer TEXT NOT NULL,
    status TEXT NOT NULL,
    description_sha256 TEXT NOT NULL,
    reward BIGINT,
    removed_at BIGINT NOT NULL,
    PRIMARY KEY (task_id, side, peer)
) WITHOUT ROWID;
CREATE INDEX tombstones_by_age ON tombstones (removed_at);
