-- Webhooks: what is to be sent where, how far that is, and the secrets that sign it (docs/adr/0036). Which
-- webhooks there are is said by events; `webhook_endpoints` is what the deliverer has made of them.

-- Up to which position of the log events of webhooks themselves are taken in; all follow behind.
CREATE TABLE IF NOT EXISTS webhook_follower (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint  NOT NULL
);

-- A webhook as it is now. All up to `position` is in `webhook_deliveries` or is not told. `failures` in a row, the
-- first of them at `failing_since`; nothing is sent before `not_before`.
CREATE TABLE IF NOT EXISTS webhook_endpoints (
    organisation_id  uuid        NOT NULL,
    webhook_id       text        NOT NULL,
    url              text        NOT NULL,
    events           text[]      NOT NULL,
    secret_id        uuid        NOT NULL,
    former_secret_id uuid,
    former_until     timestamptz,
    paused           boolean     NOT NULL DEFAULT false,
    position         bigint      NOT NULL,
    failures         integer     NOT NULL DEFAULT 0,
    failing_since    timestamptz,
    not_before       timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (organisation_id, webhook_id)
);

-- One event for one webhook. `pending`: to be sent from `due_at` on, once no earlier one of its stream is left;
-- `held`: behind a dead one of its stream; `dead`: given up, until somebody replays or discards it; `delivered`;
-- `discarded`. `step` is its place in the schedule of retries, `attempts` counts them all.
CREATE TABLE IF NOT EXISTS webhook_deliveries (
    organisation_id uuid        NOT NULL,
    webhook_id      text        NOT NULL,
    position        bigint      NOT NULL,
    event_id        uuid        NOT NULL,
    stream_id       uuid        NOT NULL,
    event           text        NOT NULL, -- its name
    status          text        NOT NULL CHECK (status IN ('pending', 'held', 'dead', 'delivered', 'discarded')),
    attempts        integer     NOT NULL DEFAULT 0,
    step            integer     NOT NULL DEFAULT 0,
    due_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    status_code     integer,              -- of the last answer; null: there was none
    error           text,
    queued_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by      text,                 -- who replayed or discarded it last
    PRIMARY KEY (organisation_id, webhook_id, position)
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS webhook_deliveries_due ON webhook_deliveries (organisation_id, webhook_id, due_at)
    WHERE status = 'pending';
CREATE INDEX IF NOT EXISTS webhook_deliveries_left ON webhook_deliveries
    (organisation_id, webhook_id, stream_id, position) WHERE status IN ('pending', 'held', 'dead');
CREATE INDEX IF NOT EXISTS webhook_deliveries_done ON webhook_deliveries (changed_at)
    WHERE status IN ('delivered', 'discarded');

-- Each request of a delivery. `status_code` is null where there was no answer.
CREATE TABLE IF NOT EXISTS webhook_attempts (
    organisation_id uuid        NOT NULL,
    webhook_id      text        NOT NULL,
    position        bigint      NOT NULL,
    attempt         integer     NOT NULL,
    at              timestamptz NOT NULL,
    duration_ms     integer     NOT NULL,
    status_code     integer,
    error           text,
    PRIMARY KEY (organisation_id, webhook_id, position, attempt)
);
CREATE INDEX IF NOT EXISTS webhook_attempts_at ON webhook_attempts (at);

-- Secrets, encrypted; events name them by id. One that no event names after an hour was made in vain.
CREATE TABLE IF NOT EXISTS webhook_secrets (
    secret_id       uuid        PRIMARY KEY,
    organisation_id uuid        NOT NULL,
    webhook_id      text        NOT NULL,
    sealed          bytea       NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS webhook_secrets_of ON webhook_secrets (organisation_id, webhook_id);
