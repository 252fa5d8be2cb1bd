-- The last turn of each submitter: `--fair-share` begins with place 1048576, so that it alone costs what this index does.
CREATE INDEX tasks_turns ON tasks (peer, queue_position)
    WHERE side = 'receiver' AND status = 'ACCEPTED' AND queue_position >= 1048576;
