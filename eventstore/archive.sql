-- The archive: sealed ranges of the log as Parquet segments, in a store outside the database.

-- What each segment's manifest says. A manifest's hash is a leaf of the tree 'archive', so it is sealed too.
-- Dropped: its events stand in the archive only, but the newest of each stream and those that a table names.
CREATE TABLE IF NOT EXISTS segments (
    number         bigint      PRIMARY KEY,
    first_position bigint      NOT NULL,
    last_position  bigint      NOT NULL,
    manifest       bytea       NOT NULL,
    written_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    dropped_at     timestamptz
);
CREATE INDEX IF NOT EXISTS segments_last_position ON segments (last_position);

-- Where the archive is: the path of a folder, or the URL of an object store.
CREATE TABLE IF NOT EXISTS archive_store (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    url      text    NOT NULL
);

-- Which dropped segments hold events of a stream.
CREATE TABLE IF NOT EXISTS cold_streams (
    stream_id uuid   NOT NULL,
    number    bigint NOT NULL,
    PRIMARY KEY (stream_id, number)
);
