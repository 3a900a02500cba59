"""What may change in an event's schema while its events are on the log, and what may not.

The rule behind the rules: what is stored never changes, so whatever the released schema allows must
read the same under the new one, in rules (pydantic) and in tables (where absent is null) alike.
Another reading takes a new version and an upcaster.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]
#: By topic.
Schemas = Mapping[str, Schema]

#: (path, what happened there, whether stored events still read the same)
_Found = tuple[str, str, bool]

_ANNOTATIONS = {"description", "examples", "deprecated"}
_HANDLED = _ANNOTATIONS | {
    *("type", "format", "anyOf", "default", "enum", "const", "pattern", "items"),
    *("properties", "required", "additionalProperties"),
    *("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "maxDigits", "decimalPlaces"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the committed catalogue and the code.

    Attributes:
        topic: the event's topic.
        path: the field, as ``lines[].sku``; empty where the whole event is meant.
        what: what happened to it.
        compatible: every stored event still reads the same.
    """

    topic: str
    path: str
    what: str
    compatible: bool

    def __str__(self) -> str:
        return f"{self.topic}{self.path and ' ' + self.path} {self.what}"


def compare(old: Schemas, new: Schemas, upcasters: Collection[str] = ()) -> list[Change]:
    """What changed from the released schemas to those of the code.

    Args:
        old: every topic ever released.
        new: the present topics.
        upcasters: older topics from which a chain of upcasters leads to a present one.
    """
    found: list[Change] = []
    for topic in sorted({*old, *new, *upcasters}):
        if topic in old and topic in new:
            if old[topic] != new[topic]:
                differences = list(_node("", old[topic], new[topic]))
                differences = differences or [("", "is written otherwise", True)]
                found += [Change(topic, *one) for one in differences]
        elif topic in new:
            found.append(Change(topic, "", "is new", True))
        elif topic in upcasters and topic not in old:
            what = "has an upcaster, but it was never released: its schema is not in the catalogue"
            found.append(Change(topic, "", what, False))
        elif topic not in upcasters:
            found.append(Change(topic, "", "has no event and no upcaster any more", False))
    return found


def _node(path: str, old: Schema, new: Schema) -> Iterator[_Found]:
    """Differences of two schemas of one value."""
    if _described(old) != _described(new):
        yield path, "is described otherwise", True
    before, after = _kinds(old), _kinds(new)
    if before is None or after is None:
        if _bare(old) != _bare(new):
            yield path, "has other alternatives", False
        return
    if "null" in before and "null" not in after:
        yield path, "may not be null any more", False
    if "null" in after and "null" not in before:
        yield path, "may be null now", True
    was, now = before.keys() - {"null"}, after.keys() - {"null"}
    if was != now:
        yield path, f"was {_words(was)} and is {_words(now)} now", False
        return
    for kind in sorted(was):
        yield from _values(path, before[kind], after[kind])


def _values(path: str, old: Schema, new: Schema) -> Iterator[_Found]:
    """Differences of two schemas of the same type."""
    yield from _choices(path, old, new)
    yield from _limits(path, old, new)
    yield from _fields(path, old, new)
    if isinstance(old.get("items"), dict) and isinstance(new.get("items"), dict):
        yield from _node(f"{path}[]", old["items"], new["items"])
    elif old.get("items") != new.get("items"):
        yield path, "holds other items", False
    keys, keys_now = old.get("additionalProperties"), new.get("additionalProperties")
    if isinstance(keys, dict) and isinstance(keys_now, dict):
        yield from _node(f"{path}{{}}", keys, keys_now)
    elif keys != keys_now:
        yield path, "allows other keys", False
    for keyword in sorted((old.keys() | new.keys()) - _HANDLED):
        # A keyword that no rule knows: careful is right more often.
        if old.get(keyword) != new.get(keyword):
            yield path, f"has another {keyword}", False


def _choices(path: str, old: Schema, new: Schema) -> Iterator[_Found]:
    before, after = _enum(old), _enum(new)
    if before == after:
        return
    if before is None:
        yield path, f"is one of {', '.join(sorted(after or ()))} only, now", False
    elif after is None:
        yield path, "is not one of a few any more", True
    else:
        for value in sorted(before - after):
            yield path, f"may not be {value} any more", False
        for value in sorted(after - before):
            yield path, f"may be {value} now", True


def _limits(path: str, old: Schema, new: Schema) -> Iterator[_Found]:
    before, after = _bounds(old), _bounds(new)
    for name in sorted(before.keys() | after.keys()):
        had, has = before.get(name), after.get(name)
        if had == has:
            continue
        if has is None or (had is not None and has < had):
            yield path, f"has a wider {name}", True
        else:
            yield path, f"has a narrower {name}", False
    if old.get("pattern") != new.get("pattern"):
        loose = "pattern" not in new
        yield path, "has no pattern any more" if loose else "has another pattern", loose


def _fields(path: str, old: Schema, new: Schema) -> Iterator[_Found]:
    before, after = old.get("properties", {}), new.get("properties", {})
    needed, needed_now = set(old.get("required", ())), set(new.get("required", ()))
    for name in sorted(before.keys() | after.keys()):
        inner = f"{path}.{name}" if path else name
        if name not in after:
            yield inner, "was removed", False
        elif name not in before:
            yield _added(inner, after[name], name in needed_now)
        else:
            yield from _node(inner, before[name], after[name])
            if name in needed_now - needed:
                yield inner, "has no default any more", False
            elif name in needed - needed_now:
                yield inner, f"has a default now: {_default(after[name])}", True
            elif name not in needed and _default(before[name]) != _default(after[name]):
                # Only a field whose default is null may be absent from stored events.
                absent = _default(before[name]) == "null"
                yield inner, f"has another default: {_default(after[name])}", not absent


def _added(path: str, field: Schema, needed: bool) -> _Found:
    if needed:
        return path, "was added without a default", False
    default = _default(field)
    if default == "null":
        return path, "was added, null where it is not known", True
    # Tables read stored JSON without defaults: they would say null where rules say the default.
    return path, f"was added with the default {default}; only null needs no upcaster", False


def _kinds(node: Schema) -> dict[str, Schema] | None:
    """The types that a value may have, and the schema of each; None: two of one type."""
    beside = {key: part for key, part in _bare(node).items() if key not in ("anyOf", "default")}
    parts = [{**beside, **part} for part in node.get("anyOf", [{}])]
    found: dict[str, Schema] = {_kind(part): part for part in parts}
    return found if len(found) == len(parts) and "oneOf" not in node else None


def _kind(node: Schema) -> str:
    kind, form = node.get("type", "anything"), node.get("format")
    if kind == "object" and "properties" not in node:
        kind = "map"
    return f"{kind} ({form})" if form else str(kind)


def _words(kinds: Collection[str]) -> str:
    return " or ".join(sorted(kinds)) or "null"


def _bounds(node: Schema) -> dict[str, tuple[float, int]]:
    """Each limit as a value that is greater where it allows less."""
    found: dict[str, tuple[float, int]] = {}
    for name, keyword, sign, exclusive in (
        ("lower bound", "minimum", 1, 0),
        ("lower bound", "exclusiveMinimum", 1, 1),
        ("upper bound", "maximum", -1, 0),
        ("upper bound", "exclusiveMaximum", -1, 1),
        ("number of digits", "maxDigits", -1, 0),
        ("number of decimal places", "decimalPlaces", -1, 0),
        ("least length", "minLength", 1, 0),
        ("greatest length", "maxLength", -1, 0),
        ("least number", "minItems", 1, 0),
        ("greatest number", "maxItems", -1, 0),
        ("least number", "minProperties", 1, 0),
        ("greatest number", "maxProperties", -1, 0),
    ):
        if keyword in node:
            limit = (sign * node[keyword], exclusive)
            found[name] = max(limit, found.get(name, limit))
    return found


def _enum(node: Schema) -> set[str] | None:
    values = [node["const"]] if "const" in node else node.get("enum")
    return None if values is None else {json.dumps(value) for value in values}


def _default(node: Schema) -> str:
    return json.dumps(node.get("default"), sort_keys=True)


def _described(node: Schema) -> list[Schema]:
    parts = [node, *node.get("anyOf", ())]
    found = [{key: part[key] for key in sorted(_ANNOTATIONS & part.keys())} for part in parts]
    return [words for words in found if words]


def _bare(node: Schema) -> Schema:
    return {key: part for key, part in node.items() if key not in _ANNOTATIONS}
