"""Files and HTTP witnesses: what they take, what they refuse, and how they get over a crash."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fastapi import Response
from pydantic import ValidationError

from chainlytics.settings import Settings
from eventstore.seals.checkpoint import BadCheckpoint, Key, opened, parsed, public_bytes
from eventstore.seals.consistency import consistent
from eventstore.witnesses.addresses import BadWitness, witnesses_of
from eventstore.witnesses.file import FileWitness
from eventstore.witnesses.http import HttpWitness
from eventstore.witnesses.witness import HeadNote, Witness, WitnessAway, WitnessRefused
from tests.witnessing import Host, StrictWitness, TreeLog, witness_of

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def hand(witness: Witness, head: HeadNote, log: TreeLog, seen: int = 0) -> str:
    async def story() -> str:
        try:
            return await witness.hand(head, seen=seen, proof=log.proof)
        finally:
            await witness.close()

    return run(story())


# Consistency


def test_a_proof_holds_for_every_two_sizes_of_a_log_and_for_no_other() -> None:
    log = TreeLog()
    log.grow(20)
    for new in range(21):
        for old in range(new + 1):
            path = run(log.proof(old, new)) if old else []
            one, other = log.head(old).head, log.head(new).head
            assert consistent(one, other, path), (old, new)
            assert not consistent(other, one, path) or old == new
            for at in range(len(path)):
                changed = [*path[:at], bytes(32), *path[at + 1 :]]
                assert not consistent(one, other, changed), (old, new, at)
                assert not consistent(one, other, path[:at]), (old, new, at)
            assert not consistent(one, other, [*path, bytes(32)])
            if old:
                assert not consistent(replace(one, root=bytes(32)), other, path)
                assert not consistent(one, replace(other, root=bytes(32)), path)


# Addresses


def test_an_address_says_which_witness_it_is() -> None:
    addresses = (
        "file:///var/lib/heads%20of%20us https://joe:secret@witness.example:8443/log/ "
        "http://127.0.0.1:9000 kafka://a:9092,[::1]:9093/heads.v1"
    )
    assert [one.name for one in witnesses_of(addresses)] == [
        "file:///var/lib/heads%20of%20us",
        "https://witness.example:8443/log/",
        "http://127.0.0.1:9000",
        "kafka://a:9092,[::1]:9093/heads.v1",
    ]
    assert witnesses_of("  ") == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("heads.txt", "heads.txt is no witness"),
        ("ftp://witness.example/heads", "is no witness"),
        ("file:heads", "by its whole path"),
        ("file://there/heads", "by its whole path"),
        ("file:///heads/", "by its whole path"),
        ("http:///heads", "it has no host"),
        ("http://witness.example:99999", "it has no host, or a port that cannot be"),
        ("https://witness.example/?token=1", "neither ? nor #"),
        ("kafka://broker/heads", "kafka://host:port,host:port/topic"),
        ("kafka://broker:70000/heads", "kafka://host:port,host:port/topic"),
        ("kafka://broker:9092", "kafka://host:port,host:port/topic"),
        ("kafka://broker:9092/a/b", "kafka://host:port,host:port/topic"),
        ("kafka://joe:secret@broker:9092/heads", "kafka://host:port,host:port/topic"),
        ("http://[::1/heads", "is no witness"),
        ("file:///heads http://a.example file:///heads", "file:///heads is named twice"),
    ],
)
def test_a_wrong_address_is_named_and_a_password_is_not(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadWitness) as refused:
        witnesses_of(address)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)
    monkeypatch.setenv("CHAINLYTICS_WITNESSES", address)
    with pytest.raises(ValidationError, match="witnesses"):
        Settings()


# Files


@pytest.fixture
def log() -> TreeLog:
    made = TreeLog()
    made.grow(5)
    return made


def test_a_file_has_the_notes_one_behind_the_other(tmp_path: Path, log: TreeLog) -> None:
    file = tmp_path / "heads"
    first = log.head()
    assert hand(FileWitness(file), first, log) == ""
    second = log.grow(7)
    assert hand(FileWitness(file), second, log) == ""
    assert hand(FileWitness(file), second, log) == "", "it has it"
    assert file.read_text("utf-8") == f"{first.note}\n{second.note}"
    # Anybody can take it apart: body, blank line, signatures, blank line.
    blocks = file.read_text("utf-8").split("\n\n")
    keys = [Key(public_bytes(log.key.public_key()))]
    notes = [f"{a}\n\n{b.rstrip()}\n" for a, b in zip(blocks[::2], blocks[1::2], strict=True)]
    assert [opened(note, keys)[0].size for note in notes] == [5, 12]


def test_a_head_of_the_same_size_that_says_more_is_appended(tmp_path: Path, log: TreeLog) -> None:
    file = tmp_path / "heads"
    first = log.head()
    hand(FileWitness(file), first, log)
    more = replace(first, number=6, note=first.note.replace("\n\n", "\narchive 1 abc\n\n"))
    hand(FileWitness(file), more, log)
    assert file.read_text("utf-8") == f"{first.note}\n{more.note}"


def test_a_file_refuses_a_log_that_was_set_back_or_rewritten(tmp_path: Path, log: TreeLog) -> None:
    file = tmp_path / "heads"
    hand(FileWitness(file), log.grow(3), log)
    before = file.read_bytes()
    with pytest.raises(WitnessRefused, match="of 8 events, this one of 7: the log was set back"):
        hand(FileWitness(file), log.head(7), log)
    forked = log.rewritten(2)
    with pytest.raises(WitnessRefused, match="the log was rewritten"):
        hand(FileWitness(file), forked.head(), forked)
    with pytest.raises(WitnessRefused, match="the first 8 events are not those of its last head"):
        hand(FileWitness(file), forked.grow(4), forked)
    stranger = TreeLog(log.leaves)
    with pytest.raises(WitnessRefused, match="is of the log chainlytics/"):
        hand(FileWitness(file), stranger.grow(1), stranger)
    assert file.read_bytes() == before
    hand(FileWitness(file), log.grow(1), log)


def test_a_note_cut_off_anywhere_is_followed_by_a_whole_one(tmp_path: Path, log: TreeLog) -> None:
    file = tmp_path / "heads"
    first, second = log.head(), log.grow(3)
    third = log.grow(4)
    hand(FileWitness(file), first, log)
    whole = file.read_bytes()
    added = f"\n{second.note}".encode()
    for cut in range(len(added) + 1):
        file.write_bytes(whole + added[:cut])
        for again in (second, third, third):
            hand(FileWitness(file), again, log)
        now = file.read_bytes()
        assert now.startswith(whole + added[:cut]), "nothing is ever taken out of it"
        assert now.endswith(f"\n\n{third.note}".encode())
        assert now.count(third.note.encode()) == 1
        # Cut off before its last newline the former one is whole again, and there twice.
        assert now.count(second.note.encode()) == (2 if cut == len(added) - 1 else 1)


def test_a_cut_off_note_counts_as_soon_as_it_says_a_head(tmp_path: Path, log: TreeLog) -> None:
    file = tmp_path / "heads"
    small, large = log.head(), log.grow(3)
    hand(FileWitness(file), small, log)
    whole = file.read_bytes()
    added = f"\n{large.note}".encode()
    body = len(f"\n{large.head.body}".encode())
    for cut in range(len(added) + 1):
        file.write_bytes(whole + added[:cut])
        if cut >= body - 1:  # all but the last newline
            with pytest.raises(WitnessRefused, match="set back"):
                hand(FileWitness(file), log.head(6), log)
        else:
            hand(FileWitness(file), log.head(6), log)


def test_a_file_of_something_else_is_left_alone(tmp_path: Path, log: TreeLog) -> None:
    file = tmp_path / "heads"
    file.write_bytes(b"x" * 300_000)
    with pytest.raises(WitnessRefused, match="no head in its last"):
        hand(FileWitness(file), log.head(), log)
    assert file.stat().st_size == 300_000


def test_a_long_file_is_read_from_its_end(tmp_path: Path, log: TreeLog) -> None:
    file = tmp_path / "heads"
    first = log.head(3)
    file.write_text("\n".join([first.note] * 3000), "utf-8")
    assert file.stat().st_size > 600_000
    hand(FileWitness(file), log.head(), log)
    assert file.read_text("utf-8").endswith(f"{first.note}\n{log.head().note}")
    with pytest.raises(WitnessRefused):
        hand(FileWitness(file), log.head(4), log)


def test_a_file_that_is_not_there_is_away(tmp_path: Path, log: TreeLog) -> None:
    file = tmp_path / "mount" / "heads"
    with pytest.raises(WitnessAway, match="No such file"):
        hand(FileWitness(file), log.head(), log)
    assert not file.parent.exists(), "a folder that is not mounted is not made"
    file.parent.mkdir()
    hand(FileWitness(file), log.head(), log)
    assert parsed(file.read_text("utf-8")).size == 5
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WitnessAway, match="not a regular file"):
        hand(FileWitness(tmp_path / "pipe"), log.head(), log)


def test_a_file_that_lost_heads_is_not_begun_anew(tmp_path: Path, log: TreeLog) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    file = folder / "heads"
    first = log.head()
    hand(FileWitness(file), first, log)
    hand(FileWitness(file), log.grow(3), log)
    whole = file.read_bytes()
    log.grow(1)
    for left, told in (
        (None, "it has no head any more, though it took one of 8: it was deleted"),
        ("", "it has no head any more, though it took one of 8"),
        (first.note[:20], "it has no head any more"),
        (first.note, "its last head is of 5 events, though it took one of 8"),
    ):
        file.unlink(missing_ok=True)
        if left is not None:
            file.write_text(left, "utf-8")
        with pytest.raises(WitnessRefused, match=told):
            hand(FileWitness(file), log.head(), log, seen=8)
        assert (file.read_text("utf-8") if file.exists() else None) == left
    # What is not mounted is away; what comes back is gone on with; another one begins anew.
    file.unlink()
    folder.rmdir()
    with pytest.raises(WitnessAway, match="No such file"):
        hand(FileWitness(file), log.head(), log, seen=8)
    folder.mkdir()
    file.write_bytes(whole)
    hand(FileWitness(file), log.head(), log, seen=8)
    assert file.read_bytes() == whole + f"\n{log.head().note}".encode()
    hand(FileWitness(folder / "others"), log.head(), log)


def test_of_two_that_write_at_once_none_spoils_the_file(tmp_path: Path, log: TreeLog) -> None:
    log.grow(30)

    async def story() -> list[str | BaseException]:
        writers = [FileWitness(tmp_path / "heads").hand for _ in range(12)]
        heads = [log.head(6 + 2 * (at // 2)) for at in range(12)]
        return await asyncio.gather(
            *(
                write(head, seen=0, proof=log.proof)
                for write, head in zip(writers, heads, strict=True)
            ),
            return_exceptions=True,
        )

    answers = run(story())
    assert "" in answers
    assert {type(one) for one in answers} <= {str, WitnessAway, WitnessRefused}
    notes = (tmp_path / "heads").read_text("utf-8").split("\n\n")[::2]
    sizes = [parsed(f"{note}\n\n").size for note in notes]
    assert sizes == sorted(set(sizes))


# HTTP


@pytest.fixture
def strict(log: TreeLog) -> StrictWitness:
    return witness_of(log)


@pytest.fixture
def address(strict: StrictWitness) -> Iterator[str]:
    host = Host(strict.app)
    with host.up():
        yield host.address


def test_a_witness_gets_heads_with_proofs_and_signs_them(
    address: str, strict: StrictWitness, log: TreeLog
) -> None:
    signatures = hand(HttpWitness(address), log.head(), log)
    assert strict.bodies == [f"old 0\n\n{log.head().note}"]
    assert signatures.startswith("— witness.example ")
    assert signatures.count("\n") == 1, "what is no signature line is left out"
    # The line fits under the note: it is a note with two signatures then.
    keys = [Key(public_bytes(log.key.public_key()))]
    assert opened(log.head().note + signatures, keys)[0].size == 5

    hand(HttpWitness(f"{address}/"), log.grow(8), log, seen=5)
    path = "".join(f"{b64encode(one).decode()}\n" for one in run(log.proof(5, 13)))
    assert strict.bodies[1:] == [f"old 5\n{path}\n{log.head().note}"]
    assert strict.seen == log.head().head

    # Who forgot what the witness has is told, and proves from there.
    hand(HttpWitness(address), log.grow(1), log)
    assert [body.partition("\n")[0] for body in strict.bodies[2:]] == ["old 0", "old 13"]
    # The same head again changes nothing.
    hand(HttpWitness(address), log.head(), log, seen=14)
    assert strict.bodies[-1] == f"old 14\n\n{log.head().note}"


def test_a_witness_that_forgot_is_handed_the_head_anew(
    address: str, strict: StrictWitness, log: TreeLog
) -> None:
    hand(HttpWitness(address), log.head(), log)
    strict.seen = None
    hand(HttpWitness(address), log.grow(1), log, seen=5)
    assert strict.seen == log.head().head


def test_a_witness_refuses_a_log_that_was_set_back_or_rewritten(
    address: str, strict: StrictWitness, log: TreeLog
) -> None:
    hand(HttpWitness(address), log.grow(3), log)
    for seen in (0, 3):
        with pytest.raises(WitnessRefused, match="seen 8 events, this head is of 7"):
            hand(HttpWitness(address), log.head(7), log, seen=seen)
        forked = log.rewritten(2)
        with pytest.raises(WitnessRefused, match="seen another log of 8 events"):
            hand(HttpWitness(address), forked.head(), forked, seen=seen)
        forked.grow(4)
        with pytest.raises(WitnessRefused, match="does not follow from the one it has seen"):
            hand(HttpWitness(address), forked.head(), forked, seen=seen)
    assert strict.seen == log.head().head


def test_a_witness_that_knows_only_yes_and_no_will_do(
    address: str, strict: StrictWitness, log: TreeLog
) -> None:
    strict.instead = Response(status_code=204)
    assert hand(HttpWitness(address), log.head(), log) == ""
    strict.instead = Response("no", 409)
    with pytest.raises(WitnessRefused, match="409, no"):
        hand(HttpWitness(address), log.head(), log)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Response("come back", 503), "503, come back"),
        (Response("who are you", 404), "404, who are you"),
        (Response(status_code=302, headers={"Location": "http://127.0.0.1:1/"}), "302"),
        (Response("x" * 100_000), "200 and too much"),
    ],
)
def test_other_answers_mean_later(
    answer: Response, said: str, address: str, strict: StrictWitness, log: TreeLog
) -> None:
    strict.instead = answer
    with pytest.raises(WitnessAway, match=said):
        hand(HttpWitness(address), log.head(), log)


def test_a_witness_that_is_not_there_is_away(strict: StrictWitness, log: TreeLog) -> None:
    host = Host(strict.app)
    with pytest.raises(WitnessAway, match="ConnectError"):
        hand(HttpWitness(host.address), log.head(), log)


def test_credentials_go_to_the_witness_and_nowhere_else(
    address: str, strict: StrictWitness, log: TreeLog
) -> None:
    witness = HttpWitness(address.replace("//", "//joe:secret@"))
    hand(witness, log.head(), log)
    assert strict.credentials == [f"Basic {b64encode(b'joe:secret').decode()}"]
    assert witness.name == address


def test_a_text_that_is_no_head_is_none() -> None:
    with pytest.raises(BadCheckpoint):
        HeadNote.of(1, "hello\n")
