"""From a request's body to a command on the bus: declared for each endpoint, one way for all."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, get_args
from uuid import UUID, uuid4

from fastapi import APIRouter, Body, Header, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from api.conditional import IfMatch, expected_in
from api.dependencies import Caller, Dependencies, Parts, tagged
from api.errors import documented
from api.quick import Arguments, CommandRoute
from api.times import WRITTEN_OUT
from api.tokens import Identity
from commands import HANDLERS, Context, Forbidden, command_id
from domain.errors import Refused
from domain.values import Command
from eventstore import Receipt
from readmodels.positions import ReadModelBehind

_WORDS = json.JSONEncoder(sort_keys=True, default=str)


class Accepted(BaseModel):
    """A command's answer. ``repeated``: it was accepted before, this is its first answer."""

    stream: str = Field(examples=["orders/O-1"])
    id: str = Field(examples=["O-1"])
    version: int = Field(description="The stream's version behind the command.")
    position: int = Field(description="Its log position: ask queries for `min_position`.")
    repeated: bool


#: The answer to a command that was taken, from its receipt; it may set headers.
Answer = Callable[[Dependencies, UUID, Receipt, Response], Awaitable[BaseModel]]
#: Raises Refused for a command of an organisation.
Check = Callable[[Dependencies, UUID, Any], Awaitable[None]]
#: Raises Forbidden for a command and who sends it.
Guard = Callable[[Dependencies, Any, Context], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Post:
    """An endpoint that takes a command.

    Attributes:
        path: fields in braces come from the path, the others from the body.
        now: fields that are the server's time where the body leaves them out.
        made: fields that the server makes up (a uuid) where the body leaves them out.
        caller: fields that are the caller over HTTP; elsewhere they are said, and compared.
        check: refuses what the command's own rules cannot know, from read models. It is asked
            before the command is sent; a retry gets its first answer whatever it says.
        guard: refuses who may not send it for more than the roles of the command's handler.
        errors: statuses beside the usual ones.
        own: what is sent for who may not send the command; it has the same fields.
        named: the field that names what the command is about, where a stream holds several such.
        answer: makes the answer, of the class ``answers``, where it is not ``Accepted``.
    """

    path: str
    command: type[Command]
    summary: str
    now: Sequence[str] = ()
    made: Sequence[str] = ()
    caller: Sequence[str] = ()
    status: int = 200
    errors: Sequence[int] = (404, 409)
    check: Check | None = None
    guard: Guard | None = None
    own: type[Command] | None = None
    named: str | None = None
    answer: Answer | None = None
    answers: type[BaseModel] = Accepted
    example: Mapping[str, Any] = field(default_factory=dict)


IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$",
        description="Any name of your own for this command: a retry gets the first answer.",
    ),
]


def only_one(request: Request, name: str) -> None:
    """Refuse a header that is sent more than once: another server may have read another one.

    Raises:
        RequestValidationError: it is.
    """
    said = request.headers.getlist(name)
    if len(said) > 1:
        told = {"type": "repeated", "loc": ("header", name), "msg": "must be sent once"}
        raise RequestValidationError([told | {"input": len(said)}])


def mount(router: APIRouter, posts: Sequence[Post]) -> None:
    """Put command endpoints on a router."""
    for post in posts:
        router.add_api_route(
            post.path,
            _endpoint(post),
            methods=["POST"],
            status_code=post.status,
            summary=post.summary,
            description=inspect.getdoc(post.command),
            operation_id=_snake(post.command.__name__),
            response_model=post.answers,
            responses=documented(400, 408, 412, 413, 415, 429, *post.errors),
            route_class_override=CommandRoute,
        )


def _endpoint(post: Post) -> Callable[..., Any]:
    """A function whose signature FastAPI reads: path fields, body, idempotency key."""
    in_path = path_fields(post)
    body_model = body_of(post, [*in_path, *post.caller])

    async def endpoint(
        request: Request,
        response: Response,
        deps: Parts,
        caller: Caller,
        body: BaseModel,
        idempotency_key: str | None = None,
        if_match: str | None = None,
        **path: Any,
    ) -> BaseModel:
        if idempotency_key is not None:
            only_one(request, "Idempotency-Key")
        sent = body.model_dump(exclude_unset=True, mode="json")
        read = {name: getattr(body, name) for name in body.model_fields_set}
        named = path | dict.fromkeys(post.caller, caller.actor)
        command, digest = asked(post, named, sent, read)
        if post.own is not None and not may_send(post.command, caller):
            command = post.own(**command.model_dump())
        own = caller.organisation_id
        context = Context(
            organisation_id=own,
            actor=caller.actor,
            roles=caller.roles,
            scopes=caller.scopes,
            command_id=command_id(own, f"http:{idempotency_key}") if idempotency_key else uuid4(),
            correlation_id=request.state.correlation_id,
            digest=digest,
            expected=expected_in(request, if_match),
        )
        await checked(post.check, deps, command, context, post.guard)
        receipt = await deps.bus.execute(command, context)
        deps.authorisation.memberships.changed(own, receipt.stream)
        tagged(response, receipt.version)
        if post.answer is not None:
            return await post.answer(deps, own, receipt, response)
        return accepted(receipt, post, command)

    parameters = [
        _parameter("request", Request),
        _parameter("response", Response),
        _parameter("deps", Parts),
        _parameter("caller", Caller),
        _parameter("body", Annotated[body_model, Body(openapi_examples=_examples(post))]),
        _parameter("idempotency_key", IdempotencyKey, None),
        _parameter("if_match", IfMatch, None),
    ]
    for name in in_path:
        info = post.command.model_fields[name]
        parameters.append(_parameter(name, Annotated[_kind(info), Path()]))
    endpoint.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    endpoint.__name__ = _snake(post.command.__name__)
    fields = post.command.model_fields
    in_path_kinds = {name: _kind(fields[name]) for name in in_path}
    endpoint.__dict__["arguments"] = Arguments(body_model, in_path_kinds)
    return endpoint


def may_send(command: type[Command], caller: Identity) -> bool:
    """Whether a command is allowed to one of the caller's roles, and to the scopes of its key."""
    allows = not caller.roles.isdisjoint(HANDLERS[command].roles)
    return allows and (caller.scopes is None or command.__name__ in caller.scopes)


def path_fields(post: Post) -> list[str]:
    """The command's fields that HTTP has in the path."""
    return [name for name in post.command.model_fields if f"{{{name}}}" in post.path]


def asked(
    post: Post,
    path: Mapping[str, Any],
    sent: Mapping[str, Any],
    read: Mapping[str, Any] | None = None,
) -> tuple[Command, bytes]:
    """The command of what a sender said, with what the server adds, and a digest of his words.

    Args:
        path: the fields that HTTP has in the path.
        sent: the others, as far as they were sent, as JSON has them.
        read: the same as values, where somebody has them already.

    Raises:
        RequestValidationError: a rule over several fields is broken.
    """
    now = datetime.now(UTC)
    given: dict[str, Any] = {name: now for name in post.now if name not in sent}
    given |= {name: str(uuid4()) for name in post.made if name not in sent}
    try:
        command = post.command.model_validate({**given, **(sent if read is None else read), **path})
    except ValidationError as error:
        # A rule over several fields. Any other such error would be our own fault.
        raise RequestValidationError(error.errors(include_url=False)) from error
    return command, digest_of_words(post.command, path, sent)


def accepted(
    receipt: Receipt, post: Post | None = None, command: Command | None = None
) -> Accepted:
    """The answer to a command that was taken; its id is the stream's, unless the endpoint says
    which field names what the command is about."""
    named = None if post is None or post.named is None else getattr(command, post.named)
    return Accepted(
        stream=receipt.stream,
        id=named or receipt.stream.partition("/")[2],
        version=receipt.version,
        position=receipt.position,
        repeated=receipt.repeated,
    )


async def checked(
    check: Check | None,
    deps: Dependencies,
    command: Command,
    context: Context,
    guard: Guard | None = None,
) -> None:
    """Ask an endpoint's guard and its check, for those who may send the command at all; the others
    are refused, and noted, by the bus.

    Raises:
        Forbidden: the guard says no.
        Refused: the check says no.
        ReadModelBehind: what it has to read is not there in time.
    """
    if check is None and guard is None:
        return
    try:
        deps.bus.allows(command, context)
    except Forbidden:
        return
    if guard is not None:
        try:
            await guard(deps, command, context)
        except Forbidden as error:
            deps.bus.not_taken(command, context, error)
            raise
    if check is None:
        return
    try:
        await check(deps, context.organisation_id, command)
    except (Refused, ReadModelBehind) as error:
        if not await deps.log.answers([context.command_id]):
            if isinstance(error, Refused):
                deps.bus.not_taken(command, context, error)
            raise


def body_of(post: Post, in_path: Sequence[str] = ()) -> type[BaseModel]:
    """The command's fields as a client sends them, those in a path left out; unknown ones are
    refused."""
    fields: dict[str, Any] = {}
    for name, info in post.command.model_fields.items():
        if name in in_path:
            continue
        optional = name in post.now or name in post.made
        described = copy(info)
        if optional:
            described.default = None
            described.description = (
                "Now, where left out." if name in post.now else "Made up, where left out."
            )
        fields[name] = (_kind(info), described)
    name = f"{post.command.__name__}Body"
    return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)


def _kind(info: FieldInfo) -> Any:
    """A field's type with its rules."""
    rules = [*info.metadata, *([WRITTEN_OUT] if AwareDatetime in _within(info.annotation) else [])]
    return Annotated[(info.annotation, *rules)] if rules else info.annotation


def _within(annotation: Any) -> tuple[Any, ...]:
    """A type, or what it is a choice of."""
    inner = (getattr(one, "__origin__", one) for one in get_args(annotation))
    return (annotation, *inner)


def digest_of_words(
    command: type[Command], path: Mapping[str, Any], sent: Mapping[str, Any]
) -> bytes:
    """Of what the client said: the server's own additions do not make a retry another command."""
    said = _WORDS.encode([command.__name__, path, sent])
    return hashlib.sha256(said.encode()).digest()


def _parameter(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _examples(post: Post) -> dict[str, Any]:
    return {"example": {"summary": post.summary, "value": dict(post.example)}}


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]
