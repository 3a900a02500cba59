"""The live stream: every event of the organisation once, in order, however often one comes back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from domain.access import Role
from tests.following import Message, following, place
from tests.serving import Served, accepted, assert_problem, found, order, serving_process


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_process(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture
def organisation() -> UUID:
    return uuid4()


@pytest.fixture
def client(served: Served, organisation: UUID) -> Iterator[httpx.Client]:
    with served.client(organisation_id=organisation) as client:
        yield client


@pytest.fixture
def other(served: Served) -> Iterator[httpx.Client]:
    with served.client(organisation_id=uuid4()) as client:
        yield client


def names(count: int, start: int = 0) -> list[str]:
    return [f"O-{number}" for number in range(start, start + count)]


def test_events_arrive_as_they_happen(client: httpx.Client, organisation: UUID) -> None:
    place(client, "O-before")
    with following(client) as stream:
        positions = place(client, *names(3))
        accepted(client.post("/orders/O-1/cancel", json={"reason": "zwei\nZeilen: «ja»"}))
        messages = stream.take(4)
    assert [message.id for message in messages[:3]] == positions
    assert [message.event for message in messages] == ["OrderPlaced"] * 3 + ["OrderCancelled"]
    assert messages[3].data["event"]["reason"] == "zwei\nZeilen: «ja»"
    assert messages[3].data["version"] == 2
    for message in messages:
        assert message.data["position"] == message.id
        assert message.data["actor"] == "tester"
        UUID(message.data["correlation_id"])
    # The stream says what the audit trail says.
    query = {"min_position": messages[-1].id, "limit": 500}
    trail = found(client.get("/audit", params=query))["items"]
    assert [(line["position"], line["event_id"]) for line in trail[1:]] == [
        (message.id, message.data["event_id"]) for message in messages
    ]


def test_it_starts_behind_a_position(client: httpx.Client) -> None:
    positions = place(client, *names(5))
    with following(client, after=0) as stream:
        assert [message.id for message in stream.take(5)] == positions
    with following(client, after=positions[2]) as stream:
        assert stream.greeting == f": following from position {positions[2]}"
        assert [message.id for message in stream.take(2)] == positions[3:]


def test_who_comes_back_goes_on_where_it_was(client: httpx.Client, other: httpx.Client) -> None:
    """Cut off at any place, with others' events in between: no gap, no repeat."""
    seen: list[Message] = []
    with following(client) as stream:
        positions = place(client, *names(4))
        seen += stream.take(2)
    for cut in range(3):
        place(other, *names(2, start=10 * cut))
        positions += place(client, *names(3, start=100 * (cut + 1)))
        # `after` is what the page was opened with; the place where one was counts.
        with following(client, after=0, last_event_id=seen[-1].id) as stream:
            seen += stream.take(len(positions) - len(seen) - 1)
    with following(client, last_event_id=seen[-1].id) as stream:
        seen += stream.take(1)
        positions += place(client, "O-last")
        seen += stream.take(1)
    assert [message.id for message in seen] == positions


def test_more_than_one_batch(client: httpx.Client, other: httpx.Client) -> None:
    """The server reads 500 at a time."""
    start = place(client, "O-start")[0]
    lines = []
    for number in range(260):
        lines.append(place(client, f"O-{number}")[0])
        lines.append(
            accepted(client.post(f"/orders/O-{number}/cancel", json={"reason": "x"}))["position"]
        )
        if number % 50 == 0:
            place(other, f"O-{number}")
    with following(client, after=start) as stream:
        assert [message.id for message in stream.take(520)] == lines
        # From the backlog it goes over into what happens now.
        last = place(client, "O-last")
        assert [message.id for message in stream.take(1)] == last


def test_an_organisation_sees_its_own_events_only(
    client: httpx.Client, other: httpx.Client
) -> None:
    with following(client, after=0) as mine, following(other, after=0) as theirs:
        for number in range(5):
            first = place(client, f"O-{number}")
            second = place(other, f"O-{number}")
            assert [message.id for message in mine.take(1)] == first
            assert [message.id for message in theirs.take(1)] == second


def test_two_followers_see_the_same(client: httpx.Client) -> None:
    with following(client) as one, following(client) as two:
        positions = place(client, *names(10))
        assert one.take(10) == two.take(10)
    with following(client, after=positions[0] - 1) as three:
        assert [message.id for message in three.take(10)] == positions


@pytest.mark.parametrize("role", list(Role))
def test_a_viewer_may_not_follow(served: Served, role: Role) -> None:
    with (
        served.client(role) as client,
        client.stream("GET", "/stream", timeout=30) as answer,
    ):
        if role is not Role.VIEWER:
            assert answer.status_code == 200
            return
        answer.read()
        assert_problem(answer, 403, "forbidden")


def test_nobody_may_follow(served: Served) -> None:
    with served.nobody() as nobody:
        assert_problem(nobody.get("/api/v1/stream"), 401, "unauthenticated")


def test_a_server_stops_while_somebody_follows(database: str, tmp_path: Path) -> None:
    with (
        serving_process(database, tmp_path) as (served, process),
        served.client(organisation_id=uuid4()) as client,
        following(client) as stream,
    ):
        placed = place(client, "O-1")
        assert [message.id for message in stream.take(1)] == placed
        process.send_signal(signal.SIGINT)
        with pytest.raises(StopIteration):  # it ends as a stream ends: nothing is cut off
            stream.take(1)
        process.wait(timeout=30)
    log = (tmp_path / "serve.log").read_text()
    assert process.returncode == 0, log
    assert "Traceback" not in log
    assert "Cancel" not in log, "the stream held on until the grace was over"


@pytest.mark.slow
def test_a_server_stops_while_somebody_does_not_read(database: str, tmp_path: Path) -> None:
    """Who takes nothing of a backlog of megabytes holds the server up for its grace only."""
    [line] = order("O-0")["lines"]
    lines = [line | {"line_no": number} for number in range(1, 1001)]
    with (
        serving_process(database, tmp_path) as (served, process),
        served.client(organisation_id=uuid4()) as client,
    ):
        for number in range(100):
            accepted(client.post("/orders", json=order(f"O-{number}", lines=lines)))
        with following(client, after=0) as stream:
            assert [message.event for message in stream.take(1)] == ["OrderPlaced"]
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
    assert process.returncode == 0, (tmp_path / "serve.log").read_text()
