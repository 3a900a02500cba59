"""The committed catalogue of event schemas: what the log may hold stays readable.

An incompatible change fails here with the sentence that says what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import GenericAlias, SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, create_model
from typer.testing import CliRunner

from chainlytics.cli import app
from chainlytics.cli.console import console
from domain import catalogue, orders
from domain.catalogue import CATALOGUE, UPCASTERS, Catalogue, Step
from domain.schema_changes import compare
from domain.schemas import (
    COMMITTED,
    Incompatible,
    SchemasEdited,
    accept,
    changes,
    released,
    schema_of,
    schemas_of,
    write,
)
from domain.time_windows import OpeningHours
from domain.values import Event, Value
from tests.test_upcasting import OLDER, PAST, earlier

SCHEMAS = released()


# the project's own


def test_released_events_stay_readable() -> None:
    broken = [str(change) for change in changes() if not change.compatible]
    assert not broken, (
        "Stored events could not be read any more. Give the event a new version in VERSIONS and "
        "an upcaster in UPCASTERS (domain/catalogue.py), as docs/events.md shows:\n"
        + "\n".join(broken)
    )


def test_the_committed_catalogue_is_what_the_code_says() -> None:
    new = [str(change) for change in changes() if change.compatible]
    assert not new, (
        "domain/event_schemas.json does not know of compatible changes. Take them in by "
        "`chainlytics events accept` and commit the file:\n" + "\n".join(new)
    )


def test_the_committed_catalogue_is_written_one_way(tmp_path: Path) -> None:
    copy = tmp_path / "schemas.json"
    write(SCHEMAS, copy)
    assert copy.read_bytes() == COMMITTED.read_bytes()
    assert SCHEMAS.keys() >= catalogue.TYPES.keys()


# events made of their schemas


def from_schema(node: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """JSON values that a schema allows, as far as our schemas go."""
    if "anyOf" in node:
        return st.one_of([from_schema(part) for part in node["anyOf"]])
    if "enum" in node or "const" in node:
        return st.sampled_from(node.get("enum", [node.get("const")]))
    match node["type"], node.get("format"):
        case "null", _:
            return st.none()
        case "boolean", _:
            return st.booleans()
        case "integer", _:
            return _integers(node)
        case "number", _:
            low, high = node.get("minimum"), node.get("maximum")
            return st.floats(low, high, allow_nan=False, allow_infinity=False)
        case "string", "decimal":
            places = node.get("decimalPlaces", 3)
            digits = 10 ** min(node.get("maxDigits", 15), 15) - 1
            low = 1 if "exclusiveMinimum" in node else -digits
            return st.integers(low, digits).map(lambda n: str(Decimal(n).scaleb(-places)))
        case "string", "date-time":
            minutes = st.integers(-14 * 60, 14 * 60)
            zones = minutes.map(lambda offset: timezone(timedelta(minutes=offset)))
            # A day off the ends of the calendar, where UTC would be beyond it.
            first, last = datetime(1, 1, 2), datetime(9999, 12, 30)  # noqa: DTZ001
            return st.datetimes(first, last, timezones=zones).map(datetime.isoformat)
        case "string", "date":
            return st.dates().map(date.isoformat)
        case "string", None:
            if "pattern" in node:
                return st.from_regex(re.compile(node["pattern"].replace("$", r"\Z"), re.ASCII))
            plain = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
            longest = min(20, node.get("maxLength", 20))
            return st.text(plain, min_size=node.get("minLength", 0), max_size=longest)
        case "array", _:
            least = node.get("minItems", 0)
            most = min(least + 3, node.get("maxItems", least + 3))
            return st.lists(from_schema(node["items"]), min_size=least, max_size=most)
        case "object", _ if "properties" in node:
            fields = {name: from_schema(field) for name, field in node["properties"].items()}
            needed = set(node.get("required", ()))
            return st.fixed_dictionaries(
                {name: fields[name] for name in sorted(needed)},
                optional={name: fields[name] for name in sorted(fields.keys() - needed)},
            )
        case "object", _:
            keys = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=8)
            return st.dictionaries(keys, from_schema(node["additionalProperties"]), max_size=3)
    raise AssertionError(f"no such values are made here: {node}")


def _integers(node: Mapping[str, Any]) -> st.SearchStrategy[int]:
    low, high = node.get("minimum", -(2**63)), node.get("maximum", 2**63 - 1)
    return st.integers(max(low, node.get("exclusiveMinimum", low - 1) + 1), high)


def reads(past: Catalogue, topic: str, schema: Mapping[str, Any]) -> None:
    """Whatever a released schema allows comes out as a present event, by one decode path."""

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(from_schema(schema))
    def comes_out(body: Any) -> None:
        state = json.dumps(body).encode()
        event = past.decode(topic, state)
        assert type(event) is past.type_of(topic)
        assert past.decode(*past.present(topic, state)) == event
        assert past.decode(*past.encode(event)) == event

    comes_out()


@pytest.mark.parametrize("topic", sorted(SCHEMAS))
def test_whatever_was_released_reads_as_a_present_event(topic: str) -> None:
    """Present topics, and every older one through its chain of upcasters."""
    reads(CATALOGUE, topic, SCHEMAS[topic])


def test_what_was_recorded_stands_whatever_the_rules_are_now() -> None:
    """Another machine may know other time zones; what is new has to be known here."""
    span = {"day": "monday", "opens": "08:00", "closes": "17:00"}
    hours = {"zone": "Mars/Olympus", "spans": [span, span]}
    with pytest.raises(ValidationError, match="no time zone"):
        OpeningHours.model_validate(hours)
    topic = "inventory.SiteOpened.v1"
    examples = Path(catalogue.__file__).parents[1] / "api" / "asyncapi" / "examples.json"
    body = json.loads(examples.read_text(encoding="utf-8"))[topic] | {"opening_hours": hours}
    event = CATALOGUE.decode(topic, json.dumps(body).encode())
    assert json.loads(CATALOGUE.encode(event)[1])["opening_hours"] == hours


class Measured(Value):
    """A part of the classes below."""

    kilos: Annotated[Decimal, Field(gt=0, max_digits=9, decimal_places=2)]
    note: str | None = None


class ParcelPacked(Event):
    """As it is today."""

    parcel_id: str
    items: tuple[Measured, ...]
    grams: int
    packed_at: datetime
    by_hand: bool | None


def _second(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"items": [{"kilos": body.pop("kilos")}], "parcel_id": body.pop("parcel")}


def _third(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"grams": round(1000 * body.pop("weight")), "by_hand": None}


PARCELS = Catalogue(
    {"parcels": (ParcelPacked,)},
    {ParcelPacked: 3},
    {
        "parcels.ParcelPacked.v1": ("parcels.ParcelPacked.v2", _second),
        "parcels.ParcelPacked.v2": ("parcels.ParcelPacked.v3", _third),
    },
)
_FIRST = create_model(
    "ParcelPacked",
    __base__=Event,
    parcel=(str, ...),
    kilos=(Annotated[Decimal, Field(gt=0, max_digits=9, decimal_places=2)], ...),
    weight=(Annotated[float, Field(ge=0, le=1000)], ...),
    packed_at=(datetime, ...),
)
_SECOND = create_model(
    "ParcelPacked",
    __base__=Event,
    parcel_id=(str, ...),
    items=(tuple[Measured, ...], ...),
    weight=(Annotated[float, Field(ge=0, le=1000)], ...),
    packed_at=(datetime, ...),
)
PARCEL_SCHEMAS = {
    "parcels.ParcelPacked.v1": schema_of(_FIRST),
    "parcels.ParcelPacked.v2": schema_of(_SECOND),
    "parcels.ParcelPacked.v3": schema_of(ParcelPacked),
}


@pytest.mark.parametrize("topic", sorted(PARCEL_SCHEMAS))
def test_every_version_of_a_chain_reads_as_a_present_event(topic: str) -> None:
    reads(PARCELS, topic, PARCEL_SCHEMAS[topic])


def test_a_step_that_the_old_schema_does_not_bear_is_found() -> None:
    """The property can fail: this step takes for granted what v1 never promised."""
    wrong: Step = lambda body: {**_second(body), "weight": body["weight"] or body["gone"]}  # noqa: E731
    past = Catalogue(
        {"parcels": (ParcelPacked,)},
        {ParcelPacked: 3},
        {**PARCELS.upcasters, "parcels.ParcelPacked.v1": ("parcels.ParcelPacked.v2", wrong)},
    )
    with pytest.raises(KeyError, match="gone"):
        reads(past, "parcels.ParcelPacked.v1", PARCEL_SCHEMAS["parcels.ParcelPacked.v1"])


# what may change and what may not


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Colours(StrEnum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


def _kind(**fields: Any) -> type[Event]:
    """An event class with these fields; a tuple is (type, default)."""
    told: dict[str, Any] = {
        name: field if isinstance(field, tuple) else (field, ...) for name, field in fields.items()
    }
    return create_model("Boxed", __base__=Event, box_id=(str, ...), **told)


def _parts(**fields: Any) -> Any:
    return GenericAlias(tuple, (_part(**fields), ...))


def _part(**fields: Any) -> Any:
    told: dict[str, Any] = {
        name: field if isinstance(field, tuple) else (field, ...) for name, field in fields.items()
    }
    return create_model("Part", __base__=Value, **told)


def differences(old: type[Event], new: type[Event]) -> dict[str, bool]:
    """What changed in words, and whether it may."""
    topic = "boxes.Boxed.v1"
    found = compare({topic: schema_of(old)}, {topic: schema_of(new)})
    return {str(change).removeprefix(topic).strip(): change.compatible for change in found}


def _limited(**limits: Any) -> Any:
    return Annotated[int, Field(**limits)]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({}, {"note": (str | None, None)}, "note was added, null where it is not known"),
        ({"n": int}, {"n": int | None}, "n may be null now"),
        ({"n": _limited(ge=3)}, {"n": _limited(ge=2)}, "n has a wider lower bound"),
        ({"n": _limited(gt=0)}, {"n": _limited(ge=0)}, "n has a wider lower bound"),
        ({"n": _limited(le=3)}, {"n": int}, "n has a wider upper bound"),
        ({"c": Colour}, {"c": Colours}, 'c may be "green" now'),
        ({"c": Colour}, {"c": str}, "c is not one of a few any more"),
        (
            {"t": Annotated[str, Field(pattern="^a+$")]},
            {"t": str},
            "t has no pattern any more",
        ),
        (
            {"t": Annotated[str, Field(max_length=3)]},
            {"t": Annotated[str, Field(max_length=4)]},
            "t has a wider greatest length",
        ),
        ({"n": int}, {"n": Annotated[int, Field(description="So.")]}, "n is described otherwise"),
        ({"n": (int, 1)}, {"n": (int, 2)}, "n has another default: 2"),
        ({"n": int}, {"n": (int, 2)}, "n has a default now: 2"),
        (
            {"parts": _parts(a=int)},
            {"parts": _parts(a=int, b=(int | None, None))},
            "parts[].b was added, null where it is not known",
        ),
    ],
)
def test_a_compatible_change(old: Any, new: Any, told: str) -> None:
    assert differences(_kind(**old), _kind(**new)) == {told: True}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"n": int}, {}, "n was removed"),
        ({"n": int}, {"n": str}, "n was integer and is string now"),
        ({"n": int}, {"n": float}, "n was integer and is number now"),
        ({"n": Decimal}, {"n": str}, "n was string (decimal) and is string now"),
        ({"t": str}, {"t": datetime}, "t was string and is string (date-time) now"),
        ({"n": int}, {"n": int | str}, "n was integer and is integer or string now"),
        ({"n": int | None}, {"n": str | None}, "n was integer and is string now"),
        ({"n": int | None}, {"n": int}, "n may not be null any more"),
        ({"n": int}, {"n": tuple[int, ...]}, "n was integer and is array now"),
        ({}, {"n": int}, "n was added without a default"),
        ({}, {"n": int | None}, "n was added without a default"),
        ({}, {"n": (int, 5)}, "n was added with the default 5; only null needs no upcaster"),
        ({"n": (int | None, None)}, {"n": int | None}, "n has no default any more"),
        ({"n": (int | None, None)}, {"n": (int | None, 5)}, "n has another default: 5"),
        ({"c": Colours}, {"c": Colour}, 'c may not be "green" any more'),
        ({"c": str}, {"c": Colour}, 'c is one of "blue", "red" only, now'),
        ({"c": Literal["a", "b"]}, {"c": Literal["a"]}, 'c may not be "b" any more'),
        ({"n": int}, {"n": _limited(ge=1)}, "n has a narrower lower bound"),
        ({"n": _limited(ge=0)}, {"n": _limited(gt=0)}, "n has a narrower lower bound"),
        ({"n": _limited(le=4)}, {"n": _limited(le=3)}, "n has a narrower upper bound"),
        ({"n": int}, {"n": _limited(multiple_of=2)}, "n has another multipleOf"),
        (
            {"n": int | None},
            {"n": _limited(ge=1) | None},
            "n has a narrower lower bound",
        ),
        (
            {"n": Annotated[Decimal, Field(decimal_places=3)]},
            {"n": Annotated[Decimal, Field(decimal_places=2)]},
            "n has a narrower number of decimal places",
        ),
        (
            {"n": Decimal},
            {"n": Annotated[Decimal, Field(gt=0)]},
            "n has a narrower lower bound",
        ),
        ({"t": str}, {"t": Annotated[str, Field(min_length=1)]}, "t has a narrower least length"),
        ({"t": str}, {"t": Annotated[str, Field(pattern="^a$")]}, "t has another pattern"),
        (
            {"parts": _parts(a=int, b=int)},
            {"parts": _parts(a=int)},
            "parts[].b was removed",
        ),
        (
            {"part": _part(a=int) | None},
            {"part": _part(a=str) | None},
            "part.a was integer and is string now",
        ),
        ({"by": dict[str, int]}, {"by": dict[str, str]}, "by{} was integer and is string now"),
        ({"by": dict[str, int]}, {"by": _part(a=int)}, "by was map and is object now"),
        (
            {"part": _part(a=int) | _part(b=int)},
            {"part": _part(a=int) | _part(c=int)},
            "part has other alternatives",
        ),
    ],
)
def test_an_incompatible_change(old: Any, new: Any, told: str) -> None:
    assert differences(_kind(**old), _kind(**new)) == {told: False}


def test_what_is_the_same_has_no_changes() -> None:
    assert differences(_kind(a=int, b=str), _kind(b=str, a=int)) == {}
    assert compare(SCHEMAS, SCHEMAS) == []


def test_another_order_of_alternatives_is_no_change_of_meaning() -> None:
    one, two = {"type": "null"}, {"type": "integer"}
    [found] = compare({"a.A.v1": {"anyOf": [one, two]}}, {"a.A.v1": {"anyOf": [two, one]}})
    assert (found.what, found.compatible) == ("is written otherwise", True)


def test_a_rename_is_a_removal_and_an_addition() -> None:
    assert differences(_kind(colour=str), _kind(color=str)) == {
        "color was added without a default": False,
        "colour was removed": False,
    }


def test_a_field_may_have_the_name_of_a_keyword() -> None:
    was = _kind(title=int, properties=int, required=bool)
    assert differences(was, _kind(properties=int, required=bool)) == {"title was removed": False}


def test_an_event_that_holds_itself_is_refused() -> None:
    class Nested(Event):
        inner: Nested | None

    with pytest.raises(TypeError, match="Nested holds itself"):
        schema_of(Nested)


# topics, versions and the file


def _boxes(kind: type[Event], version: int = 1, **upcasters: tuple[str, Step]) -> Catalogue:
    return Catalogue({"boxes": (kind,)}, {kind: version}, upcasters)


def _told(past: Catalogue, path: Path) -> list[tuple[str, bool]]:
    return [(str(change), change.compatible) for change in changes(past, path)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A catalogue in which `boxes.Boxed.v1` was released, with a field `n`."""
    path = tmp_path / "event_schemas.json"
    write(schemas_of(_boxes(_kind(n=int))), path)
    return path


def test_a_new_version_with_an_upcaster_is_taken_in_and_the_old_schema_stays(file: Path) -> None:
    before = released(file)["boxes.Boxed.v1"]
    old = {"boxes.Boxed.v1": ("boxes.Boxed.v2", lambda body: body | {"n": str(body["n"])})}
    later = _boxes(_kind(n=str), 2, **old)
    assert _told(later, file) == [("boxes.Boxed.v2 is new", True)]
    accept(later, file)
    assert released(file) == {
        "boxes.Boxed.v1": before,
        "boxes.Boxed.v2": schema_of(_kind(n=str)),
    }
    assert _told(later, file) == []
    reads(later, "boxes.Boxed.v1", before)


def test_a_new_version_without_an_upcaster_is_refused(file: Path) -> None:
    before = file.read_bytes()
    later = _boxes(_kind(n=str), 2)
    gone = ("boxes.Boxed.v1 has no event and no upcaster any more", False)
    assert _told(later, file) == [gone, ("boxes.Boxed.v2 is new", True)]
    with pytest.raises(Incompatible, match=re.escape(gone[0])):
        accept(later, file)
    assert file.read_bytes() == before


def test_a_third_version_needs_both_steps(file: Path) -> None:
    same: Step = lambda body: body  # noqa: E731
    second = _boxes(_kind(n=int), 2, **{"boxes.Boxed.v1": ("boxes.Boxed.v2", same)})
    accept(second, file)
    straight = {"boxes.Boxed.v1": ("boxes.Boxed.v3", same)}
    assert ("boxes.Boxed.v2 has no event and no upcaster any more", False) in _told(
        _boxes(_kind(n=int), 3, **straight), file
    )
    both = {
        "boxes.Boxed.v1": ("boxes.Boxed.v2", same),
        "boxes.Boxed.v2": ("boxes.Boxed.v3", same),
    }
    assert _told(_boxes(_kind(n=int), 3, **both), file) == [("boxes.Boxed.v3 is new", True)]


def test_a_version_that_was_never_released_needs_no_step(file: Path) -> None:
    same: Step = lambda body: body  # noqa: E731
    later = _boxes(_kind(n=int), 3, **{"boxes.Boxed.v1": ("boxes.Boxed.v3", same)})
    assert _told(later, file) == [("boxes.Boxed.v3 is new", True)]


def test_a_removed_event_is_incompatible(file: Path) -> None:
    with pytest.raises(Incompatible, match="has no event and no upcaster"):
        accept(Catalogue({}, {}, {}), file)


def test_a_released_topic_cannot_be_taken_out_of_the_catalogue() -> None:
    """As long as its upcaster stands; without that its events would be somebody else's."""
    same: Step = lambda body: body  # noqa: E731
    later = _boxes(_kind(n=int), 2, **{"boxes.Boxed.v1": ("boxes.Boxed.v2", same)})
    found = compare({}, schemas_of(later), later.upcasters)
    assert [(one.topic, one.compatible) for one in found] == [
        ("boxes.Boxed.v1", False),
        ("boxes.Boxed.v2", True),
    ]


def test_a_schema_that_was_edited_by_hand_is_found(file: Path) -> None:
    text = file.read_text()
    assert '"type": "integer"' in text
    file.write_text(text.replace('"type": "integer"', '"type": "string"'))
    later = _boxes(_kind(n=str))
    for look in (changes, accept):
        with pytest.raises(SchemasEdited, match=r"boxes\.Boxed\.v1 was edited by hand"):
            look(later, file)


def test_the_test_catalogue_of_upcasting_is_covered_too() -> None:
    """Its older topics are no part of the release; their forms are those that were rewritten."""
    found = compare(SCHEMAS, schemas_of(PAST), {*UPCASTERS, *OLDER})
    assert {change.topic for change in found} == set(OLDER)
    assert earlier("inventory.SiteClosed.v1", b"{}") == ("inventory.SiteClosed.v1", b"{}")


# the command line


def run(*words: str, code: int = 0) -> str:
    width, console.width = console.width, 200
    try:
        done = CliRunner().invoke(app, ["events", *words])
    finally:
        console.width = width
    assert done.exit_code == code, (words, done.output, done.exception)
    return done.stdout


def stale(tmp_path: Path, edit: Any) -> Path:
    """A catalogue as of before some change of the code."""
    schemas = json.loads(json.dumps(SCHEMAS))
    edit(schemas)
    path = tmp_path / "event_schemas.json"
    write(schemas, path)
    return path


def test_schemas_are_shown() -> None:
    listed = run("schemas")
    assert all(topic in listed for topic in SCHEMAS)
    assert "string (date-time)" in run("schemas", "orders.OrderPlaced.v1")
    assert json.loads(run("schemas", "--json")) == SCHEMAS
    one = json.loads(run("schemas", "orders.OrderPlaced.v1", "--json"))
    assert one == SCHEMAS["orders.OrderPlaced.v1"]
    run("schemas", "orders.OrderForgotten.v1", code=1)


def test_check_says_that_nothing_changed() -> None:
    assert "is what the code says" in run("check")
    assert json.loads(run("check", "--json")) == {"same": True, "changes": []}


def test_a_compatible_change_is_told_and_taken_in(tmp_path: Path) -> None:
    file = stale(tmp_path, lambda schemas: schemas.pop("models.ModelApproved.v1"))
    told = run("check", "--file", str(file), code=1)
    assert "compatible: models.ModelApproved.v1 is new" in told
    assert "chainlytics events accept" in told
    assert "models.ModelApproved.v1 is new" in run("accept", "--file", str(file))
    assert file.read_bytes() == COMMITTED.read_bytes()


def test_an_incompatible_change_is_told_in_a_line_and_refused(tmp_path: Path) -> None:
    def was(schemas: Any) -> None:
        fields = schemas["orders.OrderPlaced.v1"]["properties"]
        fields["colour"] = {"type": "string"}
        fields["units"] = {"type": "integer"}

    file = stale(tmp_path, was)
    before = file.read_bytes()
    told = run("check", "--file", str(file), code=1)
    assert told.splitlines() == [
        "incompatible: orders.OrderPlaced.v1 colour was removed",
        "incompatible: orders.OrderPlaced.v1 units was integer and is string (decimal) now",
    ]
    found = json.loads(run("check", "--json", "--file", str(file), code=1))
    assert found["same"] is False
    assert found["changes"][0] == {
        "topic": "orders.OrderPlaced.v1",
        "path": "colour",
        "what": "was removed",
        "compatible": False,
    }
    assert "colour was removed" in run("accept", "--file", str(file), code=1)
    assert file.read_bytes() == before


def test_the_commands_of_the_document_exist() -> None:
    text = (Path(__file__).parent.parent / "docs" / "events.md").read_text(encoding="utf-8")
    named = set(re.findall(r"chainlytics events ([a-z]+)", text))
    assert named == {"schemas", "check", "accept", "asyncapi"}
    for command in named:
        assert "Usage:" in run(command, "--help")


def test_the_example_of_the_document_is_taken_in(tmp_path: Path) -> None:
    """Its step and its two declarations, run on a catalogue like that of today."""
    text = (Path(__file__).parent.parent / "docs" / "events.md").read_text(encoding="utf-8")
    step, declarations = (
        re.sub("^   ", "", code, flags=re.MULTILINE)
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    )
    names: dict[str, Any] = {"Any": Any}
    exec(step, names)
    today = orders.OrderCancelled.model_fields
    fields: dict[str, Any] = {
        "cause" if name == "reason" else name: (info.annotation, ...)
        for name, info in today.items()
    }
    changed = create_model("OrderCancelled", __base__=Event, **fields)
    stand_in = SimpleNamespace(
        OrderCancelled=changed, cancelled_v1_to_v2=names["cancelled_v1_to_v2"]
    )
    exec(declarations, {"orders": stand_in}, names)
    topic = "orders.OrderCancelled.v1"
    path = tmp_path / "event_schemas.json"
    write({topic: SCHEMAS[topic]}, path)
    with pytest.raises(Incompatible, match="reason was removed"):
        accept(Catalogue({"orders": (changed,)}, {}, {}), path)
    later = Catalogue({"orders": (changed,)}, names["VERSIONS"], names["UPCASTERS"])
    accept(later, path)
    assert set(released(path)) == {topic, "orders.OrderCancelled.v2"}
    reads(later, topic, SCHEMAS[topic])
