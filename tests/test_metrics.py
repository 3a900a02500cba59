"""What a process tells Prometheus of its requests, commands and connections, on a real server."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from domain.access import Role
from tests.outages import away
from tests.serving import Served, order, post, serving_here, until

#: Suffixes of base units and of plain counts; others name no unit (promtool check metrics).
UNITS = ("seconds", "bytes", "ratio")
#: Methods that HTTP servers let through and no endpoint has.
RARE = ("PROPFIND", "MKCOL", "LOCK", "PURGE", "REPORT", "SUBSCRIBE", "TRACE")
NO_UNITS = ("milliseconds", "ms", "minutes", "hours", "kilobytes", "percent")


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("metrics")) as (served, _):
        yield served


def families(served: Served) -> dict[str, Metric]:
    with served.client(Role.VIEWER) as client:
        answer = client.get(served.url + "/metrics")
        assert answer.status_code == 200, answer.text
        return {one.name: one for one in text_string_to_metric_families(answer.text)}


def value(served: Served, family: str, name: str | None = None, /, **labels: str) -> float:
    found = families(served)[family]
    return sum(
        sample.value
        for sample in found.samples
        if sample.name == (name or sample.name) and labels.items() <= sample.labels.items()
    )


def requests(served: Served, method: str, route: str, status: int) -> float:
    return value(
        served, "chainlytics_http_requests", method=method, route=route, status=str(status)
    )


def test_a_request_is_counted_and_timed_under_its_template(served: Served) -> None:
    route = "/api/v1/orders/{order_id}"
    before = requests(served, "GET", route, 404)
    timed = value(
        served,
        "chainlytics_http_request_duration_seconds",
        "chainlytics_http_request_duration_seconds_count",
        method="GET",
        route=route,
    )
    with served.client() as client:
        for number in range(3):
            assert client.get(f"/orders/nobody-{number}").status_code == 404
    assert requests(served, "GET", route, 404) == before + 3
    durations = families(served)["chainlytics_http_request_duration_seconds"].samples
    mine = [one for one in durations if one.labels.get("route") == route]
    buckets = [one.value for one in mine if one.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == timed + 3 == next(one.value for one in mine if "_count" in one.name)
    assert next(one.value for one in mine if "_sum" in one.name) > 0


def test_commands_are_counted_by_what_became_of_them(served: Served) -> None:
    def count(outcome: str, command: str = "PlaceOrder") -> float:
        return value(served, "chainlytics_commands", command=command, outcome=outcome)

    outcomes = ("accepted", "repeated", "forbidden", "order.already_placed", "reused")
    before = {outcome: count(outcome) for outcome in outcomes}
    body = order("O-counted")
    with served.client() as client, served.client(Role.VIEWER) as viewer:
        post(client, "/orders", body, key="counted")
        post(client, "/orders", body, key="counted")
        other = client.post(
            "/orders", json=order("O-other"), headers={"Idempotency-Key": "counted"}
        )
        assert other.status_code == 409
        assert client.post("/orders", json=body).status_code == 409
        assert viewer.post("/orders", json=order("O-2")).status_code == 403
    assert {outcome: count(outcome) - before[outcome] for outcome in outcomes} == dict.fromkeys(
        outcomes, 1
    )


def test_whoever_asks_makes_no_new_series(served: Served) -> None:
    """Paths, methods, names and organisations of a sender are in no label."""
    chance = random.Random(7)

    def word() -> str:
        return "".join(chance.choices(string.ascii_letters + string.digits, k=12))

    def ask(client: httpx.Client, rounds: int) -> None:
        for _ in range(rounds):
            client.get(f"/{word()}")
            client.get(f"/orders/{word()}")
            client.get(f"/decisions/{word()}/timeline")
            client.post(f"/orders/{word()}/cancellation", json={word(): word()})
            client.post("/orders", json=order(word()))
            client.post("/orders", json=order(word(), customer_id=word(), region=word()))
            client.request(word().upper(), f"/orders/{word()}")  # the server itself refuses it
            client.request(chance.choice(RARE), served.url + f"/{word()}/{word()}")
            client.request(chance.choice(RARE), f"/orders/{word()}")
            client.get(served.url + f"/health/{word()}")
            client.get(served.url + f"/metrics/{word()}")
            client.get("/orders", params={word(): word()}, headers={"X-Request-Id": word()})
            client.get("/orders", headers={"X-Organisation-Id": str(uuid4())})
            client.get("/orders", headers={"Authorization": f"Bearer {word()}"})

    def series() -> set[tuple[str, ...]]:
        own = ("chainlytics_http", "chainlytics_commands", "chainlytics_live", "chainlytics_pool")
        return {
            (sample.name, *(f"{key}={one}" for key, one in sorted(sample.labels.items())))
            for family in families(served).values()
            for sample in family.samples
            if family.name.startswith(own)
        }

    with served.client() as client:
        ask(client, 2)
        series()
        once = series()
        ask(client, 25)
    assert series() == once
    labels = "\n".join(" ".join(one) for one in once)
    assert "route=unmatched" in labels
    assert "method=other" in labels
    routes = set(re.findall(r"route=(\S+)", labels))
    with served.nobody() as client:
        declared = set(client.get("/openapi.json").json()["paths"])
    assert routes <= declared | {"unmatched", "/metrics", "/docs", "/openapi.json", "/"}


def test_live_streams_are_counted_apart(served: Served) -> None:
    def live() -> float:
        return value(served, "chainlytics_live_connections", kind="events")

    before = live()
    with served.client() as client, client.stream("GET", "/stream") as answer:
        assert answer.status_code == 200
        assert live() == before + 1
        # This very scrape is the only one that is being answered.
        assert value(served, "chainlytics_http_requests_in_flight") == 1
    until(lambda: True if live() == before else None)
    timed = families(served)["chainlytics_http_request_duration_seconds"].samples
    assert not [one for one in timed if "stream" in one.labels.get("route", "")]


def test_the_pool_tells_of_itself(served: Served) -> None:
    assert value(served, "chainlytics_pool_max_connections", pool="log") >= 1
    before = value(served, "chainlytics_pool_requests", pool="log")
    with served.client() as client:
        client.get("/orders")
    assert value(served, "chainlytics_pool_requests", pool="log") > before
    assert value(served, "chainlytics_database_up") == 1


def test_what_waits_is_told_by_state(served: Served) -> None:
    told = families(served)
    for name, states in (
        ("chainlytics_tasks", {"requested", "running", "cancelling"}),
        ("chainlytics_webhook_deliveries", {"pending", "held", "dead"}),
        ("chainlytics_webhooks", {"running", "paused", "failing"}),
    ):
        assert {sample.labels["state"] for sample in told[name].samples} == states
    assert told["chainlytics_task_waiting_seconds"].samples[0].value == 0
    assert told["chainlytics_webhook_behind_seconds"].samples[0].value == 0


def test_names_are_as_prometheus_has_them(served: Served) -> None:
    """What `promtool check metrics` asks for: help, base units, `_total` of counters alone."""
    with served.client(Role.VIEWER) as client:
        text = client.get(served.url + "/metrics").text
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert helps.keys() == kinds.keys()
    assert len(kinds) > 15
    for name, kind in kinds.items():
        assert re.fullmatch(r"chainlytics(_[a-z]+)+", name), name
        assert helps[name].endswith("."), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert not name.endswith(("_count", "_sum", "_bucket")), name
        assert not {*name.split("_")} & {*NO_UNITS, "gauge", "counter", "histogram"}, name
        units = [word for word in name.removesuffix("_total").split("_") if word in UNITS]
        assert not units or name.removesuffix("_total").endswith(units[0]), name


def test_metrics_are_told_while_the_database_is_away(served: Served, database: str) -> None:
    with away(database):
        told = families(served)
    assert [one.value for one in told["chainlytics_database_up"].samples] == [0]
    assert told["chainlytics_http_requests"].samples
    assert "chainlytics_projection_up" not in told
    until(lambda: value(served, "chainlytics_database_up") or None)
