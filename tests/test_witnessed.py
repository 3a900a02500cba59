"""Witnesses get the newest head, also after an absence, and a refusal is seen by everybody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg_pool import AsyncConnectionPool
from structlog.testing import capture_logs
from typer.testing import CliRunner

from chainlytics.cli.witnesses import witnesses as witnesses_command
from eventstore import Log, Writer, prepare_database
from eventstore.seals.checkpoint import Key, opened, parsed, public_bytes
from eventstore.seals.proofs import Proofs
from eventstore.seals.sealer import Sealer
from eventstore.witnesses.addresses import witnesses_of
from eventstore.witnesses.file import FileWitness
from eventstore.witnesses.witness import HeadNote, Proof, WitnessRefused
from eventstore.witnesses.witnessed import hand_newest, keep_witnessed, pause
from tests.appending import unit
from tests.witnessing import QUICK, Host, TreeLog, kept, put, states, until, until_state, witness_of

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _empty(database: str) -> None:
    prepare_database(database)
    with psycopg.connect(database) as connection:
        connection.execute("TRUNCATE seal_heads, seal_witnessed, seal_cosignatures")


@pytest.fixture
def log() -> TreeLog:
    made = TreeLog()
    made.grow(5)
    return made


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


class Recorder:
    """Takes everything, after a while; keeps what it was handed."""

    name = "file:///recorder"

    def __init__(self, takes_s: float = 0) -> None:
        self.handed: list[HeadNote] = []
        self.seen: list[int] = []
        self.closed = False
        self._takes_s = takes_s

    async def hand(self, head: HeadNote, *, seen: int, proof: Proof) -> str:
        await asyncio.sleep(self._takes_s)
        self.handed.append(head)
        self.seen.append(seen)
        return ""

    async def close(self) -> None:
        self.closed = True


def test_each_new_head_is_handed_over_once(database: str, log: TreeLog) -> None:
    recorder = Recorder()

    async def story() -> None:
        await hand_newest(database, recorder, log.proof)
        assert recorder.handed == [], "there is no head yet"
        first = put(database, log.head())
        for _ in range(3):
            await hand_newest(database, recorder, log.proof)
        assert recorder.handed == [first]
        put(database, log.grow(1))
        second = put(database, log.grow(1))
        await hand_newest(database, recorder, log.proof)
        assert recorder.handed == [first, second], "only the newest is needed"
        assert recorder.seen == [0, 5]
        (state,) = await states(database, recorder.name)
        assert (state.state, state.number, state.size, state.error) == ("current", 7, 7, None)
        assert state.at is not None

    run(story())


def test_the_first_head_may_have_any_number(database: str, log: TreeLog) -> None:
    recorder = Recorder()

    async def story() -> None:
        head = log.head()
        put(database, HeadNote(0, head.note, head.head))
        for _ in range(2):
            await hand_newest(database, recorder, log.proof)
        assert [one.number for one in recorder.handed] == [0]
        assert [one.state for one in await states(database, recorder.name)] == ["current"]

    run(story())


def test_of_several_processes_one_hands_it_over(database: str, log: TreeLog) -> None:
    recorder = Recorder(takes_s=0.3)
    put(database, log.head())

    async def story() -> None:
        await asyncio.gather(*(hand_newest(database, recorder, log.proof) for _ in range(5)))
        assert len(recorder.handed) == 1
        async with kept(database, [recorder], log.proof), kept(database, [recorder], log.proof):
            heads = [put(database, log.grow(1))]
            await until(lambda: recorder.handed[1:] == heads)
            heads.append(put(database, log.grow(1)))
            await until(lambda: recorder.handed[1:] == heads)
        assert recorder.closed

    run(story())


def test_one_that_is_away_holds_up_no_other_and_catches_up(
    database: str, tmp_path: Path, log: TreeLog
) -> None:
    strict = witness_of(log)
    host = Host(strict.app)
    file = tmp_path / "heads"
    taking = witnesses_of(f"{file.as_uri()} {host.address}")
    put(database, log.head())

    async def story() -> None:
        async with kept(database, taking, log.proof):
            away = await until_state(database, host.address, "away")
            assert away.error is not None
            assert "ConnectError" in away.error
            assert (away.number, away.at) == (None, None)
            assert away.failed_at is not None
            for _ in range(3):
                put(database, log.grow(4))
                await until(lambda: file.read_text("utf-8").endswith(log.head().note))
            still = await until_state(database, host.address, "away")
            assert still.failed_at == away.failed_at, "since when it is away"
            with host.up():
                back = await until_state(database, host.address, "current")
                assert (back.number, back.error, back.failed_at) == (17, None, None)
                assert back.cosigned
                assert len(strict.bodies) == 1, "only the newest head is needed"
                put(database, log.grow(1))
                await until_state(database, host.address, "current")
                await until(lambda: strict.seen == log.head().head)
        assert [one.partition("\n")[0] for one in strict.bodies] == ["old 0", "old 17"]

    run(story())
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            "SELECT number, witness, signatures FROM seal_cosignatures ORDER BY number"
        ).fetchall()
    assert [row[:2] for row in rows] == [(17, host.address), (18, host.address)]
    keys = [Key(public_bytes(log.key.public_key()))]
    assert opened(log.head().note + rows[-1][2], keys)[0] == log.head().head


def test_a_refusal_is_loud_everywhere_and_ends_when_it_is_cleared_up(
    database: str, tmp_path: Path, log: TreeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "heads"
    address = file.as_uri()
    away = (tmp_path / "no mount" / "heads").as_uri()
    run(FileWitness(file).hand(log.rewritten(2).head(), seen=0, proof=log.proof))
    put(database, log.grow(3))
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("CHAINLYTICS_WITNESSES", f"{address} {away}")

    async def story() -> None:
        with capture_logs() as lines:
            async with kept(database, witnesses_of(f"{address} {away}"), log.proof):
                await until_state(database, address, "refused")
                await until_state(database, away, "away")
        levels = {line["witness"]: line["log_level"] for line in lines if "witness" in line}
        assert levels == {address: "error", away: "warning"}

    run(story())
    done, found = command("--json")
    assert done == 1
    assert [(one["name"], one["state"]) for one in found] == [
        (address, "refused"),
        (away, "away"),
    ]
    assert "the log was rewritten" in found[0]["error"]
    assert found[0]["newest_size"] == 8
    done, text = command()
    assert done == 1
    assert f"REFUSED by {address}" in text
    assert f"not taken by {away}" in text

    # Not asking it any more does not make it forgotten.
    monkeypatch.setenv("CHAINLYTICS_WITNESSES", away)
    assert command()[0] == 1

    # The wrong file was named: put right, the witness takes heads again.
    file.unlink()
    run(hand_newest(database, FileWitness(file), log.proof))
    monkeypatch.setenv("CHAINLYTICS_WITNESSES", address)
    done, found = command("--json")
    assert done == 0
    assert [(one["name"], one["state"]) for one in found] == [
        (address, "current"),
        (away, "dropped"),
    ]


def test_the_command_line_says_who_is_behind(
    database: str, tmp_path: Path, log: TreeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("CHAINLYTICS_WITNESSES", "")
    assert command() == (
        0,
        "no witness is named: CHAINLYTICS_WITNESSES=file:///... (or http, kafka)\n",
    )
    assert command("--json") == (0, [])
    file = tmp_path / "heads"
    monkeypatch.setenv("CHAINLYTICS_WITNESSES", file.as_uri())
    assert "no head is signed yet" in command()[1]
    put(database, log.head())
    (one,) = command("--json")[1]
    assert (one["state"], one["number"]) == ("behind", None)
    run(hand_newest(database, FileWitness(file), log.proof))
    put(database, log.grow(1))
    (one,) = command("--json")[1]
    assert (one["state"], one["number"], one["newest_number"]) == ("behind", 5, 6)


def test_a_head_older_than_what_a_witness_has_is_not_even_handed_over(
    database: str, log: TreeLog
) -> None:
    recorder = Recorder()
    put(database, log.head())

    async def story() -> None:
        await hand_newest(database, recorder, log.proof)
        with psycopg.connect(database) as connection:
            connection.execute("TRUNCATE seal_heads")
        put(database, log.head(3))
        with pytest.raises(WitnessRefused, match=r"head 5 of 5 events.* head 3 of 3: "):
            await hand_newest(database, recorder, log.proof)
        assert len(recorder.handed) == 1
        assert [one.state for one in await states(database, recorder.name)] == ["refused"]

    run(story())


def test_a_head_that_was_tampered_with_in_the_database_is_refused(
    database: str, log: TreeLog
) -> None:
    head = log.head()
    put(database, HeadNote(5, head.note.replace("\n5\n", "\n05\n"), head.head))
    with pytest.raises(WitnessRefused, match="head 5 in the database is no checkpoint"):
        run(hand_newest(database, Recorder(), log.proof))


def test_a_proof_that_cannot_be_made_holds_up_one_witness_only(
    database: str, tmp_path: Path, log: TreeLog
) -> None:
    file = tmp_path / "heads"
    run(FileWitness(file).hand(log.head(), seen=0, proof=log.proof))
    put(database, log.grow(1))
    recorder = Recorder()

    async def broken(old: int, new: int) -> list[bytes]:
        raise ValueError(f"no tiles for {old} and {new}")

    async def story() -> None:
        async with kept(database, [FileWitness(file), recorder], broken):
            await until(lambda: len(recorder.handed) == 1)
            away = await until_state(database, file.as_uri(), "away")
            assert away.error == "ValueError: no tiles for 5 and 6"
            put(database, log.grow(1))
            await until(lambda: len(recorder.handed) == 2)

    run(story())


def test_no_database_no_end(database: str, log: TreeLog) -> None:
    async def story() -> None:
        gone = database.replace(database.rsplit("/", 1)[1], "not_there")
        with capture_logs() as lines:
            async with kept(gone, [Recorder()], log.proof):
                await until(lambda: len(lines) >= 2)
        assert {line["event"] for line in lines} == {"witness later"}
        await keep_witnessed(gone, [], every=QUICK, proof=log.proof)

    run(story())


def test_who_fails_is_asked_later_and_later() -> None:
    second = timedelta(seconds=1)
    waits = [pause(second, failures).total_seconds() for failures in (0, 1, 2, 9, 10, 1000)]
    assert waits == [1, 2, 4, 512, 600, 600]
    assert pause(timedelta(hours=1), 3) == timedelta(hours=1)


def test_what_the_sealer_signs_is_taken_with_the_proofs_that_it_kept(
    database: str, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    strict = witness_of(TreeLog(key=key))
    host, file = Host(strict.app), tmp_path / "heads"
    taking = witnesses_of(f"{file.as_uri()} {host.address}")
    sealer = Sealer(database, lambda: key, "no such topic", stretch=400)
    sizes = []

    async def story() -> None:
        pool = AsyncConnectionPool(database, open=False, min_size=1, max_size=2)
        async with pool, Writer(database) as writer:
            proofs = Proofs(Log(pool))
            for count in (1, 2, 300, 7, 600):
                await writer.append(unit(uuid4(), *range(1, count + 1)))
                sealed = await asyncio.to_thread(sealer.seal)
                assert sealed is not None
                sizes.append(sealed.size)
                for witness in taking:
                    await hand_newest(database, witness, proofs.path)
                assert strict.seen == parsed(sealed.note)
        await asyncio.gather(*(one.close() for one in taking))

    with host.up():
        run(story())
    assert sizes == [1, 3, 303, 310, 910]
    notes = file.read_text("utf-8").split("\n\n")[::2]
    assert [parsed(f"{note}\n\n").size for note in notes] == sizes


def command(*options: str) -> tuple[int, Any]:
    """What `chainlytics audit witnesses` answers."""
    app = typer.Typer()
    app.command()(witnesses_command)
    done = CliRunner().invoke(app, [*options], env={"COLUMNS": "300"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, json.loads(done.output) if "--json" in options else done.output
