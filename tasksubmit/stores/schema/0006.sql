-- Tasks that are held because their submitter is not trusted: they have left the queue, and keep their places.

ALTER TABLE tasks ADD COLUMN held_at BIGINT;

DROP INDEX tasks_queue;
CREATE INDEX tasks_queue ON tasks (queue_position)
    WHERE side = 'receiver' AND status = 'ACCEPTED' AND held_at IS NULL;
CREATE INDEX tasks_held_places ON tasks (queue_position)
    WHERE side = 'receiver' AND status = 'ACCEPTED' AND held_at IS NOT NULL;
CREATE INDEX tasks_receiver_held_at ON tasks (held_at)
    WHERE side = 'receiver' AND status IN ('ACCEPTED', 'EXECUTING') AND held_at IS NOT NULL;

-- The last turn of each submitter: `--fair-share` begins with place 1048576, so that it alone costs what this index does.
CREATE INDEX tasks_turns ON tasks (peer, queue_position)
    WHERE side = 'receiver' AND status = 'ACCEPTED' AND queue_position >= 1048576;

-- The oldest ended tasks of one peer, and the size of the results of each.
CREATE INDEX tasks_ended_of_peer ON tasks (peer, ended_at) WHERE ended_at IS NOT NULL;
DROP INDEX tasks_result_bytes;
CREATE INDEX tasks_results_of_peer ON tasks (peer, result_bytes) WHERE result_bytes > 0;
