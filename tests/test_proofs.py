"""Proofs of inclusion, consistency and completeness, checked by the verifier that stands alone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from chainlytics import verifier
from chainlytics.verifier import NotProved, check
from eventstore import Log
from eventstore.seals.checkpoint import key_hash, origin_of
from eventstore.seals.proofs import NotSealed, Proofs
from tests.sealing import OURS, THEIRS, append, emptied, key, run, seal

T = TypeVar("T")
EVENTS = 900
FAR = datetime(2100, 1, 1, tzinfo=UTC)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def log(database: str) -> str:
    """900 events, every tenth a decision request of ours, recorded a minute apart; sealed."""
    emptied(database)
    append(database, EVENTS, decisions=10)
    run(
        database,
        """UPDATE events SET recorded_at = '2026-03-01T00:00Z'::timestamptz
        + notification_id * interval '1 minute'""",
    )
    seal(database, stretch=300)
    return database


def ask(url: str, question: Callable[[Proofs], Awaitable[T]]) -> T:
    async def story() -> T:
        async with AsyncConnectionPool(url, min_size=1, kwargs={"autocommit": True}) as pool:
            return await question(Proofs(Log(pool)))

    return asyncio.run(story())


def minute(position: float) -> datetime:
    return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=position)


def changed(proof: dict[str, Any], *path: str | int, to: Any) -> dict[str, Any]:
    copy = deepcopy(proof)
    at: Any = copy
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = to
    return copy


def other_byte(text: str) -> str:
    data = bytearray(b64decode(text))
    data[-1] ^= 1
    return b64encode(bytes(data)).decode()


def refused(proof: dict[str, Any], why: str, origin: str | None = None) -> None:
    with pytest.raises(NotProved, match=why):
        check(proof, origin)


# inclusion


@pytest.mark.parametrize("positions", [[1], [EVENTS], [256, 257, 512], [3, 2, 1]])
def test_events_are_proved_to_be_in_the_log(log: str, positions: list[int]) -> None:
    proof = json.loads(json.dumps(ask(log, lambda proofs: proofs.inclusion(positions))))
    head, rows = verifier.check_inclusion(proof)
    assert [row.position for row in rows] == positions
    assert head.size == EVENTS
    assert all(json.loads(row.state)["n"] for row in rows)
    assert "in the log of 900 events" in check(proof, head.origin)
    assert all(len(one["path"]) <= 10 for one in proof["events"])


def test_an_older_head_will_do(log: str) -> None:
    proof = ask(log, lambda proofs: proofs.inclusion([300], 300))
    assert verifier.check_inclusion(proof)[0].size == 300
    with pytest.raises(NotSealed, match="position 301 is not covered by the signed head over 300"):
        ask(log, lambda proofs: proofs.inclusion([301], 300))
    with pytest.raises(NotSealed, match="no signed head covers exactly 299"):
        ask(log, lambda proofs: proofs.inclusion([1], 299))
    with pytest.raises(NotSealed):
        ask(log, lambda proofs: proofs.inclusion([0]))


def test_no_other_event_is_proved(log: str) -> None:
    proof = ask(log, lambda proofs: proofs.inclusion([300]))
    row = proof["events"][0]["row"]
    refused(changed(proof, "events", 0, "row", to=other_byte(row)), "not in the log as signed")
    refused(changed(proof, "events", 0, "position", to=301), "says 300")
    path = proof["events"][0]["path"]
    refused(changed(proof, "events", 0, "path", to=path[:-1]), "too short")
    refused(changed(proof, "events", 0, "path", to=[*path, path[0]]), "too long")
    refused(changed(proof, "checkpoint", to=proof["checkpoint"].replace("900", "901")), "signed")
    refused(changed(proof, "keys", to=[]), "first key")
    refused(proof, "not of chainlytics/x", "chainlytics/x")
    refused({"proof": "inclusion"}, "form")
    refused({"proof": "of pudding"}, "not a kind")


def test_a_proof_of_nothing_is_refused(log: str) -> None:
    proof = ask(log, lambda proofs: proofs.inclusion([300]))
    refused(changed(proof, "events", to=[]), "holds no event")


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("checkpoint",), 7),
        (("checkpoint",), None),
        (("keys",), None),
        (("keys",), {}),
        (("keys", 0), "x"),
        (("keys", 0, "key"), 5),
        (("keys", 0, "from_size"), "0"),
        (("keys", 0, "from_size"), True),
        (("keys", 0, "from_size"), -1),
        (("events",), 3),
        (("events",), [[]]),
        (("events", 0, "row"), None),
        (("events", 0, "row"), "AAAA"),
        (("events", 0, "row"), "?"),
        (("events", 0, "path"), "abc"),
        (("events", 0, "path"), [1]),
        (("events", 0, "position"), 300.0),
        (("proof",), ["inclusion"]),
        (("proof",), None),
    ],
)
def test_a_proof_of_another_form_is_refused(log: str, path: tuple[Any, ...], to: Any) -> None:
    proof = ask(log, lambda proofs: proofs.inclusion([300]))
    refused(changed(proof, *path, to=to), ".")


def test_whatever_is_in_a_file_it_is_refused_in_a_sentence(log: str, tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    proof = json.dumps(ask(log, lambda proofs: proofs.inclusion([300])))
    deep = "[" * 100_000 + "]" * 100_000
    for text in (
        "",
        "[]",
        "3",
        "null",
        '"inclusion"',
        deep,
        proof.replace('"inclusion"', deep),
        proof.replace("300", "9" * 5_000),
        proof.replace("300", "NaN"),
        proof[:-2],
        "\udcff",
    ):
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
        found = verifier.verify(file)
        assert [one.result for one in found.checks] == ["FAILED"], text[:40]
        assert (found.origin, found.origin_checked) == (None, False)
        assert len(verifier.as_text(found)) < 1_000


# signed heads


def noted(*lines: str, by: str = "first", behind: str = "") -> str:
    """A note with these lines, truly signed: nothing but its form can be wrong."""
    body = "".join(f"{line}\n" for line in lines)
    name, mine = lines[0], key(by)
    public = mine.public_key().public_bytes_raw()
    signature = key_hash(name, public) + mine.sign(body.encode())
    return f"{body}\n\u2014 {name} {b64encode(signature).decode()}\n{behind}"


def keys(*sizes: int) -> list[dict[str, Any]]:
    """The first key and its successors, each from a size on."""
    names = ("first", "second", "third")[: len(sizes)]
    publics = [key(name).public_key().public_bytes_raw() for name in names]
    found: list[dict[str, Any]] = []
    for number, (public, size) in enumerate(zip(publics, sizes, strict=True)):
        message = b"chainlytics key endorsement v2\n" + public + size.to_bytes(8, "big")
        vouched = b64encode(key(names[number - 1]).sign(message)).decode() if number else None
        told = b64encode(public).decode()
        found.append({"key": told, "from_size": size, "endorsement": vouched})
    return found


NAME = origin_of(key().public_key().public_bytes_raw())
ROOT = b64encode(bytes(32)).decode()
WITNESSED = f"\u2014 witness.example/w1 {ROOT}\n"


@pytest.mark.parametrize("size", ["0", "7", "1234567890123456789"])
def test_a_signed_head_is_opened(size: str) -> None:
    note = noted(NAME, size, ROOT, "recorded 2026-01-01T00:00:00Z", behind=WITNESSED)
    head = verifier.open_checkpoint(note, keys(0), NAME)
    assert (head.size, head.root) == (int(size), bytes(32))
    assert head.recorded == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "lines",
    [
        (NAME, "+7", ROOT),
        (NAME, "07", ROOT),
        (NAME, "7_0", ROOT),
        (NAME, " 7", ROOT),
        (NAME, "\u0667", ROOT),
        (NAME, "12345678901234567890", ROOT),
        (NAME, "7", ROOT[:-4]),
        (NAME, "7", "?"),
        (NAME, "7", ""),
        (NAME, "7"),
        (NAME.upper(), "7", ROOT),
        (NAME, "7", ROOT, "decisions 1 x", "decisions 2 y"),
        (NAME, "7", ROOT, "decisions 1 x", "archive 0 y", "decisions 1 x"),
    ],
)
def test_a_head_of_another_form_is_refused_though_it_is_signed(lines: tuple[str, ...]) -> None:
    with pytest.raises(NotProved):
        verifier.open_checkpoint(noted(*lines), keys(0))


def test_something_else_below_a_head_is_refused() -> None:
    with pytest.raises(NotProved, match="is not a signature line"):
        verifier.open_checkpoint(noted(NAME, "7", ROOT, behind="trust me\n"), keys(0))


@pytest.mark.parametrize(
    ("by", "size", "holds"),
    [
        ("first", 0, True),
        ("first", 50, True),
        ("first", 51, False),
        ("second", 49, False),
        ("second", 50, True),
        ("second", 80, True),
        ("second", 81, False),
        ("third", 79, False),
        ("third", 10**9, True),
    ],
)
def test_a_key_signs_from_its_size_to_that_of_the_next(by: str, size: int, holds: bool) -> None:
    """Whoever has a former key cannot go on with the log by it."""
    note = noted(NAME, str(size), ROOT, by=by)
    if holds:
        assert verifier.open_checkpoint(note, keys(0, 50, 80)).size == size
    else:
        with pytest.raises(NotProved, match=f"signed the checkpoint.*no say over {size} events"):
            verifier.open_checkpoint(note, keys(0, 50, 80))


def test_a_key_is_vouched_for_together_with_its_size() -> None:
    note = noted(NAME, "60", ROOT, by="second")
    told = keys(0, 50)
    assert verifier.open_checkpoint(note, told)
    for change, why in (
        ({"from_size": 40}, "not vouched for"),
        ({"endorsement": None}, "not vouched for"),
        ({"from_size": 2**64}, "form"),
    ):
        with pytest.raises(NotProved, match=why):
            verifier.open_checkpoint(note, [told[0], told[1] | change])
    for number in (0, 1):
        without = [dict(one) for one in told]
        del without[number]["from_size"]
        with pytest.raises(NotProved, match="form"):
            verifier.open_checkpoint(note, without)
    with pytest.raises(NotProved, match="begins before"):
        verifier.open_checkpoint(note, keys(0, 50, 40))


# consistency


@pytest.mark.parametrize(("old", "new"), [(300, 600), (300, 900), (600, None), (900, 900)])
def test_the_log_only_grew(log: str, old: int, new: int | None) -> None:
    proof = ask(log, lambda proofs: proofs.consistency(old, new))
    before, after = verifier.check_growth(proof)
    assert (before.size, after.size) == (old, new or EVENTS)
    if old < after.size:
        path = proof["path"]
        refused(changed(proof, "path", to=path[:-1]), "does not lead|too short")
        refused(changed(proof, "path", 0, to=other_byte(path[0])), "the log was changed")


def test_heads_in_the_wrong_order_are_refused(log: str) -> None:
    with pytest.raises(ValueError, match="in the wrong order, or events were cut off"):
        ask(log, lambda proofs: proofs.consistency(600, 300))


def test_witnesses_get_the_bare_hashes(log: str) -> None:
    path = ask(log, lambda proofs: proofs.path(257, 900))
    assert all(len(one) == 32 for one in path)


# completeness


@pytest.mark.parametrize(
    ("first", "last"), [(1, 1), (1, 91), (411, 411), (411, 601), (891, 891), (801, 891), (1, 891)]
)
def test_a_list_of_decisions_is_all_of_them(log: str, first: int, last: int) -> None:
    start, end = minute(first - 0.5), minute(last + 0.5)
    proof = json.loads(json.dumps(ask(log, lambda p: p.decisions(OURS, start, end))))
    head, rows = verifier.check_decisions(proof)
    assert [row.position for row in rows] == list(range(first, last + 1, 10))
    assert head.size == EVENTS
    assert f"{proof['count']} decisions were requested" in check(proof)
    # Nobody else's events are in it.
    assert {
        row.organisation_id for row in map(verifier.read_row, map(b64decode, proof["rows"]))
    } == {OURS}


@pytest.mark.parametrize(
    ("start", "end"),
    [(LONG_AGO, minute(0.5)), (minute(402), minute(410)), (minute(892), FAR)],
)
def test_that_there_was_none_is_proved_too(log: str, start: datetime, end: datetime) -> None:
    proof = ask(log, lambda proofs: proofs.decisions(OURS, start, end))
    assert verifier.check_decisions(proof)[1] == []
    assert proof["count"] == 0


def test_all_of_time(log: str) -> None:
    for organisation in (OURS, THEIRS):
        proof = ask(log, lambda p, o=organisation: p.decisions(o, LONG_AGO, FAR))  # type: ignore[misc]
        assert len(verifier.check_decisions(proof)[1]) == 90


def test_what_comes_behind_the_signed_log_is_not_proved(log: str, tmp_path: Path) -> None:
    """A list is complete up to the last event under the head, whatever the proof says of it."""
    proof = ask(log, lambda proofs: proofs.decisions(OURS, minute(400), minute(500)))
    assert "requested from 2026-03-01T06:40:00+00:00 to 2026-03-01T08:20:00+00:00" in check(proof)
    assert "ends" not in check(proof)
    late = ask(log, lambda proofs: proofs.decisions(OURS, minute(400), FAR))
    recorded = minute(EVENTS).isoformat()
    for to in (late["to"], FAR.isoformat()):
        told = check(changed(late, "to", to=to))
        assert f"up to {recorded}, where the signed log ends, and no other" in told
        assert "2100" not in told
    file = tmp_path / "late.json"
    file.write_text(json.dumps(late))
    [note] = verifier.as_json(verifier.verify(file))["not_proved"]
    assert "left out of its organisation's tree" in note
    future = changed(late, "from", to=minute(EVENTS + 1).isoformat()) | {"count": 0}
    refused(future | {"to": FAR.isoformat()}, "the signed log ends before")


def test_a_period_has_a_beginning_and_an_end(log: str) -> None:
    none = ask(log, lambda proofs: proofs.decisions(OURS, minute(402), minute(410)))
    moment = minute(405).isoformat()
    refused(none | {"from": moment, "to": moment}, "is no period")
    refused(none | {"from": none["to"], "to": none["from"]}, "is no period")
    refused(none | {"from": "2026-03-01T06:42:00"}, "no time zone")
    refused(none | {"first": -1}, "number")


def test_a_list_that_leaves_one_out_is_refused(log: str) -> None:
    proof = ask(log, lambda proofs: proofs.decisions(OURS, minute(400), minute(500)))
    rows = proof["rows"]
    assert proof["count"] == 10
    assert len(rows) == 12  # one on either side
    for without in (0, 5, 11):
        fewer = [row for number, row in enumerate(rows) if number != without]
        refused(changed(proof, "rows", to=fewer) | {"count": 9}, "not what the signed head|beside")
    refused(changed(proof, "count", to=9), "10 decisions are proved")
    refused(changed(proof, "tree_size", to=89), "not what|beside|more")
    refused(changed(proof, "member", to=1 - proof["member"]), "not what the signed head says")
    # The neighbours make the period: a wider one is not proved by them.
    refused(changed(proof, "from", to=LONG_AGO.isoformat()), "before the first")
    refused(changed(proof, "to", to=FAR.isoformat()), "behind the last")
    refused(changed(proof, "organisation_id", to=str(THEIRS)), "not what the signed head says")


def test_what_cannot_be_proved_says_why(log: str) -> None:
    from uuid import uuid4

    with pytest.raises(NotSealed, match="no decision request of this organisation"):
        ask(log, lambda proofs: proofs.decisions(uuid4(), LONG_AGO, FAR))
    with pytest.raises(ValueError, match="is no period"):
        ask(log, lambda proofs: proofs.decisions(OURS, FAR, LONG_AGO))


def test_before_the_first_seal_nothing_is_proved(log: str) -> None:
    run(log, "ALTER TABLE seal_heads RENAME TO kept", "CREATE TABLE seal_heads (LIKE kept)")
    try:
        with pytest.raises(NotSealed, match="nothing is sealed yet"):
            ask(log, lambda proofs: proofs.newest())
    finally:
        run(log, "DROP TABLE seal_heads", "ALTER TABLE kept RENAME TO seal_heads")


def test_a_period_is_proved_up_to_the_end_of_the_signed_log(log: str) -> None:
    proof = ask(log, lambda proofs: proofs.decisions(OURS, minute(1), FAR))
    assert datetime.fromisoformat(proof["to"]) == minute(EVENTS) + timedelta(microseconds=1)
    assert (
        ask(log, lambda p: p.decisions(OURS, datetime.min.replace(tzinfo=UTC), FAR))["count"] == 90
    )
    with pytest.raises(NotSealed, match="the signed log ends before"):
        ask(log, lambda proofs: proofs.decisions(OURS, minute(EVENTS + 1), FAR))


def test_damaged_hashes_give_no_proof(log: str) -> None:
    run(log, "CREATE TABLE kept AS TABLE seal_tiles", "DELETE FROM seal_tiles")
    try:
        with pytest.raises(NotSealed, match="damaged"):
            ask(log, lambda proofs: proofs.inclusion([1]))
    finally:
        run(log, "INSERT INTO seal_tiles SELECT * FROM kept", "DROP TABLE kept")


def test_what_witnesses_signed_stands_under_the_head(log: str) -> None:
    line = "— witness.example/w AAAA\n"
    run(log, f"INSERT INTO seal_cosignatures SELECT max(number), 'w', '{line}' FROM seal_heads")
    proof = ask(log, lambda proofs: proofs.inclusion([1]))
    assert proof["checkpoint"].endswith(line)
    assert verifier.check_inclusion(proof)[0].size == EVENTS
    run(log, "TRUNCATE seal_cosignatures")


def test_heads_come_newest_first(log: str) -> None:
    heads = ask(log, lambda proofs: proofs.heads(10, 2))
    assert [one.size for one in heads] == [900, 600]
    assert [one.size for one in ask(log, lambda p: p.heads(heads[-1].number, 2))] == [300]
    assert len(ask(log, lambda proofs: proofs.keys())) == 1


# the program


def test_the_verifier_runs_alone(log: str, tmp_path: Path) -> None:
    program = tmp_path / "verifier.py"
    program.write_bytes(Path(verifier.__file__).read_bytes())
    proof = ask(log, lambda proofs: proofs.inclusion([300]))
    origin = proof["checkpoint"].splitlines()[0]
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(proof))
    row = other_byte(proof["events"][0]["row"])
    bad.write_text(json.dumps(changed(proof, "events", 0, "row", to=row)))

    def verified(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
        # -I and -S: nothing but the standard library can be imported.
        command = [sys.executable, "-I", "-S", str(program), str(file), *options]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    found = verified(good, "--origin", origin)
    assert found.returncode == 0, found.stderr
    assert "in the log of 900 events: position 300" in found.stdout
    assert "without --origin" in verified(good).stdout
    assert verified(bad).returncode == 1
    told = verified(bad)
    assert "not in the log as signed" in told.stdout + told.stderr
    assert verified(good, "--origin", "chainlytics/0").returncode == 1
    assert verified(tmp_path / "none.json").returncode == 1


def test_proofs_hold_while_the_log_grows_under_them(log: str) -> None:
    with psycopg.connect(log) as connection:
        before = connection.execute("SELECT count(*) FROM seal_heads").fetchone()
    append(log, 40)
    seal(log)
    assert before == (3,)
    proof = ask(log, lambda proofs: proofs.consistency(900))
    assert verifier.check_growth(proof)[1].size == EVENTS + 40
