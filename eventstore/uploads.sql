-- Files that were uploaded for an import, in parts, until a worker has brought them in. They may hold
-- personal data in plain words: they are in no backup, and deleted when the import ends, or after a day.
CREATE TABLE IF NOT EXISTS uploads (
    upload_id       uuid        PRIMARY KEY,
    organisation_id uuid        NOT NULL,
    bytes           bigint      NOT NULL,
    sha256          text        NOT NULL,
    uploaded_by     text        NOT NULL,
    uploaded_at     timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS upload_parts (
    upload_id uuid    NOT NULL,
    number    integer NOT NULL,
    content   bytea   NOT NULL,
    PRIMARY KEY (upload_id, number)
);
