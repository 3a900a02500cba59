"""Webhooks: registered, changed, paused, resumed, given another secret, removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from commands.webhooks import NAMES
from domain.access import Role
from domain.catalogue import AREAS, encode
from domain.values import Command, Event
from domain.webhooks import (
    NEVER_SENT,
    WEBHOOKS,
    ChangeWebhook,
    PauseWebhook,
    RegisterWebhook,
    RemoveWebhook,
    ResumeWebhook,
    RotateWebhookSecret,
    WebhookChanged,
    WebhookPaused,
    WebhookRegistered,
    WebhookRemoved,
    WebhookResumed,
    WebhookSecretRotated,
)
from ml.catalogue import HANDLERS
from tests.spec import given, problems

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIRST, SECOND, THIRD = (str(UUID(int=number)) for number in (1, 2, 3))

REGISTER = RegisterWebhook(
    webhook_id="erp",
    url="https://erp.example.org/hooks",
    events=("orders", "DecisionMade"),
    description="the ERP",
    secret_id=FIRST,
    registered_at=NOON,
)
CHANGE = ChangeWebhook(webhook_id="erp", url="https://new.example.org/", changed_at=NOON)
PAUSE = PauseWebhook(webhook_id="erp", reason="they move house", paused_at=NOON)
RESUME = ResumeWebhook(webhook_id="erp", resumed_at=NOON)
ROTATE = RotateWebhookSecret(webhook_id="erp", secret_id=SECOND, rotated_at=NOON)
REMOVE = RemoveWebhook(webhook_id="erp", removed_at=NOON)

registered = WebhookRegistered(**REGISTER.model_dump(), registered_by="ana")
changed = WebhookChanged(**CHANGE.model_dump(), changed_by="ana")
paused = WebhookPaused(**PAUSE.model_dump(), paused_by="ana")
resumed = WebhookResumed(**RESUME.model_dump(), resumed_by="ana")
rotated = WebhookSecretRotated(
    webhook_id="erp",
    secret_id=SECOND,
    former_secret_id=FIRST,
    former_until=NOON + timedelta(hours=24),
    rotated_by="ana",
    rotated_at=NOON,
)
removed = WebhookRemoved(**REMOVE.model_dump(), removed_by="ana")

LATER = [CHANGE, PAUSE, RESUME, ROTATE, REMOVE]


def test_a_webhook_is_registered_once() -> None:
    given().when(REGISTER).then(registered)
    given(registered).when(REGISTER).refused("webhook.already_registered", webhook_id="erp")


@pytest.mark.parametrize("command", LATER, ids=type)
def test_what_is_not_there_is_not_known(command: Command) -> None:
    given().when(command).refused("webhook.unknown", webhook_id="erp")
    given(registered, removed).when(command).refused("webhook.unknown", webhook_id="erp")


def test_the_id_of_a_removed_webhook_is_not_used_again() -> None:
    """Its deliveries are on record under the id."""
    given(registered, removed).when(REGISTER).refused("webhook.was_removed", webhook_id="erp")


@pytest.mark.parametrize("history", [[], [paused], [rotated], [paused, resumed]])
def test_a_webhook_is_changed_as_a_whole_and_removed(history: list[Event]) -> None:
    given(registered, *history).when(CHANGE).then(changed)
    given(registered, *history).when(REMOVE).then(removed)


@pytest.mark.parametrize("history", [[], [changed], [paused, resumed]])
def test_what_runs_is_paused_and_not_resumed(history: list[Event]) -> None:
    given(registered, *history).when(PAUSE).then(paused)
    given(registered, *history).when(RESUME).refused("webhook.not_paused", webhook_id="erp")


@pytest.mark.parametrize("history", [[paused], [paused, changed], [paused, rotated]])
def test_what_is_paused_is_resumed_and_not_paused_again(history: list[Event]) -> None:
    """Another address or secret does not start it."""
    given(registered, *history).when(RESUME).then(resumed)
    given(registered, *history).when(PAUSE).refused("webhook.already_paused", webhook_id="erp")


def test_the_former_secret_is_good_for_a_while() -> None:
    given(registered).when(ROTATE).then(rotated)
    again = ROTATE.model_copy(update={"secret_id": THIRD, "grace_hours": 0})
    given(registered, rotated).when(again).then(
        rotated.model_copy(
            update={"secret_id": THIRD, "former_secret_id": SECOND, "former_until": NOON}
        )
    )


def test_the_deliverer_knows_address_events_and_secrets() -> None:
    webhook = WEBHOOKS.fold([registered, rotated, changed])
    assert (webhook.url, webhook.events) == ("https://new.example.org/", ())
    assert (webhook.secret_id, webhook.former_secret_id) == (SECOND, FIRST)
    assert webhook.former_until == NOON + timedelta(hours=24)
    assert WEBHOOKS.fold([registered, removed]).removed


def test_admins_alone_handle_webhooks_and_the_deliverer_may_pause() -> None:
    for command in (REGISTER, *LATER):
        needed = {Role.ADMIN, Role.SERVICE} if command is PAUSE else {Role.ADMIN}
        assert HANDLERS[type(command)].roles == needed


@pytest.mark.parametrize("command", [REGISTER, CHANGE], ids=type)
@pytest.mark.parametrize("name", ["order", "OrderPlacd", "ordersOrderPlaced"])
def test_events_that_there_are_not_cannot_be_waited_for(command: Command, name: str) -> None:
    misspelt = command.model_copy(update={"events": ("orders", name)})
    given(*([] if command is REGISTER else [registered])).when(misspelt).refused(
        "webhook.unknown_event", event=name
    )


def test_every_area_and_event_can_be_named_but_of_who_may_do_what() -> None:
    assert {"orders", "tasks", "OrderPlaced", "DecisionExplained"} <= NAMES
    never = {"webhooks", "organisations", "api_keys", "WebhookPaused", "MemberInvited"}
    assert never.isdisjoint(NAMES)
    assert set(AREAS) > NEVER_SENT


def test_no_event_holds_a_secret() -> None:
    """It is named by an id that says nothing of it."""
    for event in (registered, changed, rotated):
        assert b"whsec" not in encode(event)[1]


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"url": "ftp://example.org/"}, "url", "must begin with https://"),
        ({"url": "//example.org/"}, "url", "must begin with https://"),
        ({"url": "https://"}, "url", "must name a host"),
        ({"url": "https:///path"}, "url", "must name a host"),
        ({"url": "https://example.org:0/"}, "url", "a port above 0"),
        ({"url": "https://example.org:99999/"}, "url", "an address such as"),
        ({"url": "https://example.org:/x"}, "url", "must name a host"),
        ({"url": "https://[::1/"}, "url", "an address such as"),
        ({"url": "https://ana:word@example.org/"}, "url", "user or password"),
        ({"url": "https://ana@example.org/"}, "url", "user or password"),
        ({"url": "https://example.org\\@10.0.0.1/"}, "url", "backslashes"),
        ({"url": "https://example.org/a b"}, "url", "without blanks"),
        ({"url": "https://exämple.org/"}, "url", "ASCII"),
        ({"url": "https://example.org/\r\nHost: x"}, "url", "without blanks"),
        ({"url": "https://example.org/?sig=1"}, "url", "neither query nor fragment"),
        ({"url": "https://example.org/?"}, "url", "neither query nor fragment"),
        ({"url": "https://example.org/#x"}, "url", "neither query nor fragment"),
        ({"url": "https://example.org/" + "x" * 1000}, "url", "at most 1000"),
        ({"events": ["orders", "orders"]}, "events", "each once"),
        ({"events": ["orders.*"]}, "events", "match pattern"),
        ({"events": [f"A{'x' * number}" for number in range(51)]}, "events", "at most 50"),
        ({"description": "x" * 501}, "description", "at most 500"),
        ({"webhook_id": ""}, "webhook_id", "match pattern"),
        ({"secret_id": "whsec_abc"}, "secret_id", "match pattern"),
        ({"registered_at": "2026-03-01T12:00:00"}, "registered_at", "timezone"),
        ({"password": "x"}, "password", "Extra inputs"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    fields: dict[str, Any], field: str, rule: str
) -> None:
    right = REGISTER.model_dump()
    assert problems(RegisterWebhook, **right) == ""
    told = problems(RegisterWebhook, **(right | fields))
    assert field in told
    assert rule in told
    assert "word@" not in told


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org",
        "https://example.org:8443/a/b",
        "http://127.0.0.1:9000/x",
        "https://[2606:4700::1111]:443/",
        "https://xn--exmple-cua.org/%20",
    ],
)
def test_an_address_is_taken_as_it_is(url: str) -> None:
    assert RegisterWebhook(**(REGISTER.model_dump() | {"url": url})).url == url


@pytest.mark.parametrize(("hours", "rule"), [(-1, "greater than"), (721, "less than")])
def test_the_grace_has_an_end(hours: int, rule: str) -> None:
    assert rule in problems(RotateWebhookSecret, **(ROTATE.model_dump() | {"grace_hours": hours}))
