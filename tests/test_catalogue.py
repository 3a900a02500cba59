"""The catalogues are complete: bytes and back, sentences, handlers, a spec for every refusal."""

from __future__ import annotations

import json
import re
import string
import types
from datetime import UTC, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import domain
from commands import COMMANDS, HANDLERS
from domain import (
    api_keys,
    catalogue,
    decisions,
    inventory,
    models,
    orders,
    organisations,
    people,
    policies,
    reviews,
    tasks,
    transport,
    webhooks,
)
from domain.access import Role
from domain.decisions import Stage, Weights
from domain.inventory import ServiceLevel
from domain.orders import OrderLine, Status
from domain.values import Command, Event

ROOT = Path(domain.__file__).parent.parent
AREAS = (
    *(orders, inventory, decisions, reviews, models, policies, transport, people, tasks),
    *(organisations, api_keys, webhooks),
)
EVENTS = list(catalogue.TOPICS)
ASKED_BY_AUDITORS = {
    tasks.RequestReplay,
    tasks.RequestBacktest,
    tasks.RequestBundle,
    tasks.CancelOwnTask,
}
OF_ONESELF = {organisations.LeaveOrganisation, organisations.AcceptInvitation}

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_ids = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_counts = st.integers(0, 10**9)
_scalars: dict[Any, st.SearchStrategy[Any]] = {
    type(None): st.none(),
    str: _text,
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    datetime: st.datetimes(timezones=st.just(UTC)),
    Decimal: st.decimals(-(10**12), 10**12, places=3),
    OrderLine: st.builds(
        OrderLine,
        line_no=st.integers(1, 10_000),
        sku=_ids,
        quantity=st.decimals("0.001", 10**6, places=3),
        unit_price_minor=_counts,
        freight_minor=_counts,
        weight_g=st.none() | _counts,
        site_id=st.none() | _ids,
    ),
    ServiceLevel: st.builds(
        ServiceLevel,
        code=_ids,
        cost_minor=_counts,
        carbon_g=_counts,
        max_weight_g=st.none() | st.integers(1, 10**9),
        transit_s=st.none() | st.integers(1, 10**9),
        cut_off=st.none() | st.builds(time, st.integers(0, 23), st.integers(0, 59)),
    ),
    Weights: st.builds(
        Weights,
        cost=st.floats(0, 1000),
        risk_minor=_counts,
        carbon_minor_per_kg=_counts,
    ),
    orders.LineSite: st.builds(orders.LineSite, line_no=_counts, site_id=_ids),
}


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    if annotation in _scalars:
        return _scalars[annotation]
    parts = [part for part in get_args(annotation) if part is not Ellipsis]
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return st.one_of([values(part) for part in parts])
    if origin is tuple:
        return st.lists(values(parts[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values(parts[0]), values(parts[1]), max_size=3)
    if annotation == models.Hash:
        return st.from_regex(r"\A[0-9a-f]{64}\Z")
    if annotation == people.Pseudonym:
        return st.uuids().map(str)
    if annotation == people.Sealed:
        return st.from_regex(r"\Ap1\.[A-Za-z0-9_-]{40}\Z")
    if hasattr(annotation, "__metadata__"):
        return values(annotation.__origin__)
    assert issubclass(annotation, BaseModel), annotation
    fields = {name: values(info.annotation) for name, info in annotation.model_fields.items()}
    return st.builds(annotation, **fields)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: str(kind.__name__))
def test_an_event_survives_its_bytes(kind: type[Event]) -> None:
    @given(values(kind))
    def survives(event: Event) -> None:
        topic, state = catalogue.encode(event)
        again = catalogue.decode(topic, state)
        assert again == event
        assert catalogue.encode(again) == (topic, state)
        assert catalogue.present(topic, state) == (topic, state)
        assert catalogue.as_json(topic, state) == json.loads(state)

    survives()


def test_an_unknown_topic_is_no_event() -> None:
    with pytest.raises(KeyError):
        catalogue.decode("orders.OrderForgotten.v1", b"{}")
    with pytest.raises(KeyError):
        catalogue.present("orders.OrderForgotten.v1", b"{}")


def test_somebody_elses_bytes_are_not_looked_at() -> None:
    assert catalogue.type_of("app:Account.Opened") is None
    assert catalogue.as_json("app:Account.Opened", b"\x80\x04") is None
    with pytest.raises(KeyError):
        catalogue.decode("app:Account.Opened", b"\x80\x04")


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: str(kind.__name__))
def test_an_event_has_a_sentence_of_its_own_fields(kind: type[Event]) -> None:
    parts = [name for _, name, _, _ in string.Formatter().parse(catalogue.SENTENCES[kind])]
    named = {name for name in parts if name is not None}
    assert named
    assert named <= kind.model_fields.keys()


def test_every_event_of_an_area_is_in_the_catalogue() -> None:
    defined = {
        kind
        for area in AREAS
        for kind in vars(area).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
    }
    assert defined == set(catalogue.TOPICS) == set(catalogue.SENTENCES)


def test_every_command_has_a_handler_and_somebody_who_may_send_it() -> None:
    defined = {
        kind
        for area in AREAS
        for kind in vars(area).values()
        if isinstance(kind, type) and issubclass(kind, Command) and kind is not Command
    }
    assert defined == set(HANDLERS) == set(COMMANDS.values())
    for command, handler in HANDLERS.items():
        assert handler.command is command
        assert handler.roles
        assert handler.roles <= set(Role)
        # Whoever is a member may leave; whoever is none becomes one by a code.
        assert (Role.VIEWER in handler.roles) is (command in OF_ONESELF)
        # Auditors change nothing; what they may ask for is to have the log looked at again.
        asked = ASKED_BY_AUDITORS | OF_ONESELF
        assert (Role.AUDITOR in handler.roles) is (command in asked)


def test_every_refusal_has_a_specification() -> None:
    codes = {
        code
        for folder in ("domain", "commands")
        for file in (ROOT / folder).glob("*.py")
        for code in re.findall(r'Refused\(\s*"([a-z_.]+)"', file.read_text())
    }
    assert "order.not_allocated" in codes
    told = (Status.SHIPPED, Status.DELIVERED, Status.CANCELLED)
    codes |= {f"order.already_{status.value}" for status in told}
    codes |= {
        f"decision.not_{stage.value}"
        for stage in (Stage.REQUESTED, Stage.REFERRED, Stage.MADE, Stage.CONTESTED)
    }
    specified = {
        code
        for area in (
            "orders",
            "inventory",
            "decisions",
            "reviews",
            "models",
            "policies",
            "transport",
            "people",
            "tasks",
            "organisations",
            "webhooks",
        )
        for code in re.findall(
            r'"([a-z_]+\.[a-z_]+)"', Path(__file__).with_name(f"test_{area}.py").read_text()
        )
    }
    assert codes - specified == set()
