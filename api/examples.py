"""Examples for the OpenAPI document, made from schemas: by what a field says itself, by its
name, by its type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_UUID = "6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11"
_TIME = "2026-03-31T09:30:00Z"

#: What fields of these names hold, where the value fits the field's type.
NAMED: Mapping[str, Any] = {
    "order_id": "O-1",
    "customer_id": "C-1",
    "person_id": "P-1",
    "site_id": "S-AMS",
    "vehicle_id": "V-AMS-VAN",
    "sku": "SKU-001",
    "decision_id": "D-1",
    "subject_id": "O-1",
    "area": "orders",
    "stream": "orders/O-1",
    "event_id": _UUID,
    "kind": "fulfilment",
    "region": "DE-BE",
    "city": "Berlin",
    "currency": "EUR",
    "service_level": "standard",
    "carrier": "DHL",
    "status": "placed",
    "stage": "decided",
    "role": "champion",
    "actor": "ada",
    "member": "chainlytics:ada",
    "command": "PlaceOrder",
    "event": "OrderPlaced",
    "topic": "orders.OrderPlaced.v1",
    "email": "ada@example.com",
    "name": "Berlin",
    "reason": "changed mind",
    "url": "https://example.com/hook",
    "version": 3,
    "position": 1234,
    "last_position": 1234,
    "head": 1250,
    "min_position": 1234,
    "x-min-position": 1234,
    "as_of": "2026-03-31T23:59:59Z",
    "effective_at": "2026-03-31T23:59:59Z",
    "from": "2026-03-01T00:00:00Z",
    "to": "2026-04-01T00:00:00Z",
    "last-event-id": 1234,
    "idempotency-key": "order-1-placed",
    "if-none-match": '"3"',
    "if-match": '"3"',
    "cursor": "WyIyMDI2LTAzLTMxVDA5OjMwOjAwKzAwOjAwIiwgIk8tMSJd",
    "next_cursor": "WyIyMDI2LTAzLTMxVDA5OjMwOjAwKzAwOjAwIiwgIk8tMSJd",
    "limit": 50,
    "quantity": "2",
    "units": "2",
    "unit_price_minor": 1999,
    "goods_minor": 3998,
    "freight_minor": 490,
    "probability": 0.07,
    "confidence": 0.93,
    "detail": "order 'O-1' is placed already",
    "correlation_id": _UUID,
}

#: By pattern, the simplest first; the first that matches is taken.
_TEXTS = ("O-1", "a", "1", "1.5", _HASH, _HASH[:32], _UUID, "DE-BE", "a/b", "2026-03", '"3"', "A1")
#: Deeper than this, lists are empty: a tree's nodes hold trees.
_DEPTH = 8


def example_of(schema: Schema, components: Mapping[str, Schema], name: str = "") -> Any:
    """A value that the schema allows.

    Args:
        schema: JSON schema 2020-12, as pydantic makes it.
        components: the schemas that its references name.
        name: of the field or parameter that it is of.
    """
    return _Maker(components).make(schema, name.lower(), 0)


class _Maker:
    def __init__(self, components: Mapping[str, Schema]) -> None:
        self._components = components

    def make(self, schema: Schema, name: str, depth: int) -> Any:
        schema = self._whole(schema)
        for said in ("example", "const"):
            if said in schema:
                return schema[said]
        if schema.get("examples"):
            return schema["examples"][0]
        if (choices := self._choices(schema)) is not schema:
            return self.make(choices, name, depth)
        if name in NAMED and _fits(schema, NAMED[name]):
            return NAMED[name]
        if schema.get("enum"):
            return schema["enum"][0]
        if schema.get("default") not in (None, [], {}):
            return schema["default"]
        match schema.get("type"):
            case "object":
                return self._object(schema, name, depth)
            case "array":
                return self._array(schema, name, depth)
            case "string":
                return _text(schema, name)
            case "integer" | "number":
                return _number(schema)
            case "boolean":
                return True
            case "null":
                return None
        return "any value"

    def _whole(self, schema: Schema) -> Schema:
        """The schema with what it refers to."""
        while True:
            if "$ref" in schema:
                target = self._components[schema["$ref"].rpartition("/")[2]]
                schema = {**target, **{key: said for key, said in schema.items() if key != "$ref"}}
            elif len(schema.get("allOf", ())) == 1:
                [only] = schema["allOf"]
                schema = {**only, **{key: said for key, said in schema.items() if key != "allOf"}}
            else:
                return schema

    def _choices(self, schema: Schema) -> Schema:
        """Of alternatives, the first that is not null."""
        options = schema.get("anyOf") or schema.get("oneOf") or ()
        for option in options:
            if option.get("type") != "null":
                return self._whole(option)
        return schema

    def _object(self, schema: Schema, name: str, depth: int) -> dict[str, Any]:
        made = {
            key: self.make(field, key.lower(), depth + 1)
            for key, field in schema.get("properties", {}).items()
        }
        more = schema.get("additionalProperties")
        if not made and isinstance(more, Mapping) and depth < _DEPTH:
            return {"name": self.make(more, name, depth + 1)}
        return made

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        if "prefixItems" in schema:
            return [self.make(one, name, depth + 1) for one in schema["prefixItems"]]
        items = schema.get("items")
        if not items or depth >= _DEPTH:
            return []
        one = self.make(items, name.removesuffix("s"), depth + 1)
        return [one] * max(1, schema.get("minItems", 1))


def _fits(schema: Schema, value: Any) -> bool:
    """Whether a value is of a schema's type and form."""
    if isinstance(value, str):
        return (
            schema.get("type") == "string"
            and schema.get("format", "date-time" if value[:4].isdigit() else "") in _forms(value)
            and ("enum" not in schema or value in schema["enum"])
            and re.search(schema.get("pattern", ""), value) is not None
            and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        )
    return schema.get("type") in ("integer", "number") and _number(schema, value) == value


def _forms(value: str) -> set[str]:
    """The formats that a text has."""
    if value[:4].isdigit():
        return {"date-time"}
    if value == _UUID:
        return {"uuid", ""}
    forms = {""}
    return forms | {"email"} if "@" in value else forms | {"uri"} if "://" in value else forms


def _text(schema: Schema, name: str) -> str:
    known = {"date-time": _TIME, "date": "2026-03-31", "uuid": _UUID, "email": "ada@example.com"}
    known |= {
        "uri": "https://example.com/",
        "binary": "bytes",
        "duration": "PT1H",
        "time": "09:30:00Z",
    }
    if (form := schema.get("format")) in known:
        return known[form]
    if pattern := schema.get("pattern"):
        for text in _TEXTS:
            if re.search(pattern, text):
                return text
    text = name.replace("_", " ").strip() or "text"
    longest: int = schema.get("maxLength", len(text))
    return text[:longest].ljust(schema.get("minLength", 0), "x")


def _number(schema: Schema, wished: float | None = None) -> float:
    """A number within the bounds, the wished one where it is."""
    whole = schema.get("type") == "integer"
    step = 1 if whole else 0.5
    number = (1 if whole else 0.5) if wished is None else wished
    if (least := schema.get("minimum")) is not None:
        number = max(number, least)
    if (above := schema.get("exclusiveMinimum")) is not None and number <= above:
        number = above + step
    if (most := schema.get("maximum")) is not None:
        number = min(number, most)
    if (below := schema.get("exclusiveMaximum")) is not None and number >= below:
        number = below - step
    return int(number) if whole else number
