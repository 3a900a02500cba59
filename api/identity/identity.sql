-- The built-in provider's own. Nothing of this is ever in an event, a read model or a backup of the log.
CREATE SCHEMA IF NOT EXISTS identity;
REVOKE ALL ON SCHEMA identity FROM PUBLIC;

CREATE TABLE IF NOT EXISTS identity.schema_applied (digest text NOT NULL);

-- An account is there from when its address was shown to be somebody's.
CREATE TABLE IF NOT EXISTS identity.accounts (
    id                  uuid PRIMARY KEY,
    email               text NOT NULL UNIQUE,
    password_hash       text NOT NULL,  -- Argon2id, with its salt and cost
    name                text,
    created_at          timestamptz NOT NULL DEFAULT now(),
    password_changed_at timestamptz NOT NULL DEFAULT now(),
    disabled_at         timestamptz
);

-- What a mail carries: good once, and not for long. The code itself is only in the mail.
CREATE TABLE IF NOT EXISTS identity.codes (
    hash          bytea PRIMARY KEY,
    purpose       text NOT NULL CHECK (purpose IN ('verify', 'reset')),
    email         text NOT NULL,
    password_hash text,  -- of a registration
    name          text,
    wrong         int NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS codes_by_email ON identity.codes (email, purpose, created_at);

-- A session is a family of refresh tokens, of which the newest alone is good.
CREATE TABLE IF NOT EXISTS identity.sessions (
    id           uuid PRIMARY KEY,
    account_id   uuid NOT NULL REFERENCES identity.accounts ON DELETE CASCADE,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    ended_at     timestamptz,
    ended_by     text,
    client       text NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS sessions_by_account ON identity.sessions (account_id, created_at);

CREATE TABLE IF NOT EXISTS identity.refresh_tokens (
    hash       bytea PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES identity.sessions ON DELETE CASCADE,
    issued_at  timestamptz NOT NULL DEFAULT now(),
    used_at    timestamptz
);
CREATE INDEX IF NOT EXISTS refresh_tokens_by_session ON identity.refresh_tokens (session_id);

-- Tries at a password, by address, whether there is an account of it or not: so a lock tells nothing.
CREATE TABLE IF NOT EXISTS identity.tries (
    address      bytea PRIMARY KEY,  -- SHA-256 of the address
    times        int NOT NULL,
    last_at      timestamptz NOT NULL,
    locked_until timestamptz NOT NULL
);

-- Sessions ended and tokens given back before their time: 'session:' or 'token:' and what it is.
CREATE TABLE IF NOT EXISTS identity.revocations (
    what     text PRIMARY KEY,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    until    timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS revocations_by_time ON identity.revocations (noted_at);

-- By account id as events have it ('local:...', 'nhost:...'): of accounts of every provider.
CREATE TABLE IF NOT EXISTS identity.profiles (
    account    text PRIMARY KEY,
    profile    jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS identity.preferences (
    account     text PRIMARY KEY,
    preferences jsonb NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);
