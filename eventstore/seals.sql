-- Seals: Merkle trees (RFC 6962) over the log and what stands beside it, and their signed heads.

-- Hashes of a tree in tiles of 256 (C2SP tlog-tiles): tile `number` of `level` l holds the hashes of the
-- subtrees of 256^l leaves each, from number * 256 on. A proof reads one tile a level.
CREATE TABLE IF NOT EXISTS seal_tiles (
    tree   text     NOT NULL,
    level  smallint NOT NULL,
    number bigint   NOT NULL,
    hashes bytea    NOT NULL,
    PRIMARY KEY (tree, level, number)
);
-- Hashes do not get smaller by trying.
ALTER TABLE seal_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;

-- How far each tree is, and its head there. 'log' has a leaf for each event, 'archive' one for each
-- segment, 'decisions/<organisation>' one for each decision request of an organisation.
CREATE TABLE IF NOT EXISTS seal_trees (
    tree text   PRIMARY KEY,
    size bigint NOT NULL,
    root bytea  NOT NULL
);

-- Which log position each leaf of a tree of decision requests is, so that a period is found.
CREATE TABLE IF NOT EXISTS seal_decisions (
    organisation_id uuid   NOT NULL,
    number          bigint NOT NULL,
    position        bigint NOT NULL,
    PRIMARY KEY (organisation_id, number)
);

-- Signed heads (checkpoints), each as the signed note that auditors and witnesses get.
CREATE TABLE IF NOT EXISTS seal_heads (
    number    bigint      PRIMARY KEY,
    size      bigint      NOT NULL,
    note      text        NOT NULL,
    signed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS seal_heads_size ON seal_heads (size);

-- Public keys in their order; each but the first is vouched for by the one before it, and signs heads
-- over at least `from_size` events, at which the one before it ends.
CREATE TABLE IF NOT EXISTS seal_keys (
    number      bigint      PRIMARY KEY,
    public_key  bytea       NOT NULL UNIQUE,
    from_size   bigint      NOT NULL,
    endorsement bytea,
    since       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What each witness has of the heads: the last one that it took and when, and why the last attempt
-- failed, if it did. `refused`: it was not away, it said no. The name is its address without credentials.
CREATE TABLE IF NOT EXISTS seal_witnessed (
    witness   text PRIMARY KEY,
    number    bigint,
    size      bigint,
    at        timestamptz,
    error     text,
    refused   boolean NOT NULL DEFAULT false,
    failed_at timestamptz
);

-- What witnesses signed in answer: lines that may be put under the head's note. Nobody has checked
-- them yet; who trusts a witness has its key.
CREATE TABLE IF NOT EXISTS seal_cosignatures (
    number     bigint      NOT NULL,
    witness    text        NOT NULL,
    signatures text        NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (number, witness)
);
