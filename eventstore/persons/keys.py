"""Keys of persons: made, looked up, searched by, destroyed, and wrapped anew."""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg

from eventstore.log import Connection, Log, LogUnavailable
from eventstore.persons.cipher import (
    PersonCipher,
    WrongKey,
    derived_key,
    index_token,
    new_key,
    normalised,
    unwrap,
    wrap,
)
from eventstore.persons.claims import BELONGS, Claim, release

#: Held shared while keys are wrapped, and by nobody else while the master key is replaced.
_REWRAPPING = 0x_C4A1_0006
_SECRET = b"secret"
_MASTER_CHANGED = "CL003"
_AT_ONCE = 5_000
_TOGETHER = 500  # persons in one question

_READ_SECRET = "SELECT wrapped FROM person_secret"
_MAKE_SECRET = "INSERT INTO person_secret (wrapped) VALUES (%s) ON CONFLICT DO NOTHING"
_KEYS_FOR = """SELECT key_id, wrapped FROM person_keys_for(
        %b::bytea, %b::uuid[], %b::bytea[], %b::uuid[], %b::bytea[],
        %b::bigint[], %b::text[], %b::bytea[],
        %b::bigint[], %b::uuid[], %b::uuid[]) ORDER BY person"""
_OPEN = """SELECT key_id, wrapped, created_at, erased_at FROM person_keys
    WHERE organisation_id = %s AND key_id = ANY(%s)"""
# A key that is destroyed has no row in the index; the join is for a moment between two snapshots.
_FIND = f"""SELECT k.key_id, array_agg(DISTINCT w.field ORDER BY w.field)
    FROM unnest(%s::text[], %s::bytea[]) AS w (field, token)
    JOIN person_search s ON s.organisation_id = %s AND s.field = w.field AND s.token = w.token
    JOIN person_keys k ON k.key_id = s.key_id AND k.wrapped IS NOT NULL
    WHERE {BELONGS}
    GROUP BY k.key_id ORDER BY k.created_at, k.key_id LIMIT %s"""
_ERASED = "SELECT key_id FROM person_keys WHERE organisation_id = %s AND wrapped IS NULL"
_TAKE_KEY = """UPDATE person_keys SET wrapped = NULL, erased_at = clock_timestamp()
    WHERE organisation_id = %s AND key_id = %s AND wrapped IS NOT NULL"""
_TAKE_INDEX = "DELETE FROM person_search WHERE organisation_id = %s AND key_id = %s"
_TAKE_CLAIMS = """DELETE FROM person_claims c USING person_keys k
    WHERE k.organisation_id = %s AND k.key_id = %s AND c.key_id = k.key_id"""
_WRAPPED = """SELECT key_id, wrapped FROM person_keys
    WHERE wrapped IS NOT NULL AND key_id > %s ORDER BY key_id LIMIT %s"""
_REWRAP = """UPDATE person_keys k SET wrapped = n.wrapped
    FROM unnest(%b::uuid[], %b::bytea[]) AS n (key_id, wrapped)
    WHERE k.key_id = n.key_id AND k.wrapped IS NOT NULL"""


class WrongMasterKey(Exception):
    """The master key is not the one that wrapped the keys of this database."""

    def __init__(self) -> None:
        super().__init__(
            "the master key is not the one that this database's personal data was encrypted with; "
            "set CHAINLYTICS_MASTER_KEY to it (after a rotation: to the new one, in each process)"
        )


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody as a command names them: whose, their id there, what they can be searched by, and
    the command's claim; a key that is made without one needs no event."""

    organisation_id: UUID
    person_id: str
    searched: Mapping[str, str] = field(default_factory=dict)
    claim: Claim | None = None


class PersonKey(NamedTuple):
    """A person's key: its id is the pseudonym; ``cipher`` is None once the person is erased."""

    key_id: UUID
    cipher: PersonCipher | None
    created_at: datetime
    erased_at: datetime | None


#: A pseudonym and what makes tokens of that person.
Made = tuple[UUID, PersonCipher]


class _Secret(NamedTuple):
    """The opened secret. ``wrapped``: as it is stored, to see that it still is the one."""

    wrapped: bytes
    index_key: bytes
    digest_key: bytes
    webhook_key: bytes


class PersonKeys:
    """The keys of one database.

    Unwrapped keys are not remembered: unwrapping costs microseconds, and a memory could outlive an
    erasure. Only the secret of the index is kept, and compared with the stored one on each use.

    Args:
        log: whose database it is.
        master: gives the master key, 32 bytes; asked when first needed.
        patience_s: how long the database may take.
    """

    def __init__(self, log: Log, master: Callable[[], bytes], *, patience_s: float = 15.0) -> None:
        self._log = log
        self._master = master
        self._patience_s = patience_s
        self._opened: _Secret | None = None
        self._waiting: deque[tuple[Sequence[Person], asyncio.Future[list[Made]]]] = deque()
        self._making: asyncio.Task[None] | None = None

    async def digest(self, digest: bytes) -> bytes:
        """A command's digest that nobody can compare with guesses who does not have the secret.

        Raises:
            WrongMasterKey: nothing was written.
            LogUnavailable: the database did not answer in time.
        """
        return hmac.digest((await self._secret()).digest_key, digest, "sha256")

    async def webhook_key(self) -> bytes:
        """The key that secrets of webhooks are encrypted with: derived from the secret that the
        master key wraps, so that it outlives that key's rotation.

        Raises:
            WrongMasterKey: nothing can be signed with it.
            LogUnavailable: the database did not answer in time.
        """
        return (await self._secret()).webhook_key

    async def for_writing(self, persons: Sequence[Person]) -> list[Made]:
        """Pseudonym and cipher of each person, made where there is none; one round trip, in which
        all are asked for who came while the last one was under way.

        The key is alive at this moment. That nothing is stored under a key that is erased after
        it, the append sees to: it holds only while the person's stream has no erasure.

        Raises:
            WrongMasterKey: nothing was written.
            LogUnavailable: the database did not answer in time.
        """
        answer: asyncio.Future[list[Made]] = asyncio.get_running_loop().create_future()
        self._waiting.append((persons, answer))
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make(), name="keys of persons")
        return await answer

    async def _make(self) -> None:
        while self._waiting:
            some, count = [], 0
            while self._waiting and count < _TOGETHER:
                some.append(self._waiting.popleft())
                count += len(some[-1][0])
            try:
                made = iter(await self._made([one for persons, _ in some for one in persons]))
            except Exception as error:
                for _, answer in some:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for persons, answer in some:
                own = list(islice(made, len(persons)))
                if not answer.done():
                    answer.set_result(own)

    async def _made(self, persons: Sequence[Person]) -> list[Made]:
        for _ in range(2):
            secret = await self._secret()
            try:
                return await self._for_writing(secret, persons)
            except psycopg.DatabaseError as error:
                if error.sqlstate != _MASTER_CHANGED:
                    raise
            self._opened = None  # a backup was restored, or the master key was replaced
        raise WrongMasterKey

    async def _for_writing(self, secret: _Secret, persons: Sequence[Person]) -> list[Made]:
        master = self._master()
        places: dict[tuple[UUID, bytes], int] = {}
        of_person: list[int] = []
        searched: dict[tuple[int, str, bytes], None] = {}
        claimed: dict[tuple[int, Claim], None] = {}
        for one in persons:
            own = one.organisation_id
            token = index_token(secret.index_key, own, "person_id", one.person_id)
            place = places.setdefault((own, token), len(places) + 1)
            of_person.append(place)
            for name, value in one.searched.items():
                if normalised(name, value):
                    searched[place, name, index_token(secret.index_key, own, name, value)] = None
            if one.claim is not None:
                claimed[place, one.claim] = None
        new_ids = [uuid4() for _ in places]
        wrapped = [wrap(master, new_key(), id_.bytes) for id_ in new_ids]
        async with self._connection() as connection:
            cursor = await connection.execute(
                _KEYS_FOR,
                (
                    secret.wrapped,
                    [own for own, _ in places],
                    [token for _, token in places],
                    new_ids,
                    wrapped,
                    [place for place, _, _ in searched],
                    [name for _, name, _ in searched],
                    [token for _, _, token in searched],
                    [place for place, _ in claimed],
                    [claim.id for _, claim in claimed],
                    [claim.stream_id for _, claim in claimed],
                ),
            )
            rows = await cursor.fetchall()
        found = [(id_, PersonCipher(id_, _unwrapped(master, id_, one))) for id_, one in rows]
        return [found[place - 1] for place in of_person]

    async def for_reading(
        self, organisation_id: UUID, key_ids: Collection[UUID]
    ) -> dict[UUID, PersonKey]:
        """Those of the keys that the organisation has or had.

        Raises:
            WrongMasterKey: a key is wrapped by another one.
            LogUnavailable: the database did not answer in time.
        """
        async with self._connection() as connection:
            rows = await (
                await connection.execute(_OPEN, (organisation_id, list(key_ids)))
            ).fetchall()
        if not rows:
            return {}
        master = self._master() if any(wrapped is not None for _, wrapped, _, _ in rows) else b""
        return {
            key_id: PersonKey(
                key_id,
                None
                if wrapped is None
                else PersonCipher(key_id, _unwrapped(master, key_id, wrapped)),
                created_at,
                erased_at,
            )
            for key_id, wrapped, created_at, erased_at in rows
        }

    async def find(
        self, organisation_id: UUID, fields: Sequence[str], value: str, limit: int = 50
    ) -> dict[UUID, list[str]]:
        """The persons of whom one of the fields has exactly this value, letter case and blanks
        aside, and which fields those are. Who was erased is not found, nor somebody of whom
        nothing was ever stored.

        Raises:
            WrongMasterKey: nobody could be found with it.
            LogUnavailable: the database did not answer in time.
        """
        fields = [name for name in fields if normalised(name, value)]
        secret = await self._secret(fresh=True)
        tokens = [index_token(secret.index_key, organisation_id, name, value) for name in fields]
        async with self._connection() as connection:
            rows = await (
                await connection.execute(_FIND, (fields, tokens, organisation_id, limit))
            ).fetchall()
        return dict(rows)

    async def known(self, organisation_id: UUID, key_ids: Collection[UUID]) -> dict[UUID, bool]:
        """Those of the pseudonyms that the organisation has or had, and whether they are erased; a
        master key is not needed for it.

        Raises:
            LogUnavailable: the database did not answer in time.
        """
        async with self._connection() as connection:
            rows = await (
                await connection.execute(_OPEN, (organisation_id, list(key_ids)))
            ).fetchall()
        return {key_id: wrapped is None for key_id, wrapped, _, _ in rows}

    async def release(self, claims: Collection[UUID]) -> None:
        """Give up the claims of commands that were not stored. Of keys that nobody else claims, and
        that no event needs, nothing is left.

        Raises:
            LogUnavailable: the database did not answer in time; the keys go an hour later.
        """
        async with self._connection() as connection:
            await release(connection, claims)

    async def destroy(self, organisation_id: UUID, key_id: UUID) -> None:
        """Destroy a person's key, and what the person could be found by; again changes nothing.

        Raises:
            LogUnavailable: the database did not answer in time.
        """
        async with self._connection() as connection:
            await destroy(connection, organisation_id, key_id)

    async def _secret(self, *, fresh: bool = False) -> _Secret:
        """The secret, made where there is none. ``fresh``: compared with the stored one."""
        if self._opened is not None and not fresh:
            return self._opened
        async with self._connection() as connection:
            row = await (await connection.execute(_READ_SECRET)).fetchone()
            if row is None:
                made = wrap(self._master(), new_key(), _SECRET)
                await connection.execute(_MAKE_SECRET, (made,))
                row = await (await connection.execute(_READ_SECRET)).fetchone()
        assert row is not None
        wrapped = bytes(row[0])
        if self._opened is None or self._opened.wrapped != wrapped:
            try:
                secret = unwrap(self._master(), wrapped, _SECRET)
            except WrongKey as error:
                raise WrongMasterKey from error
            self._opened = _Secret(
                wrapped,
                derived_key(secret, "chainlytics:person-index"),
                derived_key(secret, "chainlytics:command-digest"),
                derived_key(secret, "chainlytics:webhook-secrets"),
            )
        return self._opened

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        try:
            async with asyncio.timeout(self._patience_s), self._log.connection() as connection:
                yield connection
        except TimeoutError as error:
            raise LogUnavailable("the database did not answer in time") from error


async def erased_persons(log: Log, organisation_id: UUID) -> frozenset[str]:
    """The pseudonyms of the organisation's erased persons.

    Raises:
        LogUnavailable: the database gave no connection in time.
    """
    async with log.connection() as connection:
        rows = await (await connection.execute(_ERASED, (organisation_id,))).fetchall()
    return frozenset(str(key_id) for (key_id,) in rows)


async def destroy(connection: Connection, organisation_id: UUID, key_id: UUID) -> None:
    """As ``PersonKeys.destroy``, on the caller's connection."""
    # Apart: the later ones see rows that were written while the first one waited.
    async with connection.transaction():
        await connection.execute(_TAKE_KEY, (organisation_id, key_id))
        await connection.execute(_TAKE_INDEX, (organisation_id, key_id))
        await connection.execute(_TAKE_CLAIMS, (organisation_id, key_id))


def rewrap(url: str, old: bytes, new: bytes, report: Callable[[int], None] = lambda _: None) -> int:
    """Wrap all keys by a new master key, in one transaction; how many. 0: they all were before.

    Processes that still have the old one are told so from then on, and can neither read nor write.

    Raises:
        WrongMasterKey: the old one is not the one they are wrapped by; nothing was changed.
        psycopg.OperationalError: the database cannot be reached.
    """
    count = 0
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_REWRAPPING,))
        row: Any = connection.execute(_READ_SECRET).fetchone()
        if row is None:
            return 0
        try:
            unwrap(new, row[0], _SECRET)
            return 0
        except WrongKey:
            pass
        try:
            secret = unwrap(old, row[0], _SECRET)
            connection.execute(
                "UPDATE person_secret SET wrapped = %s", (wrap(new, secret, _SECRET),)
            )
            last = UUID(int=0)
            while rows := connection.execute(_WRAPPED, (last, _AT_ONCE)).fetchall():
                again = [
                    (id_, wrap(new, unwrap(old, one, id_.bytes), id_.bytes)) for id_, one in rows
                ]
                # Who is erased meanwhile stays so, and is not counted.
                done = connection.execute(_REWRAP, tuple(map(list, zip(*again, strict=True))))
                last, count = rows[-1][0], count + done.rowcount
                report(count)
        except WrongKey as error:
            raise WrongMasterKey from error
    return count


def _unwrapped(master: bytes, key_id: UUID, wrapped: bytes) -> bytes:
    try:
        return unwrap(master, wrapped, key_id.bytes)
    except WrongKey as error:
        raise WrongMasterKey from error
