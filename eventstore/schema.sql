-- The log and what stands beside it. Applied under an advisory lock; every statement may be repeated.

-- One table of events in one gapless, commit-ordered sequence of positions. The first five columns are
-- those of the eventsourcing package (notification_id is our position), so its recorders work on it.
CREATE TABLE IF NOT EXISTS events (
    originator_id      uuid        NOT NULL,
    originator_version bigint      NOT NULL,
    topic              text        NOT NULL,
    state              bytea       NOT NULL,
    notification_id    bigint      NOT NULL,
    event_id           uuid        NOT NULL,
    organisation_id    uuid        NOT NULL,
    recorded_at        timestamptz NOT NULL,
    correlation_id     uuid        NOT NULL,
    causation_id       uuid,
    actor              text        NOT NULL,
    CONSTRAINT events_stream_version PRIMARY KEY (originator_id, originator_version)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.5, autovacuum_analyze_scale_factor = 0.05);

CREATE UNIQUE INDEX IF NOT EXISTS events_position ON events (notification_id);
-- Recorded times rise with positions, so a block range index finds a time in a log of any size.
CREATE INDEX IF NOT EXISTS events_recorded_at ON events USING brin (recorded_at);

-- The last position given. Locking this one row orders writers; it is held to the end of their commit.
CREATE TABLE IF NOT EXISTS log_head (
    only_row    boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    position    bigint      NOT NULL,
    recorded_at timestamptz NOT NULL
) WITH (fillfactor = 10);
INSERT INTO log_head (position, recorded_at) VALUES (0, '-infinity') ON CONFLICT DO NOTHING;

-- What every accepted command was answered, by its id: a retry gets the first answer.
CREATE TABLE IF NOT EXISTS commands (
    command_id  uuid        PRIMARY KEY,
    digest      bytea       NOT NULL,
    stream      text        NOT NULL,
    version     bigint      NOT NULL,
    position    bigint      NOT NULL,
    recorded_at timestamptz NOT NULL
);

-- Content-addressed bytes (trained models): named by the SHA-256 of what they hold.
CREATE TABLE IF NOT EXISTS artifacts (
    hash       text        PRIMARY KEY,
    content    bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Appends a group of units in one transaction. A unit is one or more commands (entries) that stand or fall
-- together; a failed unit leaves its neighbours alone. Row by row answers: outcome is
--   stored | repeated (same id and digest: the first answer) | reused (same id, other digest) | conflict.
-- Being VOLATILE, each statement below sees what was committed while the first one waited for the lock:
-- a single SQL statement would check versions against a snapshot taken before the wait.
CREATE OR REPLACE FUNCTION append_group(
    c_unit int[], c_id uuid[], c_digest bytea[], c_stream text[], c_version bigint[], c_last bigint[],
    x_unit int[], x_stream uuid[], x_version bigint[],
    e_unit int[], e_stream uuid[], e_version bigint[], e_topic text[], e_state bytea[], e_id uuid[],
    e_organisation uuid[], e_correlation uuid[], e_causation uuid[], e_actor text[]
) RETURNS TABLE (unit int, command uuid, outcome text, stream text, version bigint, "position" bigint,
                 stream_id uuid, expected bigint)
-- A plan made while the log was empty would read it whole ever after: look-ups go by index.
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    head    bigint;
    moment  timestamptz;
    failed  int[] := '{}';
    stored  bigint;
BEGIN
    SELECT h.position, greatest(h.recorded_at, clock_timestamp()) INTO head, moment
    FROM log_head h FOR UPDATE;

    FOR unit, command, outcome, stream, version, "position" IN
        SELECT c.unit, c.id, CASE WHEN k.digest = c.digest THEN 'repeated' ELSE 'reused' END,
               k.stream, k.version, k.position
        FROM unnest(c_unit, c_id, c_digest) AS c (unit, id, digest)
        JOIN commands k ON k.command_id = c.id
    LOOP
        failed := failed || unit;
        RETURN NEXT;
    END LOOP;
    command := NULL; stream := NULL; "position" := NULL;

    FOR unit, outcome, stream_id, expected, version IN
        SELECT x.unit, 'conflict', x.stream, x.expected, actual.version
        FROM unnest(x_unit, x_stream, x_version) AS x (unit, stream, expected)
        CROSS JOIN LATERAL (
            SELECT coalesce(max(e.originator_version), 0) AS version
            FROM events e WHERE e.originator_id = x.stream
        ) AS actual
        WHERE actual.version <> x.expected
    LOOP
        failed := failed || unit;
        RETURN NEXT;
    END LOOP;

    RETURN QUERY
    WITH kept AS MATERIALIZED (
        SELECT e.*, head + row_number() OVER (ORDER BY e.n) AS given
        FROM unnest(e_unit, e_stream, e_version, e_topic, e_state, e_id,
                    e_organisation, e_correlation, e_causation, e_actor)
             WITH ORDINALITY AS e (unit, stream, version, topic, state, id,
                                   organisation, correlation, causation, actor, n)
        WHERE e.unit <> ALL (failed)
    ), written AS (
        INSERT INTO events (originator_id, originator_version, topic, state, notification_id, event_id,
                            organisation_id, recorded_at, correlation_id, causation_id, actor)
        SELECT w.stream, w.version, w.topic, w.state, w.given, w.id,
               w.organisation, moment, w.correlation, w.causation, w.actor
        FROM kept w ORDER BY w.n
    ), answered AS (
        INSERT INTO commands AS k (command_id, digest, stream, version, position, recorded_at)
        SELECT c.id, c.digest, c.stream, c.version, coalesce(w.given, head), moment
        FROM unnest(c_unit, c_id, c_digest, c_stream, c_version, c_last)
             AS c (unit, id, digest, stream, version, last)
        LEFT JOIN kept w ON w.n = c.last
        WHERE c.unit <> ALL (failed)
        RETURNING k.command_id, k.stream, k.version, k.position
    )
    SELECT NULL::int, a.command_id, 'stored', a.stream, a.version, a.position, NULL::uuid, NULL::bigint
    FROM answered a;

    SELECT count(*) INTO stored FROM unnest(e_unit) AS u (unit) WHERE u.unit <> ALL (failed);
    IF stored > 0 THEN
        UPDATE log_head SET position = head + stored, recorded_at = moment;
        -- NOTIFY takes a lock for the whole cluster at commit: one for a group.
        PERFORM pg_notify('events', (head + stored)::text);
    END IF;
END
$$;
