-- How far read models are, what was parked, and rebuilds under way. Applied under an advisory lock; every
-- statement may be repeated. Altered only where it must be: ALTER TABLE waits for batches under way.

CREATE SCHEMA IF NOT EXISTS read_models;
-- The role that queries run as (eventstore/roles.sql).
DO $$ BEGIN
    IF NOT has_schema_privilege(current_user || '_api', 'read_models', 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA read_models TO %I', current_user || '_api');
    END IF;
END $$;

-- How far each read model has come, by which declaration. The row's lock orders who writes the table.
CREATE TABLE IF NOT EXISTS projections (
    name          text        PRIMARY KEY,
    fingerprint   text        NOT NULL,
    position      bigint      NOT NULL,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    error         text,
    last_event_id uuid
);
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = 'projections'::regclass AND attname = 'last_event_id') THEN
        ALTER TABLE projections ADD COLUMN last_event_id uuid;
    END IF;
    -- rate: events a second lately. old_*: the table that a rebuild replaced, kept for a rollback.
    -- held: rolled back to another declaration's table; it waits for that code or for a rebuild.
    IF NOT EXISTS (SELECT FROM pg_attribute
                   WHERE attrelid = 'projections'::regclass AND attname = 'rate') THEN
        ALTER TABLE projections
            ADD COLUMN rate            double precision,
            ADD COLUMN held            boolean NOT NULL DEFAULT false,
            ADD COLUMN old_fingerprint text,
            ADD COLUMN old_position    bigint,
            ADD COLUMN old_event_id    uuid;
    END IF;
END $$;

-- Where events come by Kafka (eventstore/kafka.sql): up to where a table has all of a lane, as far as that is
-- further than `projections.position`, up to which it has everything. `suffix` says of which of its tables,
-- `lanes` how many lanes there were.
CREATE TABLE IF NOT EXISTS projection_lanes (
    name          text        NOT NULL,
    suffix        text        NOT NULL,
    lane          integer     NOT NULL,
    lanes         integer     NOT NULL,
    position      bigint      NOT NULL,
    last_event_id uuid,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, suffix, lane)
) WITH (fillfactor = 50);

-- A rebuild under way, as far as it is in the table beside: who goes on with it begins there.
CREATE TABLE IF NOT EXISTS projection_rebuilds (
    name          text             PRIMARY KEY,
    fingerprint   text             NOT NULL,
    position      bigint           NOT NULL,
    last_event_id uuid,
    started_at    timestamptz      NOT NULL DEFAULT now(),
    updated_at    timestamptz      NOT NULL DEFAULT now(),
    rate          double precision
);

-- Events that a read model could not fold, and the later ones of their keys, in their order. `suffix` says of
-- which of its tables: '' the live one, or the one beside it. `error` is null where an event only waits for an
-- earlier one of its key.
CREATE TABLE IF NOT EXISTS dead_letters (
    projection text        NOT NULL,
    suffix     text        NOT NULL,
    position   bigint      NOT NULL,
    event_id   uuid        NOT NULL,
    keys       text[]      NOT NULL,
    error      text,
    attempts   integer     NOT NULL DEFAULT 0,
    parked_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, suffix, position)
);
