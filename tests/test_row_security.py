"""The role that queries run as, in raw SQL: what it sees and may do in a database of two
organisations."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import AsyncConnection, sql
from psycopg_pool import AsyncConnectionPool

from chainlytics.application import application
from commands.sample_year import sample_year
from eventstore import Log, prepare_database
from eventstore.backup import backup, restore
from eventstore.roles import RoleUnusable, conninfo_of_queries, taking_on
from projections import store
from projections.catalogue import TABLES
from projections.projector import Projector
from projections.rebuild import rebuild
from readmodels.database import ReadModels, Row
from tests.world import ORGANISATION, company, send

OTHER = UUID("00000000-0000-0000-0000-0000000000bb")
BOTH = (ORGANISATION, OTHER)
#: What the role may read although it knows no organisation, and why.
OF_NOBODY = {
    "segments": "which positions of the log stand in the archive; the files hold the events",
    "cold_streams": "which of them have events of a stream, by its id, which is a hash",
    "archive_store": "where the archive is",
}
_TABLES = """SELECT c.oid::regclass::text, EXISTS (SELECT FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attname = 'organisation_id' AND NOT a.attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"""
_CONFINED = "SELECT relrowsecurity AND EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid)"
_SET = "SELECT set_config('chainlytics.organisation', %s, true)"
#: A value for a column that must have one, by its type.
_VALUES = {
    "uuid": "gen_random_uuid()",
    "text": "'x' || gen_random_uuid()",
    "bytea": "'\\x00'::bytea",
    "boolean": "false",
    "jsonb": "'{}'::jsonb",
    "date": "current_date",
    "timestamp with time zone": "now()",
    "text[]": "'{}'::text[]",
}


async def of_queries(url: str, given: str | None = None) -> str:
    async with await AsyncConnection.connect(url, autocommit=True) as owner:
        return await conninfo_of_queries(owner, url, given)


@pytest.fixture(scope="module")
def filled(database: str) -> str:
    """A row of each organisation in every table that has any; the log has some of its own too."""

    async def fill() -> None:
        async with company(database) as app:
            for one in BOTH:
                commands = list(sample_year(orders=20).commands)
                await send(app, commands, organisation_id=one)
            await app.projector.catch_up()

    asyncio.run(fill())
    with psycopg.connect(database) as connection:
        for name, owned in tables(connection):
            for one in BOTH if owned else ():
                put(connection, name, one)
    return database


def put(connection: psycopg.Connection[Any], table: str, organisation: UUID) -> None:
    """Some row of an organisation's; what a row must be like is of no matter here."""
    checks = connection.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype IN ('c', 'f')",
        (table,),
    ).fetchall()
    for (check,) in checks:
        drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}")
        connection.execute(drop.format(sql.SQL(table), sql.Identifier(check)))
    needed = connection.execute(
        """SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
        WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attnotnull
            AND NOT atthasdef AND attidentity = '' AND attname <> 'organisation_id'""",
        (table,),
    ).fetchall()
    columns = sql.SQL(", ").join(
        sql.Identifier(one) for one, _ in (*needed, ("organisation_id", ""))
    )
    values = sql.SQL(", ").join(
        sql.SQL(_VALUES.get(kind, f"(SELECT count(*) FROM {table})")) for _, kind in needed
    )
    query = sql.SQL("INSERT INTO {} ({}) SELECT {}").format(
        sql.SQL(table), columns, sql.SQL(", ").join([*([values] if needed else []), sql.SQL("%s")])
    )
    if table in ("events", "commands"):
        return  # it has some
    connection.execute(query, (organisation,))


def tables(connection: psycopg.Connection[Any]) -> list[tuple[str, bool]]:
    """Every table there is, and whether it says whose its rows are."""
    found = [(str(name), bool(owned)) for name, owned in connection.execute(_TABLES).fetchall()]
    assert len(found) > 40
    return found


@pytest.fixture
def api(filled: str) -> Iterator[psycopg.Connection[Any]]:
    """A raw session under the role."""
    with psycopg.connect(asyncio.run(of_queries(filled)), autocommit=True) as connection:
        yield connection


def seen(connection: psycopg.Connection[Any], table: str, whose: UUID | None = None) -> list[UUID]:
    """Whose rows a table shows."""
    with connection.transaction():
        if whose is not None:
            connection.execute(_SET, (str(whose),))
        query = sql.SQL("SELECT DISTINCT organisation_id FROM {}").format(sql.SQL(table))
        return [one for (one,) in connection.execute(query).fetchall()]


# what it sees


def test_of_every_table_with_an_organisation_it_sees_its_own_rows_alone(
    api: psycopg.Connection[Any],
) -> None:
    shown = []
    for name, owned in tables(api):
        if not owned:
            continue
        query = sql.SQL("{} FROM pg_class WHERE oid = %s::regclass").format(sql.SQL(_CONFINED))
        assert api.execute(query, (name,)).fetchone() == (True,), f"{name} has no policy"
        try:
            assert seen(api, name) == [], name
        except psycopg.errors.InsufficientPrivilege:
            continue
        for one in BOTH:
            assert seen(api, name, one) == [one], name
        assert seen(api, name, uuid4()) == [], name
        assert seen(api, name) == [], f"{name}: a transaction's organisation outlived it"
        shown.append(name)
    assert {f"read_models.{name}" for name in TABLES} < set(shown)
    assert {"events", "commands", "attempts", "personal_access", "person_keys"} < set(shown)
    assert not {"person_search", "seal_decisions"} & set(shown)


def test_what_belongs_to_no_organisation_is_denied_but_for_what_is_named(
    api: psycopg.Connection[Any],
) -> None:
    read = set()
    for name, owned in tables(api):
        if owned:
            continue
        try:
            api.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(sql.SQL(name)))
        except psycopg.errors.InsufficientPrivilege:
            continue
        read.add(name)
    assert read == set(OF_NOBODY)


@pytest.mark.parametrize("column", ["person_keys.wrapped", "commands.digest", "personal_access.*"])
def test_keys_and_digests_are_nobodys_to_read(api: psycopg.Connection[Any], column: str) -> None:
    table, _, name = column.partition(".")
    if name == "*":
        api.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
        return
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        api.execute(
            sql.SQL("SELECT {} FROM {}").format(sql.Identifier(name), sql.Identifier(table))
        )


@pytest.mark.parametrize(
    "write",
    [
        "INSERT INTO {} DEFAULT VALUES",
        "DELETE FROM {}",
        "TRUNCATE {}",
        "SELECT FROM {} FOR UPDATE",
        "DROP TABLE {}",
        "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    ],
)
def test_it_writes_nothing(api: psycopg.Connection[Any], write: str) -> None:
    for name, _ in tables(api):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            api.execute(sql.SQL(write).format(sql.SQL(name)))


def test_it_changes_no_column(api: psycopg.Connection[Any]) -> None:
    granted = api.execute(
        """SELECT c.oid::regclass::text, a.attname FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname !~ '^pg_'
        WHERE c.relkind IN ('r', 'p', 'v')
            AND has_column_privilege(c.oid, a.attnum, 'INSERT, UPDATE, REFERENCES')"""
    )
    assert granted.fetchall() == []


def test_it_owns_nothing_is_nobody_else_and_calls_one_function_of_ours(
    api: psycopg.Connection[Any], filled: str
) -> None:
    [mine] = api.execute(
        """SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication,
            EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid),
            EXISTS (SELECT FROM pg_class WHERE relowner = r.oid)
        FROM pg_roles r WHERE rolname = current_user"""
    ).fetchall()
    assert not any(mine), mine
    callable_ = api.execute(
        """SELECT proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
            AND has_function_privilege(p.oid, 'EXECUTE')"""
    )
    assert callable_.fetchall() == [("diverged",)]
    owner = urlsplit(filled).username or ""
    for forbidden in (
        sql.SQL("SET ROLE {}").format(sql.Identifier(owner)),
        sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(owner)),
        sql.SQL("CREATE TABLE mine (one integer)"),
        sql.SQL("CREATE TABLE read_models.mine (one integer)"),
        # Says that row-level security is to be an error, not that it is off.
        sql.SQL("SET row_security = off; SELECT FROM events"),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            api.execute(forbidden)


# read models come and go


def test_a_rebuilt_a_former_and_a_rolled_back_table_are_confined_too(
    api: psycopg.Connection[Any], filled: str
) -> None:
    table = TABLES["order_summary"]

    async def former() -> None:
        async with await AsyncConnection.connect(filled, autocommit=True) as connection:
            await store.roll_back(connection, table)

    def confined() -> None:
        for suffix in ("", store.OLD):
            assert seen(api, f"read_models.{table.name}{suffix}") == []
            for one in BOTH:
                assert seen(api, f"read_models.{table.name}{suffix}", one) == [one]

    asyncio.run(rebuild(filled, table))
    confined()
    asyncio.run(former())
    confined()
    asyncio.run(rebuild(filled, table))
    confined()

    async def beside() -> None:
        async with await AsyncConnection.connect(filled, autocommit=True) as connection:
            await store.begin_rebuild(connection, table)

    asyncio.run(beside())
    name = f"read_models.{table.name}{store.NEXT}"
    with psycopg.connect(filled, autocommit=True) as owner:
        put(owner, name, ORGANISATION)
        assert seen(owner, name) == [ORGANISATION]
    assert seen(api, name) == []
    assert seen(api, name, ORGANISATION) == [ORGANISATION]
    assert seen(api, name, OTHER) == []


# queries


class Whose(Row):
    """Whose a row is."""

    organisation_id: UUID


#: A query that says nothing of the organisation whose rows it wants.
CARELESS = """SELECT DISTINCT organisation_id FROM read_models.order_summary
    WHERE %(organisation_id)s::uuid IS NOT NULL"""


def test_queries_of_two_organisations_on_one_connection_do_not_mix(filled: str) -> None:
    async def story() -> None:
        conninfo = await of_queries(filled)
        async with (
            AsyncConnectionPool(filled, open=False) as owners,
            AsyncConnectionPool(
                conninfo, min_size=1, max_size=1, open=False, kwargs={"autocommit": True}
            ) as single,
        ):
            log = Log(owners, single)
            asked = [BOTH[number % 2] for number in range(30)]
            rows = [ReadModels(log, one).rows(Whose, CARELESS) for one in asked]
            records = [ReadModels(log, one).records(Whose, CARELESS) for one in asked]
            found = await asyncio.gather(*rows, *records)
            assert [[one.organisation_id for one in some] for some in found] == [
                [one] for one in asked * 2
            ]
            head = await log.head()
            for one in asked[:4]:
                events = await log.of(one).after(0, 10_000, to=head)
                assert {event.organisation_id for event in events} == {one}
                other = OTHER if one == ORGANISATION else ORGANISATION
                foreign = (await log.of(other).after(0, 3, to=head))[0]
                assert await log.of(one).at([foreign.position, events[0].position]) == {
                    events[0].position: events[0]
                }
                assert await log.of(one).streams([foreign.stream_id]) == {foreign.stream_id: []}
            async with single.connection() as connection:
                with pytest.raises(psycopg.errors.DivisionByZero):
                    async with log.of(OTHER).together(connection):
                        await connection.execute("SELECT 1 / 0")
                for table in ("events", "read_models.order_summary"):
                    query = sql.SQL("SELECT count(*) FROM {}").format(sql.SQL(table))
                    counted = await (await connection.execute(query)).fetchone()
                    assert counted == (0,), "what one query may see, the next one sees too"
                said = await connection.execute(
                    "SELECT current_setting('chainlytics.organisation')"
                )
                assert await said.fetchone() == ("",)

    asyncio.run(story())


def test_the_application_asks_as_that_role_and_its_owner_is_not_confined(filled: str) -> None:
    async def story() -> None:
        async with application(filled, pool_size=2) as app:
            own = ReadModels(app.log, OTHER)
            assert [one.organisation_id for one in await own.rows(Whose, CARELESS)] == [OTHER]
            async with app.log.of(OTHER).transaction() as connection:
                user = await (await connection.execute("SELECT current_user")).fetchone()
            assert user == (f"{urlsplit(filled).username}_api",)
            assert {event.organisation_id for event in await app.log.after(0, 10_000)} == set(BOTH)
        async with application(filled, pool_size=2, queries=False) as app:
            with pytest.raises(ValueError, match="without connections for queries"):
                app.log.of(OTHER)

    asyncio.run(story())


# where the tables come from


def test_a_database_of_a_former_version_and_a_restored_one_are_confined(
    filled: str, server_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "log.backup"
    backup(filled, file)
    with databases(server_url, 1) as [url]:
        prepare_database(url)
        asyncio.run(Projector(url, list(TABLES.values())).create())
        with psycopg.connect(url, autocommit=True) as owner:
            for name, owned in tables(owner):
                if owned:
                    for undo in (
                        "DROP POLICY own_organisation ON {}",
                        "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
                        "REVOKE ALL ON {} FROM " + owner.info.user + "_api",
                    ):
                        owner.execute(sql.SQL(undo).format(sql.SQL(name)))
            owner.execute("UPDATE schema_applied SET digest = 'of a former version'")
            put(owner, "read_models.order_summary", OTHER)
        prepare_database(url)
        asyncio.run(Projector(url, list(TABLES.values())).create())
        restore(url, file)
        with psycopg.connect(asyncio.run(of_queries(url)), autocommit=True) as session:
            assert seen(session, "read_models.order_summary") == []
            assert seen(session, "read_models.order_summary", OTHER) == [OTHER]
            for one in BOTH:
                assert seen(session, "events", one) == [one]
                assert seen(session, "person_keys", one) == [one]
            for name, owned in tables(session):
                if owned:
                    query = f"{_CONFINED} FROM pg_class WHERE oid = '{name}'::regclass"
                    assert session.execute(query).fetchone() == (True,), name
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("SELECT wrapped FROM person_keys")


# who may make the role


@contextmanager
def databases(server_url: str, count: int, owner: str | None = None) -> Iterator[list[str]]:
    """Empty databases, of an owner who may make roles or not."""
    names = [f"rls_{uuid4().hex[:12]}" for _ in range(count)]
    with psycopg.connect(server_url, autocommit=True) as server:
        for name in names:
            server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            if owner is not None:
                server.execute(
                    sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
                        sql.Identifier(name), sql.Identifier(owner)
                    )
                )
        yield [urlunsplit(urlsplit(server_url)._replace(path=f"/{name}")) for name in names]
        for name in names:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            server.execute(drop.format(sql.Identifier(name)))


@contextmanager
def owner_of(server_url: str, what: str) -> Iterator[str]:
    """A role that is no superuser; with those that follow from it it is gone afterwards."""
    name = f"owner_{uuid4().hex[:8]}"
    with psycopg.connect(server_url, autocommit=True) as server:
        query = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'first' " + what)
        server.execute(query.format(sql.Identifier(name)))
        yield name
        for role in (f"{name}_login", f"{name}_api", name):
            server.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def as_role(url: str, name: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{name}:{password}@{parts.hostname}:{parts.port}"))


def test_many_processes_make_the_role_at_once_and_it_follows_the_owners_password(
    server_url: str,
) -> None:
    def begin(url: str) -> str:
        prepare_database(url)
        return asyncio.run(of_queries(url))

    with (
        owner_of(server_url, "CREATEROLE") as name,
        databases(server_url, 3, name) as made,
        ThreadPoolExecutor(6) as threads,
    ):
        urls = [as_role(url, name, "first") for url in made]
        conninfos = set(threads.map(begin, urls * 2))
        assert len(conninfos) == len(urls)
        for conninfo in conninfos:
            assert "first" not in conninfo
            with psycopg.connect(conninfo) as session:
                assert session.info.user == f"{name}_api"
                assert seen(session, "events") == []
        with psycopg.connect(server_url, autocommit=True) as server:
            query = sql.SQL("ALTER ROLE {} PASSWORD 'second'").format(sql.Identifier(name))
            server.execute(query)
        anew = asyncio.run(of_queries(as_role(made[0], name, "second")))
        assert anew not in conninfos
        psycopg.connect(anew).close()


def test_an_owner_that_may_not_make_roles_says_what_it_needs(server_url: str) -> None:
    with owner_of(server_url, "") as name, databases(server_url, 1, name) as [made]:
        url = as_role(made, name, "first")
        with pytest.raises(RoleUnusable, match=rf"{name}_api .* missing.*CHAINLYTICS_API_DATABASE"):
            prepare_database(url)
        login = as_role(made, f"{name}_login", "own")
        with psycopg.connect(made, autocommit=True) as administrator:
            for query in (
                "CREATE ROLE {0}_api",
                "CREATE ROLE {0}_login LOGIN PASSWORD 'own'",
            ):
                administrator.execute(sql.SQL(query.format(name)))
            prepare_database(url)
            with pytest.raises(RoleUnusable, match="may not give the role"):
                asyncio.run(of_queries(url))
            with pytest.raises(RoleUnusable, match=rf"GRANT {name}_api TO {name}_login"):
                asyncio.run(of_queries(url, login))
            administrator.execute(sql.SQL(f"GRANT {name}_api TO {name}_login"))
        assert asyncio.run(of_queries(url, login)) == login
        with psycopg.connect(login) as session:
            assert seen(session, "events") == []
        for too_much in (url, made):
            with pytest.raises(RoleUnusable, match="sees the rows of every organisation"):
                asyncio.run(of_queries(url, too_much))


def test_without_a_password_the_role_is_taken_on_as_a_connection_begins(filled: str) -> None:
    role = f"{urlsplit(filled).username}_api"
    with psycopg.connect(taking_on(filled, role), autocommit=True) as session:
        assert session.execute("SELECT current_user").fetchone() == (role,)
        assert seen(session, "events") == []
        assert seen(session, "events", OTHER) == [OTHER]
