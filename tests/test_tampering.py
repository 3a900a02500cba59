"""Events changed, deleted, swapped, inserted or cut off straight in the database are found, each
with the first position that is not as it was sealed; so is what is done to the seals themselves."""

from __future__ import annotations

from hashlib import sha256

import psycopg
import pytest

from eventstore.seals import leaves
from eventstore.seals.merkle import Growing, leaf_hash
from eventstore.seals.verification import Verdict, verify
from tests.sealing import DECISIONS, append, emptied, run, seal, sealer

EVENTS, STRETCH = 1500, 400


@pytest.fixture(scope="module")
def notes(database: str) -> dict[str, str]:
    """A template database with a sealed log, and what a witness has of it."""
    emptied(database)
    append(database, EVENTS, decisions=10)
    newest = seal(database, stretch=STRETCH)
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT size, note FROM seal_heads ORDER BY number").fetchall()
    assert [size for size, _ in rows] == [400, 800, 1200, 1500]
    run(database, "CREATE TABLE kept AS TABLE events")
    for name in ("seal_tiles", "seal_trees", "seal_heads", "seal_keys", "seal_decisions"):
        run(database, f"CREATE TABLE kept_{name} AS TABLE {name}")
    return {"newest": newest.note, "first": rows[0][1]}


@pytest.fixture
def log(database: str, notes: dict[str, str]) -> str:
    """The sealed log, whole again."""
    run(
        database,
        "TRUNCATE events",
        "INSERT INTO events SELECT * FROM kept",
        f"UPDATE log_head SET position = {EVENTS}",
    )
    for name in ("seal_tiles", "seal_trees", "seal_heads", "seal_keys", "seal_decisions"):
        run(database, f"TRUNCATE {name}", f"INSERT INTO {name} SELECT * FROM kept_{name}")
    return database


def check(url: str, **options: object) -> Verdict:
    return verify(url, DECISIONS, **options)  # type: ignore[arg-type]


def bad(url: str) -> list[tuple[int | None, int | None, str]]:
    verdict = check(url)
    assert not verdict.holds
    return [(one.first, one.last, one.what) for one in verdict.findings]


def test_a_whole_log_holds(log: str) -> None:
    verdict = check(log)
    assert verdict.holds
    assert (verdict.events, verdict.sealed, verdict.heads) == (EVENTS, EVENTS, 4)
    assert verdict.first_bad is None


@pytest.mark.parametrize("position", [1, 256, 257, 400, 401, EVENTS])
def test_a_changed_event_is_found_wherever_it_stands(log: str, position: int) -> None:
    run(log, f"UPDATE events SET actor = 'eve' WHERE notification_id = {position}")
    assert bad(log) == [(position, position, "was changed")]


@pytest.mark.parametrize(
    "change",
    [
        "state = '{\"n\":0}'",
        "actor = 'eve'",
        "topic = 'test.Other.v1'",
        "organisation_id = gen_random_uuid()",
        "recorded_at = recorded_at + interval '1 microsecond'",
        "correlation_id = gen_random_uuid()",
        "causation_id = CASE WHEN causation_id IS NULL THEN gen_random_uuid() END",
        "event_id = gen_random_uuid()",
        "originator_id = gen_random_uuid()",
        "originator_version = originator_version + 1",
    ],
)
def test_every_changed_column_is_found(log: str, change: str) -> None:
    run(log, f"UPDATE events SET {change} WHERE notification_id = 777")
    assert bad(log) == [(777, 777, "was changed")]


def test_deleted_events_are_found(log: str) -> None:
    run(log, "DELETE FROM events WHERE notification_id IN (17, 18, 900)")
    assert bad(log) == [(17, 18, "is missing"), (900, 900, "is missing")]
    assert check(log).first_bad == 17


def test_swapped_events_are_found(log: str) -> None:
    run(
        log,
        "UPDATE events SET notification_id = 0 WHERE notification_id = 300",
        "UPDATE events SET notification_id = 300 WHERE notification_id = 1234",
        "UPDATE events SET notification_id = 1234 WHERE notification_id = 0",
    )
    assert bad(log) == [(300, 300, "was changed"), (1234, 1234, "was changed")]


def test_swapped_contents_are_found(log: str) -> None:
    run(
        log,
        """UPDATE events e SET state = o.state FROM events o WHERE e.notification_id IN (5, 6)
        AND o.notification_id = 11 - e.notification_id""",
    )
    assert bad(log) == [(5, 6, "was changed")]


def _inserted(position: int) -> str:
    return f"""INSERT INTO events SELECT gen_random_uuid(), 1, topic, state, {position},
        gen_random_uuid(), organisation_id, recorded_at, correlation_id, NULL, actor
        FROM events WHERE notification_id = 1"""


def test_an_inserted_event_is_found(log: str) -> None:
    # Room is made for it, as somebody would who wants the positions to look right.
    run(
        log,
        "UPDATE events SET notification_id = -notification_id - 1 WHERE notification_id >= 1000",
        "UPDATE events SET notification_id = -notification_id WHERE notification_id < 0",
        _inserted(1000),
        f"UPDATE log_head SET position = {EVENTS + 1}",
    )
    assert check(log).first_bad == 1000


def test_an_event_beside_another_one_is_found(log: str) -> None:
    run(log, "DROP INDEX events_position", _inserted(620))
    try:
        assert bad(log) == [(620, 620, "stands on the log twice")] or check(log).first_bad == 620
    finally:
        run(
            log,
            "TRUNCATE events",
            "CREATE UNIQUE INDEX events_position ON events (notification_id)",
        )


@pytest.mark.parametrize("position", [0, -7])
def test_an_event_before_the_first_position_is_found(log: str, position: int) -> None:
    run(log, _inserted(position))
    assert bad(log) == [(position, 0, "stands before the first position")]


def test_an_emptied_log_is_found(log: str) -> None:
    run(log, "TRUNCATE events")
    assert check(log).first_bad == 1
    run(log, "DELETE FROM log_head")
    assert check(log).first_bad == 1
    run(log, f"INSERT INTO log_head (position, recorded_at) VALUES ({EVENTS}, now())")


def test_a_log_without_its_seals_is_not_proved(log: str) -> None:
    run(log, "TRUNCATE seal_tiles, seal_trees, seal_heads, seal_decisions")
    assert not check(log).holds
    run(log, "TRUNCATE seal_keys")
    verdict = check(log)
    assert verdict.holds
    assert not verdict.proved
    assert not check(log, origin="chainlytics/" + "0" * 32).holds


def test_a_lost_key_hides_nothing_else(log: str) -> None:
    run(
        log,
        "INSERT INTO seal_keys (number, public_key, from_size) VALUES (1, sha256('x'), 1500)",
        "UPDATE seal_trees SET root = sha256('x') WHERE tree LIKE 'decisions/%'",
    )
    told = [one.what for one in check(log).findings]
    assert any("not vouched for" in one for one in told)
    assert any("stored head of the tree decisions/" in one for one in told)


def test_an_event_behind_the_head_is_found(log: str) -> None:
    run(log, _inserted(EVENTS + 1))
    assert check(log).first_bad == EVENTS + 1


def test_a_truncated_log_is_found(log: str) -> None:
    run(
        log,
        "DELETE FROM events WHERE notification_id > 1100",
        "UPDATE log_head SET position = 1100",
    )
    assert bad(log) == [(1101, EVENTS, "is missing")]


def test_a_log_cut_off_with_its_heads_is_found_by_a_witness(
    log: str, notes: dict[str, str]
) -> None:
    run(
        log,
        "DELETE FROM events WHERE notification_id > 1200",
        "UPDATE log_head SET position = 1200",
        "DELETE FROM seal_heads WHERE size > 1200",
    )
    # Somebody who has the key signs it all anew, or a sealer that remembers nothing does.
    run(log, "TRUNCATE seal_tiles, seal_trees, seal_heads, seal_decisions")
    seal(log, stretch=STRETCH)
    assert check(log).holds
    verdict = check(log, witnessed=[("the witness", notes["newest"])])
    assert verdict.witnessed == 1
    assert verdict.first_bad == 1201
    assert check(log, witnessed=[("the witness", notes["first"])]).holds


def test_a_log_written_anew_is_found_by_a_witness(log: str, notes: dict[str, str]) -> None:
    run(log, "UPDATE events SET actor = 'eve' WHERE notification_id = 2")
    run(log, "TRUNCATE seal_tiles, seal_trees, seal_heads, seal_decisions")
    seal(log, stretch=STRETCH)
    assert check(log).holds
    assert not check(log, witnessed=[("the witness", notes["newest"])]).holds


def test_changed_hashes_do_not_hide_a_changed_event(log: str) -> None:
    run(log, "UPDATE events SET actor = 'eve' WHERE notification_id = 450")
    with psycopg.connect(log) as connection:
        [row] = [one for some in leaves.rows(connection, 449, 450) for one in some]
    hashed = leaf_hash(row).hex()
    at = (449 % 256) * 32 + 1
    run(
        log,
        f"""UPDATE seal_tiles SET hashes = overlay(hashes PLACING '\\x{hashed}' FROM {at} FOR 32)
        WHERE tree = 'log' AND level = 0 AND number = 1""",
    )
    # The events say what the hashes say, and neither is what was signed: 401 to 800 is all we know.
    found = bad(log)
    assert found[0][:2] == (401, 800)
    assert "changed too" in found[0][2]


def test_changed_hashes_alone_are_told_from_changed_events(log: str) -> None:
    run(
        log,
        f"""UPDATE seal_tiles SET hashes = overlay(hashes PLACING '\\x{"00" * 32}' FROM 33 FOR 32)
        WHERE tree = 'log' AND level = 0 AND number = 2""",
    )
    assert bad(log) == [(514, 514, "the stored hash is not that of the event")]


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE seal_heads SET note = replace(note, 'decisions 2', 'decisions 3')", "signed"),
        ("UPDATE seal_heads SET size = size - 1 WHERE number = 2", "covers"),
        ("UPDATE seal_trees SET root = sha256('x') WHERE tree = 'log'", "stored head of the tree"),
        ("UPDATE seal_trees SET size = size - 1 WHERE tree LIKE 'decisions/%'", "stored head"),
        ("UPDATE seal_keys SET public_key = sha256('x')", "is of the log"),
        ("DELETE FROM seal_keys", "log"),
        (
            "UPDATE seal_tiles SET hashes = overlay(hashes PLACING sha256('x') FROM 1 FOR 32)"
            " WHERE tree = 'log' AND level = 1",
            "above the events'",
        ),
        (
            "UPDATE seal_tiles SET hashes = overlay(hashes PLACING sha256('x') FROM 1 FOR 32)"
            " WHERE tree LIKE 'decisions/%'",
            "stored hashes of the tree decisions/",
        ),
        ("UPDATE seal_decisions SET position = position + 5 WHERE number = 3", "stored positions"),
        ("UPDATE seal_keys SET from_size = 5000", "no say"),
    ],
)
def test_changed_seals_are_found(log: str, statement: str, told: str) -> None:
    run(log, statement)
    verdict = check(log)
    assert not verdict.holds
    assert any(told in one.what for one in verdict.findings), verdict.findings


def test_a_log_under_a_foreign_key_is_not_the_one_that_was_meant(
    log: str, notes: dict[str, str]
) -> None:
    name = notes["newest"].splitlines()[0]
    assert check(log, origin=name).holds
    # Everything is sealed anew by somebody else: all fits together, only the name does not.
    run(log, "TRUNCATE seal_tiles, seal_trees, seal_heads, seal_decisions, seal_keys")
    assert sealer(log, "somebody else's").seal() is not None
    assert check(log).holds
    assert not check(log, origin=name).holds


def test_what_is_not_sealed_yet_must_be_without_gaps(log: str) -> None:
    append(log, 20)
    assert check(log).holds
    run(log, f"DELETE FROM events WHERE notification_id = {EVENTS + 7}")
    assert bad(log) == [(EVENTS + 7, EVENTS + 7, "is missing")]


def test_the_walk_reports_how_far_it_is(log: str) -> None:
    told: list[tuple[int, int]] = []
    check(log, report=lambda done, total: told.append((done, total)))
    assert told[-1] == (EVENTS, EVENTS)


def test_the_walk_computes_the_head_from_the_events(log: str) -> None:
    with psycopg.connect(log) as connection:
        rows = [one for some in leaves.rows(connection, 0, EVENTS) for one in some]
        root = connection.execute("SELECT root FROM seal_trees WHERE tree = 'log'").fetchone()
    tree = Growing()
    tree.add(sha256(b"\0" + row).digest() for row in rows)
    assert root is not None
    assert bytes(root[0]) == tree.root
