-- What each peer takes: the tasks that it submitted, tombstones included, and the bytes of their descriptions and of all
-- results given to it or received from it. Kept by triggers, so that no operation can forget to count.

CREATE TABLE usage (
    peer TEXT PRIMARY KEY,
    records BIGINT NOT NULL,
    stored_bytes BIGINT NOT NULL
) WITHOUT ROWID;

INSERT INTO usage (peer, records, stored_bytes)
    SELECT peer, sum(records), sum(size) FROM (
        SELECT peer, side = 'receiver' AS records,
            CASE side WHEN 'receiver' THEN length(CAST(description AS BLOB)) ELSE 0 END + result_bytes AS size FROM tasks
        UNION ALL SELECT peer, 1, 0 FROM tombstones WHERE side = 'receiver'
    ) GROUP BY peer;

CREATE TRIGGER tasks_inserted AFTER INSERT ON tasks WHEN NEW.side = 'receiver' OR NEW.result_bytes <> 0 BEGIN
    INSERT INTO usage (peer, records, stored_bytes) VALUES (
        NEW.peer, NEW.side = 'receiver',
        CASE NEW.side WHEN 'receiver' THEN length(CAST(NEW.description AS BLOB)) ELSE 0 END + NEW.result_bytes
    ) ON CONFLICT (peer) DO UPDATE
        SET records = records + excluded.records, stored_bytes = stored_bytes + excluded.stored_bytes;
END;
CREATE TRIGGER tasks_updated AFTER UPDATE OF result_bytes ON tasks WHEN NEW.result_bytes <> OLD.result_bytes BEGIN
    INSERT INTO usage (peer, records, stored_bytes) VALUES (NEW.peer, 0, NEW.result_bytes - OLD.result_bytes)
        ON CONFLICT (peer) DO UPDATE SET stored_bytes = stored_bytes + excluded.stored_bytes;
END;
CREATE TRIGGER tasks_deleted AFTER DELETE ON tasks BEGIN
    UPDATE usage SET records = records - (OLD.side = 'receiver'), stored_bytes = stored_bytes - OLD.result_bytes
        - CASE OLD.side WHEN 'receiver' THEN length(CAST(OLD.description AS BLOB)) ELSE 0 END WHERE peer = OLD.peer;
END;
CREATE TRIGGER tombstones_inserted AFTER INSERT ON tombstones WHEN NEW.side = 'receiver' BEGIN
    INSERT INTO usage (peer, records, stored_bytes) VALUES (NEW.peer, 1, 0)
        ON CONFLICT (peer) DO UPDATE SET records = records + 1;
END;
CREATE TRIGGER tombstones_deleted AFTER DELETE ON tombstones WHEN OLD.side = 'receiver' BEGIN
    UPDATE usage SET records = records - 1 WHERE peer = OLD.peer;
END;
