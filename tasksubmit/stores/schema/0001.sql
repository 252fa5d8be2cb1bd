-- Times are integer milliseconds since 1970; addresses are their canonical text.

-- Whose records these are: they make no sense under another address.
CREATE TABLE owner (
    address TEXT PRIMARY KEY
);

CREATE TABLE tasks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    revision INTEGER NOT NULL,
    side TEXT NOT NULL,
    peer TEXT NOT NULL,
    task_id TEXT NOT NULL,
    description TEXT NOT NULL,
    status TEXT NOT NULL,
    justification TEXT NOT NULL,
    outcome TEXT NOT NULL,
    error TEXT NOT NULL,
    code TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    accepted_at BIGINT,
    staged_at BIGINT,
    queue_position BIGINT,
    execute_started_at BIGINT,
    attempt INTEGER NOT NULL,
    completed_at BIGINT,
    time_idle_ms BIGINT NOT NULL,
    time_staged_ms BIGINT NOT NULL,
    time_cpu_ms BIGINT NOT NULL,
    expires_at BIGINT,
    result_due_at BIGINT,
    answered_at BIGINT,
    cancel_requested_at BIGINT,
    succeeded_heard BOOLEAN NOT NULL,
    result_type TEXT NOT NULL,
    result_filename TEXT NOT NULL,
    result_file TEXT NOT NULL,
    result_bytes BIGINT NOT NULL,
    late_result_file TEXT NOT NULL,
    scored_cpu_ms BIGINT,
    is_time_disputed BOOLEAN NOT NULL,
    reward BIGINT,
    features TEXT NOT NULL,
    UNIQUE (task_id, side, peer)
);

-- For lists by status, newest first.
CREATE INDEX tasks_by_status ON tasks (status, number);

-- The queue, in order of acceptance.
CREATE INDEX tasks_queue ON tasks (queue_position) WHERE side = 'receiver' AND status = 'ACCEPTED';

-- One for each entry of DEADLINES, so that finding what is due costs what is due.
CREATE INDEX tasks_receiver_expires_at ON tasks (expires_at)
    WHERE side = 'receiver' AND status IN ('NEW', 'ACCEPTED') AND expires_at IS NOT NULL;
CREATE INDEX tasks_receiver_created_at ON tasks (created_at)
    WHERE side = 'receiver' AND status IN ('NEW');
CREATE INDEX tasks_receiver_staged_at ON tasks (staged_at)
    WHERE side = 'receiver' AND status IN ('ACCEPTED') AND staged_at IS NOT NULL;
CREATE INDEX tasks_submitter_created_at ON tasks (created_at)
    WHERE side = 'submitter' AND status IN ('NEW') AND cancel_requested_at IS NULL;
CREATE INDEX tasks_submitter_result_due_at ON tasks (result_due_at)
    WHERE side = 'submitter' AND status IN ('NEW', 'ACCEPTED', 'EXECUTING') AND cancel_requested_at IS NULL
        AND result_due_at IS NOT NULL;

-- What is owed to peers; ready_at is unset behind an earlier message of the same task.
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    side TEXT NOT NULL,
    peer TEXT NOT NULL,
    task_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    ready_at BIGINT,
    sent_at BIGINT,
    attempts INTEGER NOT NULL,
    last_error TEXT NOT NULL
);
CREATE INDEX deliveries_ready ON deliveries (peer, ready_at) WHERE ready_at IS NOT NULL;
CREATE INDEX deliveries_of_task ON deliveries (task_id, side, peer, id);

-- The ledger: the constraint is what books each score once.
CREATE TABLE bookings (
    task_id TEXT NOT NULL,
    side TEXT NOT NULL,
    peer TEXT NOT NULL,
    party TEXT NOT NULL,
    points BIGINT NOT NULL,
    reason TEXT NOT NULL,
    booked_at BIGINT NOT NULL,
    PRIMARY KEY (task_id, side, peer, party)
);
CREATE TABLE scores (
    party TEXT PRIMARY KEY,
    points BIGINT NOT NULL
);

-- What each peer last announced, as a space-separated list.
CREATE TABLE peer_features (
    peer TEXT PRIMARY KEY,
    features TEXT NOT NULL
);
