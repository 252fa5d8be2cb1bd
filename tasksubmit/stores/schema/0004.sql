-- The submitter's deadlines and cancellations, and the reason for a final status in tombstones.

ALTER TABLE tasks ADD COLUMN retry_after_s BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN deliver_by BIGINT;
ALTER TABLE tasks ADD COLUMN submission_begun_at BIGINT;
ALTER TABLE tasks ADD COLUMN undecided_since BIGINT;
ALTER TABLE tasks ADD COLUMN news_at BIGINT;
ALTER TABLE tasks ADD COLUMN cancel_outcome TEXT NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN cancel_ends_at BIGINT;

-- Of a submission that was tried it is not known whether the receiver has it.
UPDATE tasks SET submission_begun_at = created_at
    WHERE side = 'submitter' AND NOT (answered_at IS NULL AND status = 'NEW' AND EXISTS (
        SELECT 1 FROM deliveries WHERE deliveries.task_id = tasks.task_id AND deliveries.side = tasks.side
            AND deliveries.peer = tasks.peer AND kind = 'submission' AND attempts = 0 AND sent_at IS NULL));
UPDATE tasks SET deliver_by = expires_at WHERE side = 'submitter' AND status = 'NEW' AND answered_at IS NULL;
UPDATE tasks SET undecided_since = CAST(strftime('%s', 'now') AS INTEGER) * 1000
    WHERE side = 'submitter' AND status = 'NEW' AND (answered_at IS NOT NULL OR code = 'unconfirmed');
UPDATE tasks SET news_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000
    WHERE side = 'submitter' AND status IN ('NEW', 'ACCEPTED', 'EXECUTING');
UPDATE tasks SET cancel_outcome = 'cancelled_by_submitter' WHERE cancel_requested_at IS NOT NULL;

DROP INDEX tasks_submitter_created_at;
CREATE INDEX tasks_submitter_created_at ON tasks (created_at)
    WHERE side = 'submitter' AND status IN ('NEW') AND cancel_requested_at IS NULL AND answered_at IS NULL
        AND deliver_by IS NULL;
CREATE INDEX tasks_submitter_deliver_by ON tasks (deliver_by)
    WHERE side = 'submitter' AND status IN ('NEW') AND cancel_requested_at IS NULL AND deliver_by IS NOT NULL;
CREATE INDEX tasks_submitter_undecided_since ON tasks (undecided_since)
    WHERE side = 'submitter' AND status IN ('NEW') AND cancel_requested_at IS NULL AND undecided_since IS NOT NULL;
CREATE INDEX tasks_submitter_news_at ON tasks (news_at)
    WHERE side = 'submitter' AND status IN ('NEW', 'ACCEPTED', 'EXECUTING') AND cancel_requested_at IS NULL
        AND news_at IS NOT NULL;
CREATE INDEX tasks_submitter_cancel_ends_at ON tasks (cancel_ends_at)
    WHERE side = 'submitter' AND status IN ('NEW', 'ACCEPTED', 'EXECUTING') AND cancel_ends_at IS NOT NULL;

-- Submissions have a deadline of their own, and are not abandoned before it.
UPDATE tasks SET delivery_given_up_at = NULL WHERE side = 'submitter' AND EXISTS (
    SELECT 1 FROM deliveries WHERE deliveries.task_id = tasks.task_id AND deliveries.side = tasks.side
        AND deliveries.peer = tasks.peer AND kind = 'submission' AND given_up_at IS NOT NULL);
UPDATE deliveries SET given_up_at = NULL, attempts = 0, ready_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000
    WHERE kind = 'submission' AND given_up_at IS NOT NULL;
-- After a cancellation request nothing is submitted.
DELETE FROM deliveries WHERE kind = 'submission' AND EXISTS (
    SELECT 1 FROM tasks WHERE tasks.task_id = deliveries.task_id AND tasks.side = deliveries.side
        AND tasks.peer = deliveries.peer AND cancel_requested_at IS NOT NULL);

-- Without sent_at, which submission_begun_at replaces. Of the messages of a task only the first that was not abandoned
-- may be sent.
ALTER TABLE deliveries RENAME TO old_deliveries;
DROP INDEX deliveries_ready;
DROP INDEX deliveries_of_task;
DROP INDEX deliveries_by_age;
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    side TEXT NOT NULL,
    peer TEXT NOT NULL,
    task_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    ready_at BIGINT,
    attempts INTEGER NOT NULL,
    last_error TEXT NOT NULL,
    given_up_at BIGINT
);
INSERT INTO deliveries
    SELECT id, side, peer, task_id, kind, payload, created_at,
        CASE WHEN given_up_at IS NULL AND id = (
            SELECT min(first.id) FROM old_deliveries AS first WHERE first.task_id = old_deliveries.task_id
                AND first.side = old_deliveries.side AND first.peer = old_deliveries.peer AND first.given_up_at IS NULL
        ) THEN coalesce(ready_at, CAST(strftime('%s', 'now') AS INTEGER) * 1000) END,
        attempts, last_error, given_up_at
    FROM old_deliveries;
DROP TABLE old_deliveries;
CREATE INDEX deliveries_ready ON deliveries (peer, ready_at) WHERE ready_at IS NOT NULL;
CREATE INDEX deliveries_of_task ON deliveries (task_id, side, peer, id);
CREATE INDEX deliveries_by_age ON deliveries (created_at) WHERE given_up_at IS NULL AND kind <> 'submission';

ALTER TABLE tombstones ADD COLUMN outcome TEXT NOT NULL DEFAULT '';
ALTER TABLE tombstones ADD COLUMN error TEXT NOT NULL DEFAULT '';
ALTER TABLE tombstones ADD COLUMN justification TEXT NOT NULL DEFAULT '';
