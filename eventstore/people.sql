-- People: keys that encrypt what is personal, one for each person, wrapped by a master key.

-- The secret that the blind index and the digests of commands with personal data are keyed by: random,
-- wrapped by the master key, so that it outlives that key's rotation.
CREATE TABLE IF NOT EXISTS person_secret (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    wrapped  bytea   NOT NULL
);

-- A person's key. Its id is the pseudonym; `wrapped` is null once the person is erased.
CREATE TABLE IF NOT EXISTS person_keys (
    key_id          uuid        PRIMARY KEY,
    organisation_id uuid        NOT NULL,
    wrapped         bytea,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    erased_at       timestamptz,
    CHECK ((wrapped IS NULL) = (erased_at IS NOT NULL))
);
CREATE INDEX IF NOT EXISTS person_keys_erased ON person_keys (organisation_id) WHERE wrapped IS NULL;

-- The blind index: which persons have a value, by its HMAC. Field `person_id` says who is one person.
CREATE TABLE IF NOT EXISTS person_search (
    organisation_id uuid  NOT NULL,
    field           text  NOT NULL,
    token           bytea NOT NULL,
    key_id          uuid  NOT NULL,
    PRIMARY KEY (organisation_id, field, token, key_id)
);
CREATE UNIQUE INDEX IF NOT EXISTS person_search_person ON person_search (organisation_id, token)
WHERE field = 'person_id';
CREATE INDEX IF NOT EXISTS person_search_key ON person_search (key_id);

-- A key is made before its command's rule is asked. Until an event under it is stored it is claimed: a row for each
-- command under way, with the stream that the command would append to. Who has claims and no event there is found by
-- nobody; with the last claim that is given up the key goes, and after an hour with claims that nobody gave up
-- (eventstore/persons/claims.py). A key without claims has an event.
CREATE TABLE IF NOT EXISTS person_claims (
    key_id    uuid        NOT NULL,
    claim     uuid        NOT NULL,
    stream_id uuid        NOT NULL,
    since     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (key_id, claim)
);
CREATE INDEX IF NOT EXISTS person_claims_claim ON person_claims (claim);

-- Up to which position of the log erasures were carried out.
CREATE TABLE IF NOT EXISTS person_erasures (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint  NOT NULL
);

-- The keys of persons, made where there are none, with what they can be searched by. One call serves a
-- whole batch: p_ is a row for each person (told apart by p_token), s_ a row for each searched value, c_ a row for
-- each command's claim.
-- Against an erasure at the same time: the keys found are locked (FOR SHARE) until the values are in the
-- index, and an erasure first takes the key (UPDATE), then deletes the index rows in a later statement. So
-- either the erasure waits and deletes these rows too, or it was first, the key is not found to be alive
-- here, and the person gets a new one. Being VOLATILE, each statement sees what was committed before it.
-- The locks order claims too: who gives one up, or sees that an event is stored, takes the key for itself first.
DROP FUNCTION IF EXISTS person_keys_for(bytea, uuid[], bytea[], uuid[], bytea[], bigint[], text[], bytea[]);
CREATE OR REPLACE FUNCTION person_keys_for(
    p_secret bytea,
    p_organisation uuid[], p_token bytea[], p_new_id uuid[], p_new_wrapped bytea[],
    s_person bigint[], s_field text[], s_token bytea[],
    c_person bigint[], c_claim uuid[], c_stream uuid[]
) RETURNS TABLE (person bigint, key_id uuid, wrapped bytea)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    found_ids uuid[];
    tries     integer := 0;
BEGIN
    -- The event under a key is committed behind it, and flushing its commit flushes the key's before it:
    -- no event is ever durable without its key, and nobody waits for the disk twice.
    PERFORM set_config('synchronous_commit', 'off', true);
    -- Held to the end, so that no key is wrapped by a master key that is being replaced (rewrap
    -- takes it for itself).
    PERFORM pg_advisory_xact_lock_shared(3298885638);
    IF NOT EXISTS (SELECT FROM person_secret s WHERE s.wrapped = p_secret) THEN
        RAISE 'the master key was changed' USING ERRCODE = 'CL003';
    END IF;
    LOOP
        -- In one order, so that two batches with the same persons do not wait for each other.
        INSERT INTO person_search (organisation_id, field, token, key_id)
        SELECT p.organisation, 'person_id', p.token, p.new_id
        FROM unnest(p_organisation, p_token, p_new_id) AS p (organisation, token, new_id)
        ORDER BY p.organisation, p.token
        ON CONFLICT DO NOTHING;
        INSERT INTO person_keys (key_id, organisation_id, wrapped)
        SELECT p.new_id, p.organisation, p.new_wrapped
        FROM unnest(p_organisation, p_token, p_new_id, p_new_wrapped)
             AS p (organisation, token, new_id, new_wrapped)
        JOIN person_search s ON s.organisation_id = p.organisation AND s.field = 'person_id'
             AND s.token = p.token AND s.key_id = p.new_id
        ON CONFLICT DO NOTHING;
        SELECT array_agg(alive.key_id ORDER BY alive.n) INTO found_ids FROM (
            SELECT p.n, k.key_id
            FROM unnest(p_organisation, p_token) WITH ORDINALITY AS p (organisation, token, n)
            JOIN person_search s ON s.organisation_id = p.organisation AND s.field = 'person_id'
                 AND s.token = p.token
            JOIN person_keys k ON k.key_id = s.key_id
            WHERE k.wrapped IS NOT NULL
            ORDER BY k.key_id FOR SHARE OF k
        ) AS alive;
        EXIT WHEN coalesce(cardinality(found_ids), 0) = cardinality(p_token);
        tries := tries + 1;
        IF tries = 50 THEN
            RAISE 'the index of persons names a key that is not there' USING ERRCODE = 'CL004';
        END IF;
    END LOOP;
    INSERT INTO person_search (organisation_id, field, token, key_id)
    SELECT p_organisation[v.person], v.field, v.token, found_ids[v.person]
    FROM unnest(s_person, s_field, s_token) AS v (person, field, token)
    ORDER BY 1, 2, 3, 4
    ON CONFLICT DO NOTHING;
    INSERT INTO person_claims (key_id, claim, stream_id)
    SELECT found_ids[c.person], c.claim, c.stream
    FROM unnest(c_person, c_claim, c_stream) AS c (person, claim, stream)
    WHERE found_ids[c.person] = p_new_id[c.person]
        OR EXISTS (SELECT FROM person_claims o WHERE o.key_id = found_ids[c.person])
    ON CONFLICT DO NOTHING;
    RETURN QUERY SELECT f.n, k.key_id, k.wrapped
        FROM unnest(found_ids) WITH ORDINALITY AS f (id, n) JOIN person_keys k ON k.key_id = f.id
        ORDER BY f.n;
END
$$;
