"""What is said on a WebSocket beside events: the client's messages, read and checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from api.live import MOST_NAMES, Area, EventName, Filters, StreamName

#: The largest message of a client, in characters: a hundred names, and a token.
MOST_CHARACTERS = 64 * 1024
_Names: Any = Field(default=[], max_length=MOST_NAMES)


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Authenticate(_Message):
    """Whose connection it is: the first message of who showed no token before, and later a new
    token in time before the last one expires."""

    type: Literal["authenticate"]
    token: Annotated[str, Field(min_length=1, max_length=32_768)]
    organisation_id: UUID | None = None


class Subscribe(_Message):
    """Which events from now on, in the place of those before; without ``after`` it goes on where it
    is."""

    type: Literal["subscribe"]
    areas: Annotated[list[Area], _Names]
    streams: Annotated[list[StreamName], _Names]
    types: Annotated[list[EventName], _Names]
    after: Annotated[int, Field(ge=0, lt=2**63, strict=True)] | None = None

    def filters(self) -> Filters:
        """Which events these are."""
        return Filters(self.areas, self.streams, self.types)


class Address(_Message):
    """What stands in the query of the address. A token does not: addresses are logged."""

    area: Annotated[list[Area], _Names]
    stream: Annotated[list[StreamName], _Names]
    type: Annotated[list[EventName], _Names]
    after: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    organisation_id: UUID | None = None

    def filters(self) -> Filters:
        """Which events these are."""
        return Filters(self.area, self.stream, self.type)


_REPEATED = ("area", "stream", "type")
_FROM_CLIENT: TypeAdapter[Authenticate | Subscribe] = TypeAdapter(
    Annotated[Authenticate | Subscribe, Field(discriminator="type")]
)


def read_message(text: str) -> Authenticate | Subscribe:
    """A message of a client.

    Raises:
        RequestValidationError: it is none.
    """
    try:
        return _FROM_CLIENT.validate_json(text)
    except ValidationError as error:
        raise _invalid(error, "message") from None


def read_address(query: list[tuple[str, str]]) -> Address:
    """What a client asks for by the address that it connects to.

    Raises:
        RequestValidationError: it cannot be asked for so.
    """
    found: dict[str, Any] = {}
    for name, value in query:
        if name in _REPEATED:
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    try:
        return Address.model_validate(found)
    except ValidationError as error:
        raise _invalid(error, "query") from None


def read_organisation(name: str) -> UUID:
    """The organisation that a header names.

    Raises:
        RequestValidationError: it is no id.
    """
    try:
        return UUID(name)
    except ValueError:
        raise RequestValidationError(
            [
                {
                    "type": "uuid_parsing",
                    "loc": ("header", "x-organisation-id"),
                    "msg": "must be a UUID",
                    "input": name,
                }
            ]
        ) from None


def _invalid(error: ValidationError, where: str) -> RequestValidationError:
    """A token is told to nobody, not even to who sent it in the wrong place."""
    told = []
    for one in error.errors(include_url=False, include_context=False):
        secret = {"authenticate", "token", "access_token"} & {str(part) for part in one["loc"]}
        shown = None if secret or one["loc"] == () else one["input"]
        told.append({**one, "loc": (where, *one["loc"]), "input": shown})
    return RequestValidationError(told)
