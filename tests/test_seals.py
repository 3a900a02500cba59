"""The sealer: it goes on where it was, never seals a hole, and its keys rotate."""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from datetime import UTC, timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlytics import verifier
from eventstore.log import StoredEvent
from eventstore.seals import leaves
from eventstore.seals.checkpoint import (
    BadCheckpoint,
    Head,
    Key,
    notes_in,
    opened,
    origin_of,
    parsed,
    signed,
)
from eventstore.seals.leaves import row_bytes
from eventstore.seals.sealer import LogBroken, Sealer, SealingRefused, keep_sealed
from eventstore.seals.signing import (
    WrongKey,
    chain,
    key_of,
    public_keys,
    read_key,
    registered,
    rotate,
)
from eventstore.seals.verification import verify
from tests.sealing import DECISIONS, append, emptied, key, run, seal, sealer


@pytest.fixture
def log(database: str) -> str:
    return emptied(database)


def head_of(note: str) -> Head:
    return opened(note, [Key(key().public_key().public_bytes_raw())])[0]


def tables(url: str) -> list[list[tuple[object, ...]]]:
    with psycopg.connect(url) as connection:
        return [
            connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3").fetchall()
            for name in ("seal_tiles", "seal_trees", "seal_decisions")
        ]


def test_sealing_in_one_go_or_in_many_steps_is_the_same(log: str) -> None:
    append(log, 700, decisions=7)
    assert seal(log).size == 700
    once = tables(log)
    run(log, "TRUNCATE seal_tiles, seal_trees, seal_heads, seal_decisions")
    for _ in range(3):
        assert seal(log, stretch=33).size == 700
        assert sealer(log).seal() is None  # nothing new
        assert tables(log) == once
        run(log, "TRUNCATE seal_tiles, seal_trees, seal_heads, seal_decisions")


def test_it_goes_on_behind_what_is_sealed(log: str) -> None:
    append(log, 300)
    first = head_of(seal(log).note)
    append(log, 257)
    second = head_of(seal(log).note)
    assert (first.size, second.size) == (300, 557)
    assert verify(log, DECISIONS).holds


def test_killed_in_the_middle_it_goes_on_as_if_nothing_had_been(log: str) -> None:
    append(log, 500, decisions=5)

    class Killed(Exception):
        pass

    def die(done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        sealer(log, stretch=200).seal(die)  # behind its first commit
    with psycopg.connect(log) as connection:  # its second stretch is written, not committed
        assert sealer(log)._step(connection, key(), 500) is not None
        connection.rollback()
    assert verify(log, DECISIONS).sealed == 200
    assert seal(log, stretch=200).size == 500
    verdict = verify(log, DECISIONS)
    assert verdict.holds
    assert verdict.heads == 3


def test_a_hole_is_never_sealed(log: str) -> None:
    append(log, 300)
    run(log, "DELETE FROM events WHERE notification_id = 222")
    with pytest.raises(LogBroken, match="position 222 is missing"):
        sealer(log, stretch=100).seal()
    assert verify(log, DECISIONS).sealed == 200


def test_a_log_that_lost_its_last_event_is_not_sealed(log: str) -> None:
    append(log, 30)
    run(log, "DELETE FROM events WHERE notification_id = 30")
    with pytest.raises(LogBroken, match="position 30 is missing"):
        sealer(log).seal()


# nothing is signed that does not grow from what was signed


def test_what_was_changed_with_its_seals_is_not_signed_anew(log: str, tmp_path: Path) -> None:
    memory = tmp_path / "seal.head"
    append(log, 100)
    assert sealer(log, memory=memory).seal() is not None
    run(
        log,
        "UPDATE events SET actor = 'eve' WHERE notification_id = 70",
        "TRUNCATE seal_heads, seal_trees, seal_tiles, seal_decisions",
    )
    append(log, 10)
    with pytest.raises(SealingRefused, match="0 sealed events, 100 were signed before"):
        sealer(log, memory=memory).seal()
    # Nor where what is stored of the seals looks right: a sealer elsewhere is deceived once.
    assert sealer(log).seal() is not None
    with pytest.raises(SealingRefused, match="does not grow from what was signed before"):
        sealer(log, memory=memory).seal()


def test_a_log_that_was_set_back_is_not_signed(log: str, tmp_path: Path) -> None:
    memory = tmp_path / "seal.head"
    append(log, 100)
    sealer(log, memory=memory).seal()
    run(
        log,
        "DELETE FROM events WHERE notification_id > 60",
        "UPDATE log_head SET position = 60",
    )
    with pytest.raises(SealingRefused, match="100 events were sealed, and the log has only 60"):
        sealer(log, memory=memory).seal()
    run(log, "TRUNCATE seal_heads, seal_trees, seal_tiles, seal_decisions")
    mine = sealer(log, memory=memory)
    with pytest.raises(SealingRefused, match="--restored"):
        mine.seal()
    mine.forget()
    newest = mine.seal()
    assert newest is not None
    assert newest.size == 60


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM seal_tiles", "damaged"),
        ("DELETE FROM seal_tiles WHERE level = 1", "damaged"),
        ("UPDATE seal_tiles SET hashes = substr(hashes, 1, 32)", "damaged"),
        ("UPDATE seal_tiles SET hashes = hashes || hashes", "changed|hashes"),
        (
            "UPDATE seal_tiles SET hashes = overlay(hashes PLACING sha256('x') FROM 1 FOR 32)"
            " WHERE level = 1",
            "changed",
        ),
        ("UPDATE seal_trees SET root = sha256('x')", "not those that were signed last"),
        ("UPDATE seal_trees SET size = size - 1", "not those that were signed last"),
        ("TRUNCATE seal_heads", "no signed head"),
        (
            "INSERT INTO events SELECT gen_random_uuid(), 1, topic, state, -7, gen_random_uuid(),"
            " organisation_id, recorded_at, correlation_id, NULL, actor FROM events LIMIT 1",
            "before position 1",
        ),
    ],
)
def test_on_damaged_seals_nothing_is_built(log: str, statement: str, told: str) -> None:
    append(log, 700)
    seal(log)
    append(log, 10)
    run(log, statement)
    if "hashes || hashes" in statement:  # more than a tile holds is not looked at
        assert sealer(log).seal() is not None
        return
    with pytest.raises(SealingRefused, match=told):
        sealer(log).seal()
    assert not verify(log, DECISIONS).holds or "level = 1" in statement


def test_a_sealer_that_refuses_goes_on_asking(log: str, tmp_path: Path) -> None:
    append(log, 10)
    seal(log)
    run(log, "DELETE FROM seal_tiles")
    append(log, 10)

    async def story() -> None:
        task = asyncio.create_task(keep_sealed(sealer(log), every=timedelta(milliseconds=20)))
        await asyncio.sleep(0.5)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())


def test_of_several_sealers_one_seals(log: str) -> None:
    append(log, 600)
    threads = [
        threading.Thread(target=lambda: sealer(log, stretch=50).seal(), daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    sealer(log).seal()
    verdict = verify(log, DECISIONS)
    assert verdict.holds
    assert verdict.sealed == 600


def test_an_append_does_not_wait_for_the_sealer(log: str) -> None:
    append(log, 50)
    with psycopg.connect(log) as connection, connection.transaction():
        assert sealer(log)._step(connection, key(), 50) is not None
        append(log, 50)  # while the sealer's transaction is open
    assert seal(log).size == 100


def test_of_heads_that_are_old_one_an_hour_is_kept(log: str) -> None:
    for _ in range(6):
        append(log, 10)
        seal(log)
    run(
        log,
        """UPDATE seal_heads SET signed_at = date_trunc('hour', clock_timestamp())
        - (5 - number) * interval '25 minutes'""",
    )
    assert sealer(log).thin(timedelta(hours=8)) == 0
    sealer(log).thin(timedelta(0))
    with psycopg.connect(log) as connection:
        sizes = [size for (size,) in connection.execute("SELECT size FROM seal_heads ORDER BY 1")]
        hours = connection.execute(
            "SELECT count(DISTINCT date_trunc('hour', signed_at)) FROM seal_heads"
        ).fetchone()
    assert sizes[-1] == 60
    assert (len(sizes),) == hours
    assert verify(log, DECISIONS).holds


def test_the_head_says_when_and_over_what(log: str) -> None:
    append(log, 40, decisions=10)
    head = head_of(seal(log).note)
    with psycopg.connect(log) as connection:
        row = connection.execute("SELECT max(recorded_at) FROM events").fetchone()
    assert row is not None
    assert head.extension("recorded") == [row[0].astimezone(UTC).isoformat()]
    assert head.extension("decisions")[0] == "2"
    assert head.extension("archive")[0] == "0"


def test_segments_are_sealed_without_new_events(log: str) -> None:
    append(log, 10)
    seal(log)
    run(
        log,
        """INSERT INTO segments (number, first_position, last_position, manifest)
        VALUES (0, 1, 10, '{"number":0}')""",
    )
    head = head_of(seal(log).note)
    assert head.size == 10
    assert head.extension("archive")[0] == "1"
    assert verify(log, DECISIONS).holds
    run(log, """UPDATE segments SET manifest = '{"number":1}'""")
    assert not verify(log, DECISIONS).holds


# what is hashed


def test_a_row_is_the_same_from_the_database_and_from_an_event(log: str) -> None:
    append(log, 9, decisions=4)
    with psycopg.connect(log) as connection:
        found = [one for some in leaves.rows(connection, 0, 9) for one in some]
        cursor = connection.execute(
            """SELECT notification_id, originator_id, originator_version, topic, state, event_id,
            organisation_id, recorded_at, correlation_id, causation_id, actor
            FROM events ORDER BY notification_id"""
        )
        events = [StoredEvent(*row) for row in cursor]
    assert [row_bytes(event) for event in events] == found
    for event, row in zip(events, found, strict=True):
        assert leaves.position_of(row) == event.position
        assert leaves.topic_of(row).decode() == event.topic
        assert leaves.organisation_of(row) == event.organisation_id.bytes
        assert verifier.read_row(row) == verifier.Row(
            event.position,
            event.stream_id,
            event.version,
            event.event_id,
            event.organisation_id,
            event.recorded_at,
            event.correlation_id,
            event.causation_id,
            event.actor,
            event.topic,
            event.state,
        )


def test_rows_that_nobody_reads_to_the_end_leave_the_connection_usable(log: str) -> None:
    append(log, 2000)
    with psycopg.connect(log, autocommit=True) as connection:
        for _ in leaves.rows(connection, 0, 2000):
            break
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert list(leaves.rows(connection, 2000, 3000)) == []
        connection.execute("ALTER TABLE events RENAME TO gone")
        with pytest.raises(psycopg.errors.UndefinedTable):
            list(leaves.rows(connection, 0, 10))
        connection.execute("ALTER TABLE gone RENAME TO events")
        assert connection.execute("SELECT 1").fetchone() == (1,)


# signed heads


@given(st.binary(max_size=300), st.binary(min_size=32, max_size=32))
def test_the_plain_verifier_agrees_with_the_library(message: bytes, seed: bytes) -> None:
    mine = read_key(b64encode(seed).decode())
    public, signature = mine.public_key().public_bytes_raw(), mine.sign(message)
    assert verifier.signature_holds(public, signature, message)
    assert not verifier.signature_holds(public, signature, message + b"!")
    changed = bytes([signature[0] ^ 1]) + signature[1:]
    assert not verifier.signature_holds(public, changed, message)
    assert not verifier.signature_holds(b"\xff" * 32, signature, message)


def test_the_plain_verifier_knows_the_published_signatures() -> None:
    # RFC 8032, section 7.1, tests 1 and 2.
    for public, message, signature in (
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ):
        told = (bytes.fromhex(one) for one in (public, signature, message))
        assert verifier.signature_holds(*told)


def test_a_checkpoint_is_read_as_it_was_written() -> None:
    mine = key()
    public = mine.public_key().public_bytes_raw()
    head = Head(origin_of(public), 12, bytes(range(32)), ("decisions 1 x", "archive 0 y"))
    note = signed(head, mine)
    assert opened(note, [Key(bytes(32)), Key(public)], head.origin) == (head, 1)
    told = [{"key": b64encode(public).decode(), "from_size": 0, "endorsement": None}]
    found = verifier.open_checkpoint(note, told, head.origin)
    assert (found.size, found.root) == (12, head.root)
    for changed, why in (
        (note.replace("12", "13", 1), "signed"),
        (note.replace("\n\n", "\n"), "form"),
        (note.replace("12", "twelve", 1), "number"),
        (note.replace(head.origin, "chainlytics/" + "0" * 32, 1), "log"),
        (note[: note.index("—")], "signed"),
        ("", "form"),
    ):
        with pytest.raises(BadCheckpoint, match=why):
            opened(changed, [Key(public)], head.origin)
        with pytest.raises((verifier.NotProved, ValueError)):
            verifier.open_checkpoint(changed, told, head.origin)
    with pytest.raises(BadCheckpoint, match="none of the log's keys"):
        opened(note, [Key(bytes(32))])
    assert parsed(note) == head


def test_kept_heads_are_read_however_they_were_kept() -> None:
    mine = key()
    head = Head(origin_of(mine.public_key().public_bytes_raw()), 1, bytes(32), ("decisions 0 x",))
    one, two = signed(head, mine), signed(Head(head.origin, 2, bytes(32)), mine)
    assert notes_in(one + two) == [one, two]
    assert notes_in(f"\ufeff{one}\n\n{two.rstrip()}") == [one, two]
    assert notes_in(one.replace("\n", "\r\n")) == [one]
    for bad in (
        "",
        "\n",
        "hello",
        one[: one.index("—")],
        one.replace("\n\n", "\n \n"),
        "x\n" + one,
    ):
        with pytest.raises(BadCheckpoint, match="not all of it is signed heads"):
            notes_in(bad)


# keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "seal.key"


def test_a_key_is_made_once_and_only_its_owner_reads_it(file: Path) -> None:
    made = key_of(file).private_bytes_raw()
    assert key_of(file).private_bytes_raw() == made
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("no key")
    with pytest.raises(WrongKey, match="32 bytes in base64"):
        key_of(file)


def test_keys_rotate_and_old_heads_still_verify(log: str, file: Path) -> None:
    def sealed() -> str:
        found = Sealer(log, lambda: key_of(file), DECISIONS).seal()
        assert found is not None
        return found.note

    append(log, 10)
    notes = [sealed()]
    for _ in range(2):
        with psycopg.connect(log) as connection:
            rotate(connection, file)
        append(log, 10)
        notes.append(sealed())
    with psycopg.connect(log) as connection:
        keys = public_keys(connection)
    assert [one.number for one in keys] == [0, 1, 2]
    assert chain(keys) == []
    assert [one.from_size for one in keys] == [0, 10, 20]
    publics = [one.key for one in keys]
    assert [opened(note, publics)[1] for note in notes] == [0, 1, 2]
    assert len({note.splitlines()[0] for note in notes}) == 1  # the log's name stays
    assert verify(log, DECISIONS).holds
    run(log, "UPDATE seal_keys SET endorsement = NULL WHERE number = 1")
    assert not verify(log, DECISIONS).holds


def test_a_former_key_has_no_say_over_what_came_after_it(log: str, file: Path) -> None:
    append(log, 10)
    former = key_of(file)
    assert Sealer(log, lambda: former, DECISIONS).seal() is not None
    with psycopg.connect(log) as connection:
        rotate(connection, file)
        keys = [one.key for one in public_keys(connection)]
    name = origin_of(keys[0].public_key)
    told = [
        {"key": b64encode(one.public_key).decode(), "from_size": one.from_size, "endorsement": None}
        for one in keys
    ]
    with psycopg.connect(log) as connection:
        vouched = public_keys(connection)[1].endorsement
    assert vouched is not None
    told[1]["endorsement"] = b64encode(vouched).decode()
    # Somebody has the old key: the log that it signs now is longer than its say.
    forged = signed(Head(name, 11, bytes(32)), former)
    with pytest.raises(BadCheckpoint, match="no say over that size"):
        opened(forged, keys, name)
    with pytest.raises(verifier.NotProved):
        verifier.open_checkpoint(forged, told, name)
    assert verifier.open_checkpoint(signed(Head(name, 10, bytes(32)), former), told, name)


def test_the_former_key_seals_no_more(log: str, file: Path) -> None:
    append(log, 10)
    former = key_of(file)
    with psycopg.connect(log) as connection:
        registered(connection, former)
        connection.commit()
        rotate(connection, file)
        with pytest.raises(WrongKey, match="replaced by a newer one"):
            registered(connection, former)
        with pytest.raises(WrongKey, match="not the one of this log"):
            registered(connection, key("another"))


def test_a_rotation_cut_off_behind_its_commit_is_finished(log: str, file: Path) -> None:
    with psycopg.connect(log) as connection:
        registered(connection, key_of(file))
        old = file.read_text()
        new = rotate(connection, file)
        # As if it had been killed before the file took its place.
        beside = file.with_name("seal.key.next")
        file.rename(beside)
        file.write_text(old)
        newer = rotate(connection, file)
        assert chain(public_keys(connection)) == []
    assert newer.number == new.number + 1
    assert not beside.exists()


def test_a_rotation_cut_off_before_its_commit_never_was(log: str, file: Path) -> None:
    with psycopg.connect(log) as connection:
        registered(connection, key_of(file))
        connection.commit()
        key_of(file.with_name("seal.key.next"))  # a key that the log never got to know
        rotate(connection, file)
        keys = public_keys(connection)
    assert len(keys) == 2
    assert keys[-1].public_key == key_of(file).public_key().public_bytes_raw()


def test_a_lost_key_is_replaced_and_every_check_says_so(log: str, file: Path) -> None:
    append(log, 10)
    seal(log)
    with psycopg.connect(log) as connection:
        rotate(connection, file, lost=True)
        assert chain(public_keys(connection)) == [1]
    told = [one.what for one in verify(log, DECISIONS).findings]
    assert told == ["signing key 1 is not vouched for by the one before it"]
