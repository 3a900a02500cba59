"""If-Match and If-None-Match: nobody writes over what he has not seen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.conditional import entity_tag, expected_of
from commands import Context, Expected, VersionMismatch
from domain.access import Role
from domain.sites import CloseSite, OpenSite
from eventstore import Receipt
from tests.serving import Served, accepted, assert_problem, found, order, serving_here
from tests.world import NOW, company, context


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (served, _):
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(Role.ADMIN, Role.SERVICE, organisation_id=uuid4()) as client:
        yield client


def placed(client: httpx.Client) -> str:
    """A new order's path."""
    order_id = f"O-{uuid4().hex[:12]}"
    accepted(client.post("/orders", json=order(order_id)))
    return f"/orders/{order_id}"


def cancel(client: httpx.Client, path: str, tag: str | None, **headers: str) -> httpx.Response:
    """Cancel an order if it is at a version."""
    said = headers if tag is None else headers | {"If-Match": tag}
    return client.post(f"{path}/cancel", json={"reason": "changed mind"}, headers=said)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("*", Expected(any_version=True)),
        (' "7" ', Expected(frozenset({7}))),
        ('"7", "9"', Expected(frozenset({7, 9}))),
        ('"7","7.champion"', Expected(frozenset({7}))),
        ('W/"7"', Expected()),
        ('"x", W/"1", "2"', Expected(frozenset({2}))),
        ('""', Expected()),
        ('"07"', Expected()),
        ('"-1"', Expected()),
        ('"9999999999999999999999"', Expected()),
    ],
)
def test_what_if_match_asks_for(header: str, expected: Expected) -> None:
    assert expected_of(header) == expected


@pytest.mark.parametrize(
    "header", ["7", '"7', '"7" "8"', "", "**", '"7";x', '* , "7"', '"a"' * 500]
)
def test_what_is_no_list_of_tags(header: str) -> None:
    with pytest.raises(ValueError, match="entity tags"):
        expected_of(header)


@given(st.integers(0, 10**17), st.lists(st.sampled_from(["champion", "erased"]), max_size=2))
def test_a_tag_says_its_version(version: int, besides: list[str]) -> None:
    assert expected_of(entity_tag(version, *besides)) == Expected(frozenset({version}))


def test_a_command_on_another_version_is_refused(client: httpx.Client) -> None:
    path = placed(client)
    for tag in ('"0"', '"2"', 'W/"1"', '"x"', '"2", "3"'):
        said = assert_problem(cancel(client, path, tag), 412, "precondition-failed")
        assert said["context"]["actual"] == 1
        assert said["context"]["stream"] == path.removeprefix("/")
        assert "version 1" in said["detail"]
        assert said["context"]["expected"] in ("", tag.strip('"'), "2, 3")
    done = cancel(client, path, '"5", "1"')
    assert accepted(done)["version"] == 2
    assert done.headers["etag"] == '"2"'


def test_a_star_asks_only_that_it_exists(client: httpx.Client) -> None:
    said = assert_problem(cancel(client, "/orders/O-none", "*"), 412, "precondition-failed")
    assert said["context"] == {"stream": "orders/O-none", "expected": "*", "actual": 0}
    accepted(cancel(client, placed(client), "*"))


@pytest.mark.parametrize("tag", ["1", '"1', '"1" "2"', '"1", *'])
def test_a_header_that_is_no_list_of_tags_is_named(client: httpx.Client, tag: str) -> None:
    said = assert_problem(cancel(client, placed(client), tag), 422, "invalid")
    assert [error["field"] for error in said["errors"]] == ["header.If-Match"]


def test_headers_in_several_lines_are_one_list(client: httpx.Client) -> None:
    path = placed(client)
    lines = [("If-Match", '"3"'), ("If-Match", '"1"')]
    answer = client.post(f"{path}/cancel", json={"reason": "x"}, headers=lines)
    assert accepted(answer)["version"] == 2


def test_a_retry_gets_the_first_answer_whatever_it_has_seen(client: httpx.Client) -> None:
    path = placed(client)
    key = {"Idempotency-Key": "once"}
    first = accepted(cancel(client, path, '"1"', **key))
    for tag in ('"1"', '"2"', '"77"', "*", None):
        again = accepted(cancel(client, path, tag, **key))
        assert again == first | {"repeated": True}
    # A refused one is not remembered: it may come again with what it has seen by then.
    other = placed(client)
    key = {"Idempotency-Key": "twice"}
    assert_problem(cancel(client, other, '"9"', **key), 412)
    assert not accepted(cancel(client, other, '"1"', **key))["repeated"]


def test_of_many_who_saw_the_same_exactly_one_writes(client: httpx.Client) -> None:
    """Each could be accepted on any version: only the header holds them apart."""
    site = f"S-{uuid4().hex[:8]}"
    accepted(client.post("/sites", json={"site_id": site}))
    path = f"/stock/{site}/A/receive"
    version = accepted(client.post(path, json={"quantity": "1"}))["version"]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            tag = {"If-Match": f'"{version}"'}
            sent = [
                pool.submit(client.post, path, json={"quantity": "1"}, headers=tag)
                for _ in range(8)
            ]
            assert sorted(one.result().status_code for one in sent) == [200] + [412] * 7
            version += 1


def test_two_processes_with_the_same_version(database: str) -> None:
    """Two buses do not know of each other's turns or states: the append is what decides."""

    async def run() -> None:
        async with company(database) as one, company(database) as other:
            whose = context(organisation_id=uuid4())
            for number in range(20):
                site = f"S-{number}"
                await one.bus.execute(OpenSite(site_id=site, opened_at=NOW), _new(whose))
                seen = Expected(frozenset({1}))
                close = CloseSite(site_id=site, reason="x", closed_at=NOW)
                results = await asyncio.gather(
                    one.bus.execute(close, _new(whose, seen)),
                    other.bus.execute(close, _new(whose, seen)),
                    return_exceptions=True,
                )
                assert {type(result) for result in results} == {Receipt, VersionMismatch}
                [lost] = [result for result in results if isinstance(result, VersionMismatch)]
                assert lost.context["actual"] == 2

    asyncio.run(run())


def test_commands_sent_together_are_held_to_it_too(database: str) -> None:
    async def run() -> None:
        async with company(database) as app:
            whose = context(organisation_id=uuid4())
            opened = OpenSite(site_id="S-1", opened_at=NOW)
            close = CloseSite(site_id="S-1", reason="x", closed_at=NOW)
            first, early, late = await app.bus.execute_many(
                [
                    (opened, _new(whose)),
                    (close, _new(whose, Expected(frozenset({2})))),
                    (close, _new(whose, Expected(frozenset({1})))),
                ]
            )
            assert isinstance(first, Receipt)
            assert isinstance(early, VersionMismatch)
            assert isinstance(late, Receipt)
            assert late.version == 2

    asyncio.run(run())


def _new(whose: Context, expected: Expected | None = None) -> Context:
    return Context(whose.organisation_id, whose.actor, whose.roles, uuid4(), expected=expected)


def test_what_is_read_names_the_version_that_writers_need(client: httpx.Client) -> None:
    """The tag of each kind of thing is its stream's version, whatever else the log holds."""
    opened = accepted(client.post("/sites", json={"site_id": "S-tag"}))
    vehicle: dict[str, Any] = {
        "vehicle_id": "V-tag",
        "site_id": "S-tag",
        "mode": "van",
        "service_levels": ["standard"],
    }
    accepted(client.post("/vehicles", json=vehicle))
    last = accepted(client.post("/policies/fulfilment", json={"minimum_confidence": 0.5}))
    assert opened["version"] == 1
    for path, command, body in (
        ("/sites/S-tag", "/sites/S-tag/close", {"reason": "x"}),
        ("/vehicles/V-tag", "/vehicles/V-tag/retire", {"reason": "x"}),
        ("/policies/fulfilment", "/policies/fulfilment/stop", {"reason": "x"}),
    ):
        shown = client.get(path, params={"min_position": last["position"]})
        tag = shown.headers["etag"]
        assert found(shown)["version"] == 1
        last = accepted(client.post(command, json=body, headers={"If-Match": tag}))
        assert_problem(client.post(command, json=body, headers={"If-Match": tag}), 412)
        again = client.get(path, params={"min_position": last["position"]})
        assert again.headers["etag"] != tag


def test_what_has_not_changed_is_not_sent_again(client: httpx.Client) -> None:
    path = placed(client)
    position = accepted(cancel(client, path, None))["position"]
    shown = client.get(path, params={"min_position": position})
    tag = shown.headers["etag"]
    for held in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        answer = client.get(path, headers={"If-None-Match": held})
        assert answer.status_code == 304, held
        assert answer.content == b""
        assert answer.headers["etag"] == tag
        assert answer.headers["cache-control"] == "private, no-cache"
        assert "x-correlation-id" in answer.headers
        assert "content-length" not in answer.headers
    for held in ('"1"', "x", ""):
        assert found(client.get(path, headers={"If-None-Match": held})) == found(shown)
    assert_problem(client.get("/orders/O-none", headers={"If-None-Match": "*"}), 404)
    # A list has no tag, and a command is no read.
    found(client.get("/orders", headers={"If-None-Match": "*"}))
    accepted(client.post("/sites", json={"site_id": "S-304"}, headers={"If-None-Match": "*"}))
