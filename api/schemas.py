"""What goes over Kafka, described over HTTP: the AsyncAPI document and the schemas of messages."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Annotated, Any

from fastapi import Header, Path, Request, Response
from pydantic import BaseModel

from api.asyncapi.document import document, text_of
from api.asyncapi.payloads import schemas
from api.dependencies import NotFound, Parts
from api.routers import Router

router = Router(tags=["messages"])
_JSON = "application/json"
_SCHEMA_JSON = "application/schema+json"
_IfNoneMatch = Annotated[
    str | None, Header(max_length=2000, description="The `ETag` that you have: 304 if it is that.")
]
_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "It is what you have."}}


class PublishedSchema(BaseModel):
    """The schema of a message. ``deprecated``: it is not written any more, and older events on the
    log have it."""

    name: str
    title: str
    description: str
    deprecated: bool


class PublishedSchemas(BaseModel):
    """Every schema that is published."""

    items: list[PublishedSchema]


@router.get(
    "/asyncapi.json",
    summary="What goes over Kafka",
    response_class=Response,
    responses={200: {"content": {_JSON: {}}, "description": "The document."}, **_UNCHANGED},
)
async def get_asyncapi(
    request: Request, deps: Parts, if_none_match: _IfNoneMatch = None
) -> Response:
    """The AsyncAPI 3 document: every topic and every message of events, commands and replies. It
    needs no token, and names no broker."""
    text = _document(deps.kafka_prefix, deps.kafka_lanes, request.app.version)
    return _answer(text, _JSON, if_none_match)


@router.get(
    "/schemas",
    summary="List the schemas of messages",
    response_model=PublishedSchemas,
    responses=_UNCHANGED,
)
async def list_schemas(if_none_match: _IfNoneMatch = None) -> Response:
    """The schema of each type of event, command and reply, by name. It needs no token."""
    found = PublishedSchemas(
        items=[
            PublishedSchema(
                name=name,
                title=schema["title"],
                description=schema["description"],
                deprecated=schema.get("deprecated", False),
            )
            for name, schema in schemas().items()
        ]
    )
    return _answer(found.model_dump_json(), _JSON, if_none_match)


@router.get(
    "/schemas/{topic}",
    summary="Get the schema of a message",
    response_class=Response,
    responses={
        200: {"content": {_SCHEMA_JSON: {}}, "description": "JSON Schema 2020-12."},
        404: {
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            },
            "description": "Not Found",
        },
        **_UNCHANGED,
    },
)
async def get_schema(
    topic: Annotated[str, Path(max_length=200, examples=["orders.OrderPlaced.v1"])],
    if_none_match: _IfNoneMatch = None,
) -> Response:
    """The JSON schema of an event (by its topic, present or older), a command or a reply. It needs
    no token."""
    found = schemas().get(topic)
    if found is None:
        raise NotFound("schema", topic)
    return _answer(text_of(found), _SCHEMA_JSON, if_none_match)


@cache
def _document(prefix: str, lanes: int, version: str) -> str:
    return text_of(document(prefix, lanes=lanes, version=version))


def _answer(text: str, media_type: str, known: str | None) -> Response:
    """A text with its tag, or that the client has it."""
    body = text.encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    asked = {one.strip().removeprefix("W/") for one in (known or "").split(",")}
    if tag in asked or "*" in asked:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)
