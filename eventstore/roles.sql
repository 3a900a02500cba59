-- The role that queries run as, and row-level security (docs/adr/0035). Applied first and last: first, because
-- an append holds `commands` and goes on to `events`, so that nothing here may be locked before those two; last,
-- for tables and functions that are new. Every statement may be repeated.

-- `<owner>_api` owns nothing and writes nothing. Roles belong to the whole cluster: another database of the
-- same owner may make it at this moment. It may log in once eventstore/roles.py has given it a password.
DO $$
DECLARE
    role text := current_user || '_api';
BEGIN
    IF to_regrole(quote_ident(role)) IS NULL THEN
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', role);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE 'the role % that queries run as is missing, and % may not make roles', role, current_user
                    USING ERRCODE = 'CL010';
        END;
    END IF;
    IF NOT has_schema_privilege(role, current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
    END IF;
    IF NOT has_database_privilege(role, current_database(), 'CONNECT, TEMPORARY') THEN
        EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', current_database(), role);
    END IF;
END
$$;

-- Shows of a table the rows of one organisation alone, to all but its owner: those of the organisation that
-- the transaction has set; without one, none. (After a transaction that has set it, it is '', not null.)
-- `queried`: queries may read all of its columns.
CREATE OR REPLACE FUNCTION confine(which regclass, queried boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = which AND polname = 'own_organisation') THEN
        EXECUTE format($policy$CREATE POLICY own_organisation ON %s USING (
            organisation_id = nullif(current_setting('chainlytics.organisation', true), '')::uuid)$policy$, which);
    END IF;
    IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = which) THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', which);
    END IF;
    IF queried THEN
        EXECUTE format('GRANT SELECT ON %s TO %I', which, current_user || '_api');
    END IF;
END
$$;

-- Every table with an organisation, whoever reads it. In the order in which appends and persons' keys are locked.
DO $$
DECLARE
    which regclass;
BEGIN
    FOR which IN
        SELECT c.oid FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
            AND a.attname = 'organisation_id' AND NOT a.attisdropped
            AND NOT (c.relrowsecurity AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))
            AND c.relowner = current_user::regrole
        ORDER BY coalesce(array_position(
            '{commands,events,person_search,person_keys}', c.relname::text), 99), c.relname
    LOOP
        PERFORM confine(which, false);
    END LOOP;
END
$$;

-- What queries read: these columns and no others. Digests of commands, keys of persons and secrets are not among
-- them. The three last tables know no organisation: they say which stretches of the log stand in the archive.
DO $$
DECLARE
    role text := current_user || '_api';
    one  record;
BEGIN
    FOR one IN
        SELECT a.attrelid::regclass AS which, string_agg(quote_ident(a.attname), ', ') AS columns
        FROM pg_attribute a JOIN (VALUES
            ('events', 'originator_id, originator_version, topic, state, notification_id, event_id,
                organisation_id, recorded_at, correlation_id, causation_id, actor'),
            ('commands', 'command_id, stream, version, position, recorded_at, organisation_id, asked'),
            ('attempts', 'id, organisation_id, at, last_at, actor, roles, command, stream, result, code,
                correlation_id, times'),
            ('personal_access', 'id, organisation_id, at, actor, roles, person, fields, why, correlation_id'),
            ('person_keys', 'key_id, organisation_id, erased_at'),
            ('webhook_endpoints', 'organisation_id, webhook_id, position, failures, failing_since, not_before'),
            ('webhook_deliveries', 'organisation_id, webhook_id, position, event_id, stream_id, event, status,
                attempts, due_at, status_code, error, queued_at, changed_at, changed_by'),
            ('webhook_attempts', 'organisation_id, webhook_id, position, attempt, at, duration_ms,
                status_code, error'),
            ('segments', 'number, first_position, last_position, manifest, dropped_at'),
            ('cold_streams', 'stream_id, number'),
            ('archive_store', 'url')
        ) AS r (name, columns) ON a.attrelid = to_regclass(quote_ident(r.name))
            AND a.attname = ANY (regexp_split_to_array(r.columns, ',\s*')) AND NOT a.attisdropped
        GROUP BY a.attrelid
    LOOP
        EXECUTE format('GRANT SELECT (%s) ON %s TO %I', one.columns, one.which, role);
    END LOOP;
    -- Functions are everybody's until somebody says otherwise: ours are their owner's.
    FOR one IN
        SELECT p.oid::regprocedure AS which FROM pg_proc p
        WHERE p.pronamespace = current_schema()::regnamespace AND p.proowner = current_user::regrole
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
            AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
                        WHERE a.grantee = 0)
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', one.which);
    END LOOP;
END
$$;
