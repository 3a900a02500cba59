-- The log and what stands beside it. Applied under an advisory lock; every statement may be repeated.

-- Which schema was applied last (SHA-256 of this file): a start that finds its own changes nothing.
CREATE TABLE IF NOT EXISTS schema_applied (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    digest   text    NOT NULL
);
INSERT INTO schema_applied (digest) SELECT '' WHERE NOT EXISTS (SELECT FROM schema_applied);

-- A log of a former version. Before anything else that is locked here: an append that is under way holds
-- this table and goes on to the events, so whoever has locked those and waits for this one is deadlocked.
DO $$
BEGIN
    IF to_regclass('commands') IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = to_regclass('commands') AND attname = 'asked' AND NOT attisdropped
    ) THEN
        ALTER TABLE commands ADD COLUMN organisation_id uuid, ADD COLUMN asked text;
        CREATE INDEX commands_at ON commands (organisation_id, recorded_at)
            WHERE organisation_id IS NOT NULL;
    END IF;
END
$$;

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
-- Recorded times rise with positions, so the index of positions finds a time too (position_at).
DROP INDEX IF EXISTS events_recorded_at;

-- The last position given. Locking this one row orders writers; it is held to the end of their commit.
CREATE TABLE IF NOT EXISTS log_head (
    only_row    boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    position    bigint      NOT NULL,
    recorded_at timestamptz NOT NULL
) WITH (fillfactor = 10);
-- Only where there is none: an insert that finds a row would wait for its writer.
INSERT INTO log_head (position, recorded_at)
SELECT 0, '-infinity' WHERE NOT EXISTS (SELECT FROM log_head) ON CONFLICT DO NOTHING;

-- What every accepted command was answered, by its id: a retry gets the first answer. And who did what
-- with which roles (docs/adr/0032); `asked` is what eventstore/group.py packs: command, roles, actor and,
-- where there are no events that say it, correlation and causation, with U+001F between them.
CREATE TABLE IF NOT EXISTS commands (
    command_id  uuid        PRIMARY KEY,
    digest      bytea       NOT NULL,
    stream      text        NOT NULL,
    version     bigint      NOT NULL,
    position    bigint      NOT NULL,
    recorded_at timestamptz NOT NULL,
    -- Null in rows that a former version of the code has stored.
    organisation_id uuid,
    asked       text
);
-- A group's rows have the same key, which is stored once for them.
CREATE INDEX IF NOT EXISTS commands_at ON commands (organisation_id, recorded_at)
    WHERE organisation_id IS NOT NULL;

-- Content-addressed bytes (trained models): named by the SHA-256 of what they hold.
CREATE TABLE IF NOT EXISTS artifacts (
    hash       text        PRIMARY KEY,
    content    bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- States of streams, so that a long one is not read from its start. `fingerprint` tells by which rules
-- a state was folded; one of other rules is not used.
CREATE TABLE IF NOT EXISTS snapshots (
    stream_id   uuid        PRIMARY KEY,
    fingerprint text        NOT NULL,
    version     bigint      NOT NULL,
    state       bytea       NOT NULL,
    taken_at    timestamptz NOT NULL DEFAULT now()
);

-- Appends a group of units in one transaction. A unit is one or more commands (entries) that stand or fall
-- together; a failed unit leaves its neighbours alone. Answers one row for each failure: outcome is
--   repeated (same id and digest: the first answer) | reused (same id, other digest) | conflict,
-- and one row `head`: the position behind which the other units were stored, in their order.
-- Being VOLATILE, each statement below sees what was committed while the first one waited for the lock:
-- a single SQL statement would check versions against a snapshot taken before the wait.
CREATE OR REPLACE FUNCTION append_group(
    c_unit bigint[], c_id uuid[], c_digest bytea[], c_stream text[], c_version bigint[], c_last bigint[],
    c_organisation uuid[], c_asked text[],
    x_unit bigint[], x_stream uuid[], x_version bigint[],
    e_unit bigint[], e_stream uuid[], e_version bigint[], e_topic text[], e_state bytea[], e_id uuid[],
    e_organisation uuid[], e_correlation uuid[], e_causation uuid[], e_actor text[]
) RETURNS TABLE (outcome text, unit bigint, command uuid, stream text, version bigint, "position" bigint,
                 stream_id uuid, expected bigint)
-- A plan made while the log was empty would read it whole ever after: look-ups go by index.
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    stored  bigint := cardinality(e_stream);
    head    bigint;
    moment  timestamptz;
    failed  bigint[] := '{}';
BEGIN
    -- The row stays locked to the end of the commit: positions are committed in their order.
    UPDATE log_head h SET position = h.position + stored,
                          recorded_at = greatest(h.recorded_at, clock_timestamp())
    RETURNING h.position - stored, h.recorded_at INTO head, moment;

    IF EXISTS (
        SELECT FROM unnest(c_id) AS c (id) JOIN commands k ON k.command_id = c.id
    ) OR EXISTS (
        SELECT FROM unnest(x_stream, x_version) AS x (stream, expected)
        WHERE x.expected <> coalesce(
            (SELECT max(e.originator_version) FROM events e WHERE e.originator_id = x.stream), 0)
    ) THEN
        FOR outcome, unit, command, stream, version, "position" IN
            SELECT CASE WHEN k.digest = c.digest THEN 'repeated' ELSE 'reused' END, c.unit, c.id,
                   k.stream, k.version, k.position
            FROM unnest(c_unit, c_id, c_digest) AS c (unit, id, digest)
            JOIN commands k ON k.command_id = c.id
        LOOP
            failed := failed || unit;
            RETURN NEXT;
        END LOOP;
        command := NULL; stream := NULL; "position" := NULL;

        FOR outcome, unit, stream_id, expected, version IN
            SELECT 'conflict', x.unit, x.stream, x.expected, actual.version
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
        unit := NULL; stream_id := NULL; expected := NULL; version := NULL;

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
            INSERT INTO commands (command_id, digest, stream, version, position, recorded_at,
                                  organisation_id, asked)
            SELECT c.id, c.digest, c.stream, c.version, coalesce(w.given, head), moment,
                   c.organisation, c.asked
            FROM unnest(c_unit, c_id, c_digest, c_stream, c_version, c_last, c_organisation, c_asked)
                 AS c (unit, id, digest, stream, version, last, organisation, asked)
            LEFT JOIN kept w ON w.n = c.last
            WHERE c.unit <> ALL (failed)
        )
        SELECT count(*) INTO stored FROM kept;
        UPDATE log_head SET position = head + stored;
    ELSE
        INSERT INTO events (originator_id, originator_version, topic, state, notification_id, event_id,
                            organisation_id, recorded_at, correlation_id, causation_id, actor)
        SELECT e.stream, e.version, e.topic, e.state, head + e.n, e.id,
               e.organisation, moment, e.correlation, e.causation, e.actor
        FROM unnest(e_stream, e_version, e_topic, e_state, e_id,
                    e_organisation, e_correlation, e_causation, e_actor)
             WITH ORDINALITY AS e (stream, version, topic, state, id,
                                   organisation, correlation, causation, actor, n);
        INSERT INTO commands (command_id, digest, stream, version, position, recorded_at,
                              organisation_id, asked)
        SELECT c.id, c.digest, c.stream, c.version, head + coalesce(c.last, 0), moment,
               c.organisation, c.asked
        FROM unnest(c_id, c_digest, c_stream, c_version, c_last, c_organisation, c_asked)
             AS c (id, digest, stream, version, last, organisation, asked);
    END IF;

    IF stored > 0 THEN
        -- NOTIFY takes a lock for the whole cluster at commit: one for a group.
        PERFORM pg_notify('events', (head + stored)::text);
    END IF;
    outcome := 'head'; "position" := head;
    RETURN NEXT;
END
$$;

-- As processes of the former version call it, which go on while a new one is rolled out.
CREATE OR REPLACE FUNCTION append_group(
    c_unit bigint[], c_id uuid[], c_digest bytea[], c_stream text[], c_version bigint[], c_last bigint[],
    x_unit bigint[], x_stream uuid[], x_version bigint[],
    e_unit bigint[], e_stream uuid[], e_version bigint[], e_topic text[], e_state bytea[], e_id uuid[],
    e_organisation uuid[], e_correlation uuid[], e_causation uuid[], e_actor text[]
) RETURNS TABLE (outcome text, unit bigint, command uuid, stream text, version bigint, "position" bigint,
                 stream_id uuid, expected bigint)
LANGUAGE sql AS $$
    SELECT * FROM append_group(
        c_unit, c_id, c_digest, c_stream, c_version, c_last,
        -- Whose and by whom, as the events say; command and roles are not known.
        ARRAY(SELECT e_organisation[one.last] FROM unnest(c_last) WITH ORDINALITY AS one (last, n)
              ORDER BY one.n),
        ARRAY(SELECT E'\x1f\x1f' || e_actor[one.last]
              FROM unnest(c_last) WITH ORDINALITY AS one (last, n) ORDER BY one.n),
        x_unit, x_stream, x_version,
        e_unit, e_stream, e_version, e_topic, e_state, e_id,
        e_organisation, e_correlation, e_causation, e_actor)
$$;

-- The last position here recorded at or before a moment; 0 before the first. Recorded times never fall as
-- positions rise: a binary search over the index of positions. Where one is dropped (archive.sql), the next
-- one that is here speaks for it; what is between the answer and that one is for the archive to tell.
CREATE OR REPLACE FUNCTION position_at(moment timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    low    bigint := 0;
    high   bigint := coalesce((SELECT max(notification_id) FROM events), 0);
    middle bigint;
    here   bigint;
    at     timestamptz;
BEGIN
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        SELECT e.notification_id, e.recorded_at INTO here, at FROM events e
        WHERE e.notification_id >= middle ORDER BY e.notification_id LIMIT 1;
        IF at <= moment THEN
            low := here;
        ELSE
            high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END
$$;
