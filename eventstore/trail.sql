-- The trail: what was asked and became of it, denied attempts too, and who looked at personal data.

-- Who was given whose personal data, which of it and why: written before it is given out. `person` is
-- the pseudonym, never a name.
CREATE TABLE IF NOT EXISTS personal_access (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organisation_id uuid        NOT NULL,
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor           text        NOT NULL,
    roles           text[]      NOT NULL,
    person          text        NOT NULL,
    fields          text[]      NOT NULL,
    why             text        NOT NULL,
    correlation_id  uuid
);
CREATE INDEX IF NOT EXISTS personal_access_at ON personal_access (organisation_id, at, id);
CREATE INDEX IF NOT EXISTS personal_access_person ON personal_access (organisation_id, person, at, id);

-- Commands and queries that were not let through. Like ones of one minute are one row: `times` of them,
-- from `at` to `last_at`. Neither bodies nor tokens: the refusal's code, not what it says in words.
-- Without an organisation where nobody knows whose it would be (no good token).
CREATE TABLE IF NOT EXISTS attempts (
    id              uuid        PRIMARY KEY,
    organisation_id uuid,
    at              timestamptz NOT NULL,
    last_at         timestamptz NOT NULL,
    actor           text        NOT NULL,
    roles           text[]      NOT NULL,
    command         text        NOT NULL,
    stream          text        NOT NULL,
    result          text        NOT NULL,
    code            text        NOT NULL,
    correlation_id  uuid,
    times           bigint      NOT NULL
);
CREATE INDEX IF NOT EXISTS attempts_at ON attempts (organisation_id, at);
