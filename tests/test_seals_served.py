"""The log's proof as auditors get it: over HTTP from a real server, and at the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from typer.testing import CliRunner

from chainlytics import verifier
from chainlytics.cli import app
from domain.access import Role
from eventstore.seals.checkpoint import parsed
from tests.sealing import OURS, append, emptied, run, seal
from tests.serving import Served, assert_problem, everything, get, order, post, serving_here, until
from tests.world import ORGANISATION

OTHER = UUID("00000000-0000-0000-0000-0000000000bb")


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture(scope="module")
def auditor(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.AUDITOR) as client:
        yield client


@pytest.fixture(scope="module")
def position(served: Served, auditor: httpx.Client) -> int:
    """The position of an order, under a signed head that the server made by itself."""
    with served.client(Role.ADMIN) as client:
        placed = post(client, "/orders", order("O-1"))
        post(client, "/decisions", {"kind": "fulfilment", "subject_id": "O-1"})
    at = int(placed["position"]) + 1

    def sealed() -> bool | None:
        answer = auditor.get("/audit/checkpoint")
        return True if answer.status_code == 200 and parsed(answer.text).size >= at else None

    until(sealed)
    return int(placed["position"])


def test_the_newest_head_is_a_text_that_is_kept(auditor: httpx.Client, position: int) -> None:
    answer = auditor.get("/audit/checkpoint")
    assert answer.headers["content-type"].startswith("text/plain")
    keys = get(auditor, "/audit/keys")
    told = [
        {"key": _base64(one["public_key"]), "from_size": one["from_size"], "endorsement": None}
        for one in keys
    ]
    assert verifier.open_checkpoint(answer.text, told).size >= position


def _base64(text: str) -> str:
    from base64 import b64encode

    return b64encode(bytes.fromhex(text)).decode()


def test_heads_come_in_pages(served: Served, auditor: httpx.Client, position: int) -> None:
    for number in range(3):
        with served.client(Role.ADMIN) as client:
            at = post(client, "/orders", order(f"P-{number}"))["position"]
        until(lambda at=at: get(auditor, "/audit/heads")["items"][0]["size"] >= at or None)  # type: ignore[misc]
    heads = everything(auditor, "/audit/heads", limit=2)
    assert len(heads) >= 4
    numbers = [one["number"] for one in heads]
    assert numbers == sorted(set(numbers), reverse=True)
    assert_problem(auditor.get("/audit/heads", params={"cursor": "x"}), 422, "bad-cursor")


def test_an_event_is_proved(auditor: httpx.Client, position: int) -> None:
    proof = get(auditor, "/audit/proofs/inclusion", position=[position, position + 1])
    _, rows = verifier.check_inclusion(proof)
    assert [row.topic.split(".")[1] for row in rows] == ["OrderPlaced", "DecisionRequested"]
    assert rows[0].organisation_id == ORGANISATION
    assert json.loads(rows[0].state)["order_id"] == "O-1"


def test_the_log_only_grew(auditor: httpx.Client, position: int) -> None:
    heads = get(auditor, "/audit/heads", limit=500)["items"]
    old, new = heads[-1]["size"], heads[0]["size"]
    proof = get(auditor, "/audit/proofs/consistency", old=old, new=new)
    assert [one.size for one in verifier.check_growth(proof)] == [old, new]
    if new > old:
        answer = auditor.get("/audit/proofs/consistency", params={"old": new, "new": old})
        assert_problem(answer, 422, "unprovable")
    answer = auditor.get("/audit/proofs/consistency", params={"old": 10**9})
    assert_problem(answer, 409, "not-sealed")


def test_a_list_of_decisions_is_proved(auditor: httpx.Client, position: int) -> None:
    period = {"from": "2020-01-01T00:00:00Z", "to": "2099-01-01T00:00:00Z"}
    proof = get(auditor, "/audit/proofs/decisions", **period)
    assert [row.position for row in verifier.check_decisions(proof)[1]] == [position + 1]
    answer = auditor.get("/audit/proofs/decisions", params=period | {"to": "2020-01-01T00:00:00Z"})
    assert_problem(answer, 422, "unprovable")


def test_another_organisation_gets_nothing_of_ours(served: Served, position: int) -> None:
    with served.client(Role.AUDITOR, organisation_id=OTHER) as other:
        answer = other.get("/audit/proofs/inclusion", params={"position": position})
        body = assert_problem(answer, 404, "no-such-event")
        assert body["detail"] == f"there is no event at position {position}"
        period = {"from": "2020-01-01T00:00:00Z", "to": "2099-01-01T00:00:00Z"}
        assert_problem(other.get("/audit/proofs/decisions", params=period), 409, "not-sealed")


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ANALYST, Role.SERVICE])
@pytest.mark.parametrize(
    "path",
    ["checkpoint", "heads", "keys", "proofs/inclusion?position=1", "proofs/consistency?old=1"],
)
def test_proofs_are_for_auditors_and_admins(served: Served, role: Role, path: str) -> None:
    with served.client(role) as client:
        assert_problem(client.get(f"/audit/{path}"), 403, "forbidden")
    with served.nobody() as nobody:
        assert nobody.get(f"/api/v1/audit/{path}").status_code == 401


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("inclusion", {}),
        ("inclusion", {"position": 0}),
        ("inclusion", {"position": list(range(1, 1002))}),
        ("inclusion", {"position": "one"}),
        ("consistency", {"old": 0}),
        ("decisions", {"from": "2020-01-01T00:00:00", "to": "2099-01-01T00:00:00Z"}),
    ],
)
def test_bad_questions_name_the_field(
    auditor: httpx.Client, path: str, query: dict[str, Any]
) -> None:
    body = assert_problem(auditor.get(f"/audit/proofs/{path}", params=query), 422, "invalid")
    assert body["errors"][0]["field"]


# the command line


@pytest.fixture
def terminal(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, str]]:
    """A folder to work in, and a database with a sealed log whose key is there."""
    name = f"sealed_{tmp_path.name.replace('-', '_')}"[:60]
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    url = server_url.rpartition("/")[0] + f"/{name}"
    emptied(url)
    append(url, 120, decisions=10)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("CHAINLYTICS_HOME", str(tmp_path))
    monkeypatch.setenv("CHAINLYTICS_ORGANISATION", str(OURS))
    monkeypatch.chdir(tmp_path)
    yield tmp_path, url
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def say(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["audit", *words])
    assert done.exit_code == code, (words, done.output, done.exception)
    return done.output


def test_an_auditor_works_with_files(terminal: tuple[Path, str]) -> None:
    _, url = terminal
    seal(url)
    origin = json.loads(say("verify", "--json"))["origin"]
    say("checkpoint", "--out", "kept.txt")
    append(url, 60, decisions=10)
    seal(url)
    assert "holds" in say("verify", "--origin", origin, "--witness", "kept.txt")
    say("proof", "1", "3", "120", "--out", "events.json")
    done = CliRunner().invoke(app, ["audit", "proof", "2"])  # another organisation's
    assert "there is no event at position 2" in str(done.exception)
    say("consistency", "kept.txt", "--out", "growth.json")
    say("completeness", "--from", "2020-01-01", "--to", "2099-01-01", "-o", "decisions.json")
    for name, told in (
        ("events.json", "in the log of 180 events"),
        ("growth.json", "the log of 180 events begins with the one of 120"),
        ("decisions.json", "18 decisions were requested"),
    ):
        assert told in say("check-proof", name, "--origin", origin)
        say("check-proof", name, "--origin", "chainlytics/" + "0" * 32, code=1)
    assert json.loads(say("check-proof", "growth.json", "--json"))["holds"]
    assert len(json.loads(say("heads", "--json"))) == 2
    assert len(json.loads(say("keys", "--json"))) == 1

    run(url, "UPDATE events SET actor = 'eve' WHERE notification_id = 33")
    assert "position 33 was changed" in say("verify", "--origin", origin, code=1)
    found = json.loads(say("verify", "--json", code=1))
    assert (found["holds"], found["first_bad"]) == (False, 33)


def test_the_operator_seals_and_rotates_the_key(
    terminal: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = terminal
    done = CliRunner().invoke(app, ["audit", "seal"])
    assert "CHAINLYTICS_SEAL_KEY" in str(done.exception)
    # A key in the home folder is the database's too, once it is there.
    monkeypatch.delenv("DATABASE_URL")
    from chainlytics.settings import Settings

    assert Settings().signing_key() is not None
    monkeypatch.setenv("DATABASE_URL", url)
    assert "chainlytics/" in say("seal")
    assert "nothing new" in say("seal")
    assert "key 1 signs from now on" in say("rotate-key", "--yes")
    append(url, 10)
    assert json.loads(say("seal", "--json"))["head"]["size"] == 130
    assert [one["number"] for one in json.loads(say("keys", "--json"))] == [0, 1]
    assert "holds" in say("verify")
    done = CliRunner().invoke(app, ["audit", "rotate-key"], input="n\n")
    assert done.exit_code == 1
    assert len(json.loads(say("keys", "--json"))) == 2


def test_what_cannot_be_had_is_one_clear_sentence(terminal: tuple[Path, str]) -> None:
    for words, told in (
        (("checkpoint",), "nothing is sealed yet"),
        (("proof", "1"), "nothing is sealed yet"),
        (("consistency", "none.txt"), "no size and no file"),
    ):
        done = CliRunner().invoke(app, ["audit", *words])
        assert told in str(done.exception), words
    assert "nothing is sealed yet, so nothing is proved" in say("verify", code=3)
