"""Many commands in chunks, decided ahead of one another: in order, once, whoever disturbs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commands import Bus, Context, Handler
from commands.bulk import Keyed, Progress, Sender, send_all
from commands.handler import Read
from domain.access import Role
from domain.catalogue import Catalogue
from domain.decider import Decider
from domain.errors import Refused
from domain.values import Command, Event
from eventstore import Log, LogUnavailable, Writer, prepare_database
from eventstore.streams import Streams
from tests.appending import head_locked

SERVICE = frozenset({Role.SERVICE})


class Step(Command):
    """The next step of a walk; it reads another walk, which must have begun as far."""

    walk: str
    number: int
    behind: str | None = None


class Disturb(Command):
    """Changes the version of a walk and nothing else."""

    walk: str


class Stepped(Event):
    number: int


class Disturbed(Event):
    by: str


@dataclass(frozen=True, slots=True)
class Walk:
    steps: int = 0


def evolve(walk: Walk, event: Event) -> Walk:
    return replace(walk, steps=event.number) if isinstance(event, Stepped) else walk


WALKS = Decider(initial=Walk(), evolve=evolve)


def step(command: Step, _: str, walk: Walk, *others: Walk) -> Sequence[Event]:
    if command.number != walk.steps + 1:
        raise Refused("walk.out_of_order", walk=command.walk, at=walk.steps, asked=command.number)
    if any(other.steps < command.number for other in others):
        raise Refused("walk.too_early", walk=command.walk, asked=command.number)
    return [Stepped(number=command.number)]


HANDLERS: dict[type[Command], Handler] = {
    Step: Handler(
        command=Step,
        roles=SERVICE,
        stream=lambda command: f"walks/{command.walk}",
        decider=WALKS,
        decide=step,
        reads=lambda one: [Read(f"walks/{one.behind}", WALKS)] if one.behind else [],
    ),
    Disturb: Handler(
        command=Disturb,
        roles=SERVICE,
        stream=lambda command: f"walks/{command.walk}",
        decider=WALKS,
        decide=lambda command, actor, walk: [Disturbed(by=actor)],
    ),
}
CATALOGUE = Catalogue({"test": (Stepped, Disturbed)}, {}, {})


@asynccontextmanager
async def opened(url: str, *, patience_s: float = 15) -> AsyncIterator[Bus]:
    prepare_database(url)
    async with (
        AsyncConnectionPool(url, open=False, kwargs={"autocommit": True}) as pool,
        Streams(url) as streams,
        Writer(url, patience_s=patience_s) as writer,
    ):
        yield Bus(Log(pool), streams, writer, HANDLERS, catalogue=CATALOGUE)


def walk_steps(seed: int, walks: int, steps: int) -> list[Keyed]:
    """Steps of several walks, mixed; each walk also looks at the one before it."""
    random, at = Random(seed), [0] * walks
    made: list[Keyed] = []
    while min(at) < steps:
        walk = random.randrange(walks)
        ready = walk == 0 or at[walk - 1] > at[walk]
        if at[walk] < steps and ready:
            at[walk] += 1
            behind = f"W{walk - 1}" if walk else None
            command = Step(walk=f"W{walk}", number=at[walk], behind=behind)
            made.append(Keyed(f"{walk}:{at[walk]}", command))
    return made


async def send(bus: Bus, keyed: Sequence[Keyed | None], organisation: UUID, chunk: int) -> Progress:
    refused: list[str] = []
    progress = await send_all(
        bus,
        keyed,
        Sender("walks", organisation, "ana", SERVICE),
        total=len(keyed),
        on_refusal=lambda one, code, detail: refused.append(f"{one.key} {code} {detail}"),
        chunk=chunk,
    )
    assert refused == []
    return progress


def steps_on_the_log(url: str) -> dict[UUID, list[int]]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            """SELECT originator_id, (convert_from(state, 'UTF8')::json->>'number')::int FROM events
            WHERE topic = 'test.Stepped.v1' ORDER BY notification_id"""
        ).fetchall()
    found: dict[UUID, list[int]] = {}
    for stream, number in rows:
        found.setdefault(stream, []).append(number)
    return found


@pytest.fixture(autouse=True)
def _empty(database: str) -> None:
    prepare_database(database)
    with psycopg.connect(database) as connection:
        connection.execute("TRUNCATE events, commands, snapshots")
        connection.execute("UPDATE log_head SET position = 0")


@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_chunks_that_build_on_one_another_keep_their_order(database: str, chunk: int) -> None:
    keyed = walk_steps(chunk, walks=4, steps=25)

    async def story() -> None:
        organisation = uuid4()
        async with opened(database) as bus:
            assert await send(bus, keyed, organisation, chunk) == Progress(100, stored=100)
            assert await send(bus, keyed, organisation, chunk) == Progress(100, repeated=100)
        async with opened(database) as fresh:
            assert await send(fresh, keyed, organisation, chunk) == Progress(100, repeated=100)

    asyncio.run(story())
    assert list(steps_on_the_log(database).values()) == [list(range(1, 26))] * 4


@pytest.mark.parametrize("chunk", [1, 4, 20])
def test_a_rival_makes_chunks_decide_again_and_none_overtakes_another(
    database: str, chunk: int
) -> None:
    keyed = walk_steps(7 + chunk, walks=4, steps=40)
    disturbed: list[int] = []
    begun = asyncio.Event()

    async def disturb(rival: Bus, organisation: UUID) -> None:
        random = Random(1)
        while True:
            context = Context(organisation, "rival", SERVICE)
            receipt = await rival.execute(Disturb(walk=f"W{random.randrange(4)}"), context)
            disturbed.append(receipt.position)
            begun.set()
            await asyncio.sleep(random.random() / 200)

    async def story() -> None:
        organisation = uuid4()
        async with opened(database) as bus, opened(database) as rival:
            disturbing = asyncio.create_task(disturb(rival, organisation))
            try:
                await begun.wait()
                assert await send(bus, keyed, organisation, chunk) == Progress(160, stored=160)
            finally:
                disturbing.cancel()
                await asyncio.gather(disturbing, return_exceptions=True)

    asyncio.run(story())
    assert len(disturbed) > 1
    assert list(steps_on_the_log(database).values()) == [list(range(1, 41))] * 4


def test_what_a_stopped_sender_left_is_gone_on_with(database: str) -> None:
    keyed = walk_steps(3, walks=3, steps=30)

    async def story() -> None:
        organisation = uuid4()

        def until(count: int) -> Iterator[Keyed]:
            yield from keyed[:count]
            raise KeyboardInterrupt

        async with opened(database) as bus:
            for count in (20, 50):
                with pytest.raises(KeyboardInterrupt):
                    await send_all(
                        bus,
                        until(count),
                        Sender("walks", organisation, "ana", SERVICE),
                        total=90,
                        on_refusal=lambda *told: pytest.fail(str(told)),
                        chunk=4,
                    )
            progress = await send(bus, keyed, organisation, 4)
            assert progress.stored + progress.repeated == 90
            assert progress.repeated >= 40

    asyncio.run(story())
    assert list(steps_on_the_log(database).values()) == [list(range(1, 31))] * 3


def test_a_database_that_stalls_ends_the_sending_and_loses_nothing(database: str) -> None:
    keyed = walk_steps(5, walks=3, steps=30)

    async def story() -> None:
        organisation = uuid4()
        async with opened(database, patience_s=0.4) as bus:
            with head_locked(database), pytest.raises(LogUnavailable):
                await send(bus, keyed, organisation, 10)
            progress = await send(bus, keyed, organisation, 10)
            assert progress.stored + progress.repeated == 90

    asyncio.run(story())
    assert list(steps_on_the_log(database).values()) == [list(range(1, 31))] * 3


def test_a_refused_command_holds_up_nobody_and_what_could_not_be_made_counts(
    database: str,
) -> None:
    good = walk_steps(9, walks=2, steps=10)
    bad = Keyed("bad", Step(walk="W0", number=99))
    keyed = [*good[:7], bad, None, *good[7:]]
    told: list[tuple[str, str]] = []

    async def story() -> Progress:
        async with opened(database) as bus:
            return await send_all(
                bus,
                keyed,
                Sender("walks", uuid4(), "ana", SERVICE),
                total=len(keyed),
                on_refusal=lambda one, code, _: told.append((one.key, code)),
                chunk=3,
            )

    assert asyncio.run(story()) == Progress(22, stored=20, rejected=2)
    assert told == [("bad", "walk.out_of_order")]
    assert list(steps_on_the_log(database).values()) == [list(range(1, 11))] * 2
