"""A command as a message of Kafka, and its answer: CloudEvents 1.0 in Kafka's binary mode.

The message has headers ``ce_specversion``, ``ce_id`` (the sender's name for this command: a retry
gets the first answer), ``ce_source``, ``ce_type`` (the command's name) and ``authorization``, and
for a value the command's fields as JSON. Who sends it, for which organisation and in which roles
is the token's to say. The answer has for a value what HTTP would have for a body.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from api.authorisation import Authorisation, NoSuchOrganisation, OrganisationNeeded
from api.bodies import MAX_BODY, TooLarge
from api.commands import Post, accepted, asked, body_of, path_fields
from api.correlation import correlation_of
from api.errors import PROBLEM_JSON, problem_of, told_of
from api.identity.jwks import KeysUnavailable
from api.posts import POSTS
from api.tokens import Identity, InvalidToken
from commands import Context, command_id
from domain.values import Command
from eventstore import Receipt
from eventstore.kafka.cluster import Cluster
from eventstore.kafka.inbox import Message, Outgoing
from eventstore.kafka.letters import REPLIES

#: Read of a message; where one of them stands there twice, nobody knows which is meant.
_HEADERS = (
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_correlationid",
    "traceparent",
    "authorization",
)
_ID = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,198}[\x21-\x7e])?")
_MOST_KEY = 1_000  # bytes
_BODIES: dict[str, type[BaseModel]] = {name: body_of(post) for name, post in POSTS.items()}


@dataclass(frozen=True, slots=True)
class Read:
    """What a message says.

    Attributes:
        sender_id: the sender's own id of the command; None: there is none that can be one.
        identity: who sends it; None: there is no token to be believed.
        command: the command's name; empty where it is none.
        sent: the command, its context and its endpoint over HTTP; None where ``error`` says why.
    """

    message: Message
    sender_id: str | None
    correlation_id: UUID
    identity: Identity | None
    command: str
    sent: tuple[Command, Context, Post] | None
    error: Exception | None

    @property
    def can_be_answered(self) -> bool:
        """Whether somebody would know the answer for his."""
        return self.sender_id is not None


class Verified:
    """Whom the tokens of some messages speak for.

    Args:
        whose: says it of a token, or raises.
    """

    def __init__(self, whose: Callable[[str], Identity]) -> None:
        self.identity = whose

    @classmethod
    async def of(cls, messages: Sequence[Message], authorisation: Authorisation) -> Verified:
        """Each token looked at once: one sender has one for many messages.

        Raises:
            LogUnavailable: the database did not answer in time.
        """
        found: dict[str, Identity | Exception] = {}
        for token in dict.fromkeys(_tokens(messages)):
            try:
                found[token] = await authorisation.identified(token, None)
            except (InvalidToken, NoSuchOrganisation, OrganisationNeeded, KeysUnavailable) as error:
                found[token] = error

        def whose(token: str) -> Identity:
            known = found[token]
            if isinstance(known, Exception):
                raise known
            return known

        return cls(whose)


def _tokens(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        for name, value in message.headers:
            if name == "authorization":
                with suppress(InvalidToken):
                    yield _bearer((value or b"").decode("utf-8", "replace"))


def read(message: Message, tokens: Verified) -> Read:
    """What a message says. Nothing is raised: what is wrong with it stands in it."""
    names = [name for name, _ in message.headers if name in _HEADERS]
    said = {
        name: (value or b"").decode("utf-8", "replace")
        for name, value in message.headers
        if name in _HEADERS
    }
    given = said.get("ce_id", "")
    sender_id = given if _ID.fullmatch(given) and names.count("ce_id") == 1 else None
    correlation_id = correlation_of(said.get("traceparent", ""), said.get("ce_correlationid", ""))
    name = said.get("ce_type", "")
    command = name if name in POSTS else ""
    identity: Identity | None = None
    sent: tuple[Command, Context, Post] | None = None
    error: Exception | None = None
    try:
        if sender_id is None:
            raise _header("ce_id", "1 to 200 printable ASCII characters, no blank at either end")
        if names.count("authorization") > 1:
            raise InvalidToken("one bearer token is needed")
        identity = tokens.identity(_bearer(said.get("authorization", "")))
        _check(said, names)
        sent = _sent(message, sender_id, POSTS[command], identity, correlation_id)
    except Exception as wrong:  # also what nobody foresaw: the message must not come for ever
        error = wrong
    return Read(message, sender_id, correlation_id, identity, command, sent, error)


def answer(cluster: Cluster, read: Read, result: Receipt | Exception) -> Outgoing:
    """The message that answers one; only for those that can be answered."""
    assert read.sender_id is not None
    message = read.message
    if isinstance(result, Receipt):
        kind, media = b"CommandAccepted", b"application/json"
        command, _, post = read.sent or (None, None, None)
        value: Any = accepted(result, post, command).model_dump(mode="json")
    else:
        kind, media = b"CommandRejected", PROBLEM_JSON.encode()
        value = problem_of(told_of(result), str(read.correlation_id))
    source = "/organisations"
    if read.identity is not None:
        source = f"{source}/{read.identity.organisation_id}"
    key = message.key
    if key is None or len(key) > _MOST_KEY:
        key = read.sender_id.encode()
    headers = [
        ("ce_specversion", b"1.0"),
        # Of the message's place: if it is taken in twice, the answers say that they are one.
        ("ce_id", f"{message.topic}-{message.partition}-{message.offset}".encode()),
        ("ce_source", source.encode()),
        ("ce_type", kind),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
        ("content-type", media),
        ("ce_correlationid", str(read.correlation_id).encode()),
        ("ce_commandid", read.sender_id.encode()),
    ]
    # As Starlette writes it over HTTP.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Outgoing(cluster.topic(REPLIES), key, text.encode("utf-8", "replace"), headers)


def _sent(
    message: Message, sender_id: str, post: Post, identity: Identity, correlation_id: UUID
) -> tuple[Command, Context, Post]:
    value = message.value or b""
    if len(value) > MAX_BODY:
        raise TooLarge
    try:
        model = _BODIES[post.command.__name__]
        body = model.model_validate(_parsed(value), from_attributes=True)  # as FastAPI asks
    except ValidationError as error:
        wrong = [one | {"loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(wrong) from error
    said = body.model_dump(exclude_unset=True, mode="json")
    path = {name: said.pop(name) for name in path_fields(post)}
    command, digest = asked(post, path, said)
    own = identity.organisation_id
    context = Context(
        organisation_id=own,
        actor=identity.actor,
        roles=identity.roles,
        scopes=identity.scopes,
        command_id=command_id(own, f"kafka:{sender_id}"),
        correlation_id=correlation_id,
        digest=digest,
    )
    return command, context, post


def _parsed(value: bytes) -> Any:
    """As FastAPI reads a body, and with its words where it cannot."""
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        place = ("body", error.pos)
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": place, "msg": "JSON decode error", "input": {}}]
        ) from error
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "There was an error parsing the body") from error


def _check(said: dict[str, str], names: list[str]) -> None:
    for name in _HEADERS:
        if names.count(name) > 1:
            raise _header(name, "it must stand there once")
    if said.get("ce_specversion") != "1.0":
        raise _header("ce_specversion", "it must be 1.0: CloudEvents in binary mode")
    if not said.get("ce_source"):
        raise _header("ce_source", "it must say where the command comes from")
    if said.get("ce_type") not in POSTS:
        raise _header("ce_type", "there is no such command", said.get("ce_type"))


def _header(name: str, rule: str, value: str | None = None) -> RequestValidationError:
    kind = "missing" if value is None else "value_error"
    return RequestValidationError(
        [{"type": kind, "loc": ("header", name), "msg": rule, "input": value}]
    )


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise InvalidToken("a bearer token is needed")
    return token.strip()
