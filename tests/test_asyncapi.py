"""The AsyncAPI document and the JSON schemas: good by their own rules, whole, and true of what goes
over Kafka. The document that is committed is what the code says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker
from typer.testing import CliRunner

from api import intake
from api.asyncapi.document import document, files, text_of
from api.asyncapi.payloads import schemas
from api.messages import Verified, answer, read
from api.posts import POSTS
from api.tokens import Issuer
from chainlytics import __version__
from chainlytics.cli import app
from chainlytics.settings import Settings
from domain.catalogue import AREAS, TOPICS, TYPES, UPCASTERS, decode, encode
from domain.errors import Refused
from domain.schemas import released
from domain.values import Event
from eventstore import Receipt, StoredEvent
from eventstore.kafka import topics
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.inbox import Message
from eventstore.kafka.letters import COMMANDS, DEAD, REPLIES, dead_letter
from eventstore.kafka.records import Headers, record_of
from eventstore.kafka.topics import TopicNames
from tests.serving import API, SECRET, Served, assert_problem, bearer, found, serving_here
from tests.test_catalogue import values
from tests.test_event_schemas import from_schema
from tests.world import ORGANISATION, a_year, company

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = ROOT / "docs" / "asyncapi"
OFFICIAL = json.loads((ROOT / "tests" / "asyncapi" / "3.0.0.json").read_text(encoding="utf-8"))
DOCUMENT = document(version=__version__)
EPOCH = str(uuid4()).encode()
Json = dict[str, Any]


def at(pointer: str) -> Any:
    """What a reference within the document leads to."""
    node: Any = DOCUMENT
    for word in pointer.removeprefix("#/").split("/"):
        node = node[word]
    return node


def references(node: Any) -> Iterator[str]:
    """Every reference of a part of the document; examples say none."""
    if isinstance(node, list):
        for part in node:
            yield from references(part)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for word, part in node.items():
            if word != "examples":
                yield from references(part)


def validator(schema: Mapping[str, Any]) -> Draft7Validator:
    """For a schema of the document; AsyncAPI's own are JSON Schema draft 7."""
    whole = {"allOf": [schema], "components": DOCUMENT["components"]}
    return Draft7Validator(whole, format_checker=FormatChecker())


@cache
def headers_of(message: str) -> Draft7Validator:
    return validator(DOCUMENT["components"]["messages"][message]["headers"])


@cache
def payload_of(message: str) -> Draft7Validator:
    return validator(DOCUMENT["components"]["messages"][message]["payload"])


def messages_of(address: str) -> list[str]:
    """The messages of a topic."""
    [channel] = [one for one in DOCUMENT["channels"].values() if one["address"] == address]
    return [one["$ref"].rpartition("/")[2] for one in channel["messages"].values()]


def carrying(topic: str, state: bytes, **more: Any) -> StoredEvent:
    """An event as the log has it."""
    told: Json = {
        "position": 7,
        "stream_id": uuid4(),
        "version": 1,
        "event_id": uuid4(),
        "organisation_id": ORGANISATION,
        "recorded_at": datetime.now(UTC),
        "correlation_id": uuid4(),
        "causation_id": None,
        "actor": "tester",
    }
    return StoredEvent(topic=topic, state=state, **(told | more))


def said(headers: Headers) -> dict[str, str]:
    assert len({name for name, _ in headers}) == len(headers)
    return {name: text.decode() for name, text in headers}


def assert_described(address: str, headers: Headers, value: bytes) -> str:
    """A record fits one message of its topic and no other; that message."""
    told = said(headers)
    fits = [one for one in messages_of(address) if headers_of(one).is_valid(told)]
    assert len(fits) == 1, (address, told, fits)
    payload_of(fits[0]).validate(json.loads(value))
    return fits[0]


# by its own rules


def test_it_is_an_asyncapi_document() -> None:
    official = Draft7Validator(OFFICIAL)
    assert OFFICIAL["title"].startswith("AsyncAPI 3.0.0")
    official.validate(DOCUMENT)
    broken = json.loads(text_of(DOCUMENT))
    broken["operations"]["sendOrders"]["action"] = "publish"
    assert not official.is_valid(broken)


def test_every_reference_leads_somewhere() -> None:
    there = set(references(DOCUMENT))
    assert len(there) > 100
    for one in there:
        assert at(one), one


def test_nothing_is_described_that_nobody_uses() -> None:
    used = set(references(DOCUMENT))
    for kind in ("schemas", "messages", "correlationIds", "messageBindings"):
        for name in DOCUMENT["components"][kind]:
            assert f"#/components/{kind}/{name}" in used, (kind, name)


@pytest.mark.parametrize("name", sorted(schemas()))
def test_a_schema_is_a_json_schema(name: str) -> None:
    schema = schemas()[name]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:chainlytics:schema:{name}"
    assert schema["title"]
    assert schema["description"]
    assert schema["type"] == "object"
    Draft202012Validator.check_schema(schema)
    for part in within(schema):
        assert part.keys() <= KNOWN
        if "default" in part:
            assert Draft202012Validator(part).is_valid(part["default"]), part
    embedded = DOCUMENT["components"]["schemas"][name]
    assert {**embedded, "$schema": schema["$schema"], "$id": schema["$id"]} == schema
    titles = [one["title"] for one in schemas().values()]
    assert len(titles) == len(set(titles))


#: Words of JSON Schema 2020-12; others would say nothing to anybody.
KNOWN = {
    *("$schema", "$id", "title", "description", "type", "format", "pattern", "const", "enum"),
    *("properties", "required", "additionalProperties", "patternProperties", "items", "anyOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength"),
    *("minItems", "maxItems", "minProperties", "maxProperties", "default", "examples"),
    "deprecated",
}


def within(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A schema and those within it."""
    yield schema
    for word, part in schema.items():
        inner: list[Any] = []
        if word in ("properties", "patternProperties"):
            inner = list(part.values())
        elif word == "anyOf":
            inner = part
        elif word in ("items", "additionalProperties"):
            inner = [part]
        for one in inner:
            if isinstance(one, dict):
                yield from within(one)


# whole


def test_every_topic_of_kafka_is_in_it_and_no_other() -> None:
    cluster = Cluster(())
    own = {cluster.topic(name) for name in (COMMANDS, REPLIES, DEAD)}
    addresses = [channel["address"] for channel in DOCUMENT["channels"].values()]
    assert sorted(addresses) == sorted({*TopicNames(cluster, AREAS), *own})
    for channel in DOCUMENT["channels"].values():
        binding = channel["bindings"]["kafka"]
        assert binding["topic"] == channel["address"]
        # As they are made where they are missing.
        kept = binding["topicConfiguration"]
        name = channel["address"].split(".")[1]
        if channel["address"] in own:
            assert kept["retention.ms"] == intake._KEPT_MS[name]
        else:
            assert {word: str(part) for word, part in kept.items() if word != "cleanup.policy"} == {
                word: topics._KEPT[word] for word in ("retention.ms", "retention.bytes")
            }
            assert binding["partitions"] == Settings.model_fields["kafka_lanes"].default
        assert kept["cleanup.policy"] == ["delete"]


def test_every_event_is_in_its_topic_and_no_other() -> None:
    names = TopicNames(Cluster(()), AREAS)
    ever = {*released(), *TYPES, *UPCASTERS}
    assert ever > TYPES.keys()
    for address in names:
        expected = {topic for topic in ever if names.of(topic) == address} or {topics.OTHER}
        assert set(messages_of(address)) == expected
    assert names.of("nobody.Knows.v1") == "chainlytics.other.v1"
    for topic in ever:
        message = DOCUMENT["components"]["messages"][topic]
        assert message["name"] == topic
        assert message["summary"]
        assert message["description"]
        older = {"name": "older"} in message["tags"]
        assert older == (topic not in TYPES) == schemas()[topic].get("deprecated", False)
        fields = DOCUMENT["components"]["schemas"][topic]
        assert fields["properties"].keys() == released()[topic]["properties"].keys()
        assert fields.get("required") == released()[topic].get("required")


def test_every_command_is_in_it_and_every_answer() -> None:
    commands = {f"commands.{name}.v1" for name in POSTS}
    assert len(commands) > 25
    assert set(messages_of("chainlytics.commands.v1")) == commands
    replies = {"replies.CommandAccepted.v1", "replies.CommandRejected.v1"}
    assert set(messages_of("chainlytics.replies.v1")) == replies
    assert schemas().keys() == {*released(), *commands, *replies}


def test_operations_are_told_from_our_side() -> None:
    channel_of = {
        name: (one["action"], at(one["channel"]["$ref"])["address"])
        for name, one in DOCUMENT["operations"].items()
    }
    sent = {address for action, address in channel_of.values() if action == "send"}
    assert sent == {*TopicNames(Cluster(()), AREAS), "chainlytics.commands-dead.v1"}
    [taken] = [name for name, (action, _) in channel_of.items() if action == "receive"]
    operation = DOCUMENT["operations"][taken]
    assert channel_of[taken][1] == "chainlytics.commands.v1"
    assert at(operation["reply"]["channel"]["$ref"])["address"] == "chainlytics.replies.v1"
    group = operation["bindings"]["kafka"]["groupId"]["const"]
    assert group == Cluster(()).group(intake.CONSUMER)


def test_names_and_brokers_are_those_of_the_installation() -> None:
    security = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "user-of-theirs",
        "sasl_plain_password": "secret-of-theirs",
    }
    cluster = Cluster(("a.example:9093", "b.example:9093"), "acme", security)
    made = document("acme", cluster, lanes=12, version="9")
    Draft7Validator(OFFICIAL).validate(made)
    assert {one["host"] for one in made["servers"].values()} == set(cluster.brokers)
    for server in made["servers"].values():
        assert server["protocol"] == "kafka-secure"
        assert server["security"] == [{"$ref": "#/components/securitySchemes/scramSha256"}]
    assert made["channels"]["orders"]["address"] == "acme.orders.v1"
    assert made["channels"]["orders"]["bindings"]["kafka"]["partitions"] == 12
    text = text_of(made)
    assert "secret-of-theirs" not in text
    assert "user-of-theirs" not in text
    assert "chainlytics.orders.v1" not in text
    plain = document("acme", Cluster(("a:9092",), "acme"), version="9")
    assert plain["servers"]["cluster"]["protocol"] == "kafka"
    assert "security" not in plain["servers"]["cluster"]


# true of events


@pytest.mark.parametrize("kind", list(TOPICS), ids=lambda kind: str(kind.__name__))
def test_whatever_an_event_says_is_as_its_schema_says(kind: type[Event]) -> None:
    names = TopicNames(Cluster(()), AREAS)
    published = Draft202012Validator(schemas()[TOPICS[kind]])

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(values(kind))
    def fits(event: Event) -> None:
        topic, state = encode(event)
        published.validate(json.loads(state))
        record = record_of(carrying(topic, state), 3, EPOCH)
        assert assert_described(names.of(topic), record.headers, record.value) == topic

    fits()


@pytest.mark.parametrize("topic", sorted(released().keys() - TYPES.keys()))
def test_whatever_an_older_event_says_is_as_its_schema_says(topic: str) -> None:
    published = Draft202012Validator(schemas()[topic])

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(from_schema(released()[topic]))
    def fits(body: Any) -> None:
        published.validate(body)

    fits()


def test_the_records_of_a_year_are_as_described(database: str) -> None:
    """Commands through the bus, events in the log, records as the relay makes them."""

    async def year() -> list[StoredEvent]:
        async with company(database) as application:
            await a_year(application, 150)
            return list(await application.log.after(0, 10**6))

    events = asyncio.run(year())
    names = TopicNames(Cluster(()), AREAS)
    previous, met = 0, set()
    for event in events:
        record = record_of(event, previous, EPOCH)
        met.add(assert_described(names.of(event.topic), record.headers, record.value))
        previous = event.position
    assert len(events) > 500
    assert {"orders.OrderDelivered.v1", "inventory.StockPicked.v1"} < met


def test_the_headers_are_those_that_are_written() -> None:
    described = DOCUMENT["components"]["schemas"]["EventHeaders"]
    first = record_of(carrying("orders.OrderPlaced.v1", b"{}"), 0, EPOCH)
    caused = record_of(carrying("app:Theirs", b"{}", causation_id=uuid4()), 6, EPOCH)
    assert said(first.headers).keys() == set(described["required"])
    assert said(caused.headers).keys() == described["properties"].keys()
    assert assert_described("chainlytics.other.v1", caused.headers, caused.value) == "other"
    key = at("#/components/messageBindings/stream")["kafka"]["key"]
    assert key["format"] == "uuid"
    assert str(UUID(first.key.decode())) == said(first.headers)["ce_subject"]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ce_position", "0"),
        ("ce_position", "first"),
        ("ce_previous", "-1"),
        ("ce_specversion", "0.3"),
        ("ce_source", "/organisations/ours"),
        ("traceparent", "00-abc-def-01"),
        ("ce_type", "orders.OrderShipped.v1"),
        ("ce_epoch", None),
        ("ce_id", None),
    ],
)
def test_other_headers_are_not_as_described(header: str, value: str | None) -> None:
    told = said(record_of(carrying("orders.OrderPlaced.v1", b"{}"), 0, EPOCH).headers)
    assert headers_of("orders.OrderPlaced.v1").is_valid(told)
    del told[header]
    assert not headers_of("orders.OrderPlaced.v1").is_valid(
        told if value is None else told | {header: value}
    )


@pytest.mark.parametrize("topic", sorted(TYPES))
def test_a_broken_event_is_not_as_its_schema_says(topic: str) -> None:
    schema = schemas()[topic]
    published = Draft202012Validator(schema)
    good = example_of(topic)["payload"]
    published.validate(good)
    assert schema["required"]
    for name in schema["required"]:
        assert not published.is_valid({key: good[key] for key in good if key != name}), name
        assert not published.is_valid(good | {name: [[]]}), name


def test_an_event_may_say_more_than_a_reader_knows() -> None:
    """A field that may be absent can join a version later (docs/events.md)."""
    good = example_of("orders.OrderPlaced.v1")["payload"]
    line = good["lines"][0] | {"gift": True}
    Draft202012Validator(schemas()["orders.OrderPlaced.v1"]).validate(
        good | {"channel": "shop", "lines": [line]}
    )


# examples


def example_of(message: str) -> Json:
    [example] = DOCUMENT["components"]["messages"][message]["examples"]
    return dict(example)


@pytest.mark.parametrize("message", sorted(DOCUMENT["components"]["messages"]))
def test_the_examples_are_good(message: str) -> None:
    if message not in schemas() or message in UPCASTERS:
        assert "examples" not in DOCUMENT["components"]["messages"][message]
        return
    example = example_of(message)
    headers_of(message).validate(example["headers"])
    payload_of(message).validate(example["payload"])
    if message in TYPES:
        event = decode(message, json.dumps(example["payload"]).encode())
        assert json.loads(encode(event)[1]) == example["payload"]


# true of commands


def message_of(example: Json, **headers: str) -> Message:
    """An example as it comes in, with a good token."""
    told = example["headers"] | {"authorization": f"Bearer {bearer()}"} | headers
    return Message(
        "chainlytics.commands.v1",
        3,
        1042,
        b"O-1",
        json.dumps(example["payload"]).encode(),
        [(name, text.encode()) for name, text in told.items()],
    )


@pytest.mark.parametrize("name", sorted(POSTS))
def test_a_command_as_it_is_described_is_taken(name: str) -> None:
    """The intake reads the example, and what the schema needs is what the intake needs."""
    example = example_of(f"commands.{name}.v1")
    taken = read(message_of(example), Verified(Issuer(SECRET).verify))
    assert taken.error is None
    assert taken.sent is not None
    assert type(taken.sent[0]) is POSTS[name].command
    schema = schemas()[f"commands.{name}.v1"]
    published = Draft202012Validator(schema)
    fields = POSTS[name].command.model_fields
    assert schema["properties"].keys() == fields.keys()
    assert schema["additionalProperties"] is False
    left_out = {*POSTS[name].now, *POSTS[name].made}
    needed = {field for field, info in fields.items() if info.is_required()} - left_out
    assert set(schema.get("required", ())) == needed
    for field in needed:
        rest = {key: part for key, part in example["payload"].items() if key != field}
        assert not published.is_valid(rest)
        assert (
            read(message_of(example | {"payload": rest}), Verified(Issuer(SECRET).verify)).error
            is not None
        )
    more = example["payload"] | {"no_such_field": 1}
    assert not published.is_valid(more)
    assert (
        read(message_of(example | {"payload": more}), Verified(Issuer(SECRET).verify)).error
        is not None
    )


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ce_id", ""),
        ("ce_id", " padded"),
        ("ce_id", "é"),
        ("ce_id", "x" * 201),
        ("ce_specversion", "0.3"),
        ("ce_source", ""),
        ("ce_type", "NoSuchCommand"),
        ("authorization", "Basic YTpi"),
    ],
)
def test_what_is_no_command_is_not_as_described(header: str, value: str) -> None:
    example = example_of("commands.PlaceOrder.v1")
    good = message_of(example)
    assert headers_of("commands.PlaceOrder.v1").is_valid(told_by(good))
    bad = message_of(example, **{header: value})
    assert not headers_of("commands.PlaceOrder.v1").is_valid(told_by(bad))
    assert read(bad, Verified(Issuer(SECRET).verify)).error is not None


def told_by(message: Message) -> dict[str, str]:
    return {name: (text or b"").decode() for name, text in message.headers}


@pytest.mark.parametrize("known", [True, False])
def test_the_answers_are_as_described(known: bool) -> None:
    example = example_of("commands.PlaceOrder.v1")
    message = message_of(example) if known else message_of(example, authorization="Bearer x")
    taken = read(message, Verified(Issuer(SECRET).verify))
    results: list[Receipt | Exception] = [Refused("order.already_placed", order_id="O-1")]
    if known:
        results.append(Receipt("orders/O-1", 1, 7, repeated=False))
    else:
        assert taken.error is not None
        results.append(taken.error)
    for result in results:
        reply = answer(Cluster(()), taken, result)
        assert reply.value is not None
        kind = assert_described(reply.topic, reply.headers, reply.value)
        accepted = isinstance(result, Receipt)
        assert kind == f"replies.Command{'Accepted' if accepted else 'Rejected'}.v1"
        described = DOCUMENT["components"]["schemas"]["ReplyHeaders"]["properties"]
        assert said(reply.headers).keys() == described.keys()


def test_the_dead_letters_are_as_described() -> None:
    message = message_of(example_of("commands.PlaceOrder.v1"))
    letter = dead_letter(Cluster(()), message, "it failed")
    described = DOCUMENT["components"]["schemas"]["DeadLetterHeaders"]
    assert letter.value is not None
    assert assert_described(letter.topic, letter.headers, letter.value) == "dead-letter"
    added = said(letter.headers).keys() - told_by(message).keys()
    assert added == set(described["required"])
    assert letter.smaller is not None
    assert said(letter.smaller.headers).keys() == described["properties"].keys()
    assert headers_of("dead-letter").is_valid(said(letter.smaller.headers))


# what is committed


def test_the_committed_files_are_what_the_code_says() -> None:
    made = files(DOCUMENT)
    there = {
        path.relative_to(COMMITTED).as_posix(): path.read_text(encoding="utf-8")
        for path in COMMITTED.rglob("*.json")
    }
    different = sorted(path for path in {*made, *there} if made.get(path) != there.get(path))
    assert not different, (
        "docs/asyncapi is not what the code says. Run\n"
        "    chainlytics events asyncapi --out docs/asyncapi\n"
        f"and commit it. Different: {', '.join(different)}"
    )


def published(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["events", "asyncapi", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def edited(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace("2020-12", "2019-09"))


@pytest.mark.parametrize(
    ("path", "change", "told"),
    [
        ("asyncapi.json", lambda path: path.write_text("{}"), "differs"),
        ("asyncapi.json", Path.unlink, "is missing"),
        ("schemas/orders.OrderPlaced.v1.json", edited, "differs"),
        ("schemas/commands.PlaceOrder.v1.json", Path.unlink, "is missing"),
        ("schemas/orders.OrderLost.v1.json", Path.touch, "is not published any more"),
    ],
)
def test_check_names_what_differs(
    tmp_path: Path, path: str, change: Callable[[Path], object], told: str
) -> None:
    out = str(tmp_path / "made")
    assert published("--out", out, "--check")[0] == 1
    assert published("--out", out)[0] == 0
    assert published("--out", out, "--check")[0] == 0
    change(tmp_path / "made" / path)
    code, output = published("--out", out, "--check")
    assert code == 1
    lines = [line for line in output.splitlines() if not line.startswith("To write them")]
    assert lines == [f"{path} {told}"]
    assert published("--out", out)[0] == 0
    assert published("--out", out, "--check")[0] == 0
    there = {one.relative_to(out).as_posix() for one in Path(out).rglob("*.json")}
    assert there == files(DOCUMENT).keys()


def test_the_command_prints_what_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka.example:9092")
    monkeypatch.setenv("CHAINLYTICS_KAFKA_PREFIX", "acme")
    code, output = published()
    assert (code, output) == (0, text_of(DOCUMENT))
    code, output = published("--here")
    here = json.loads(output)
    assert here["servers"]["cluster"]["host"] == "kafka.example:9092"
    assert here["channels"]["orders"]["address"] == "acme.orders.v1"


# over HTTP


@pytest.fixture(scope="module")
def served(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_here(database, tmp_path_factory.mktemp("home")) as (here, _):
        yield here


@pytest.fixture
def nobody(served: Served) -> Iterator[httpx.Client]:
    with served.nobody() as client:
        yield client


def test_anybody_may_read_it(nobody: httpx.Client) -> None:
    answered = nobody.get(f"{API}/asyncapi.json")
    assert found(answered) == DOCUMENT
    assert answered.headers["content-type"] == "application/json"
    listed = found(nobody.get(f"{API}/schemas"))["items"]
    assert [one["name"] for one in listed] == sorted(schemas())
    assert {one["name"] for one in listed if one["deprecated"]} == set(UPCASTERS)
    for one in listed:
        answered = nobody.get(f"{API}/schemas/{one['name']}")
        assert found(answered) == schemas()[one["name"]]
        assert answered.headers["content-type"] == "application/schema+json"


@pytest.mark.parametrize("path", ["/asyncapi.json", "/schemas", "/schemas/orders.OrderPlaced.v1"])
def test_who_has_it_gets_it_not_again(nobody: httpx.Client, path: str) -> None:
    first = nobody.get(API + path)
    tag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    for known in (tag, f"W/{tag}", f'"old", {tag}', "*"):
        again = nobody.get(API + path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    other = nobody.get(API + path, headers={"If-None-Match": '"old"'})
    assert other.content == first.content


@pytest.mark.parametrize("topic", ["orders.OrderLost.v1", "..%2fasyncapi", "x" * 200])
def test_a_schema_that_is_not_known(nobody: httpx.Client, topic: str) -> None:
    assert nobody.get(f"{API}/schemas/{topic}").status_code == 404
    assert_problem(nobody.get(f"{API}/schemas/orders.OrderLost.v1"), 404, "not-found")
