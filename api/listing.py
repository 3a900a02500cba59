"""How lists are asked for: sorted by declared columns, and only the fields that are wanted."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Query, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from api.times import Timestamp
from readmodels.page import Page
from readmodels.sorting import MOST, Sorting

T = TypeVar("T", bound=BaseModel)
#: The media type of answers with some of the fields: none of them is required there.
PARTIAL_JSON = "application/vnd.chainlytics.partial+json"
_LONGEST = 2_000

#: One end of a stretch of time.
Moment = Annotated[Timestamp | None, Query()]
#: A text to be found.
Search = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=100,
        pattern=r"^[^\x00]*$",
        description="Only those that hold this text, upper or lower case alike.",
    ),
]


def sortable(sorting: Sorting) -> Any:
    """The query parameter ``sort`` of a list."""
    return Query(
        max_length=200,
        description="Columns with commas between them, the first one counts most; `-` before a "
        f"column: downwards. At most {MOST} of {sorting.described}. Usually `{sorting.usual}`. "
        "Null counts as larger than every value; rows that are alike are in the order of "
        f"`{','.join(sorting.key)}`. A cursor goes on in the same sort only.",
        examples=[sorting.usual],
    )


@dataclass(frozen=True, slots=True)
class Chosen:
    """The fields of an answer that were asked for; None: all."""

    names: frozenset[str] | None
    response: Response

    def of(self, found: T) -> T:
        """The answer: as it was found, or a finished one that holds the chosen fields only."""
        if self.names is None:
            return found
        include: Any = set(self.names)
        if isinstance(found, Page):
            include = {"items": {"__all__": include}, "next_cursor": True}
        answer = Response(found.model_dump_json(include=include), media_type=PARTIAL_JSON)
        # What endpoints say in headers (ETag, As-Of-Position) holds for this one too.
        answer.headers.raw.extend(self.response.headers.raw)
        return cast(T, answer)  # FastAPI sends what is a response as it is


def choosing(model: type[BaseModel]) -> Any:
    """The query parameter ``fields`` of answers made of a model.

    Its function raises RequestValidationError for names that the model does not have.
    """
    names = ", ".join(model.model_fields)

    async def choose(
        response: Response,
        fields: Annotated[
            str | None,
            Query(
                min_length=1,
                max_length=_LONGEST,
                description="Only these fields, with commas between them; the answer is then "
                f"`{PARTIAL_JSON}`. Of {names}.",
                examples=[",".join(list(model.model_fields)[:2])],
            ),
        ] = None,
    ) -> Chosen:
        if fields is None:
            return Chosen(None, response)
        wanted = frozenset(name.strip() for name in fields.split(","))
        unknown = sorted(wanted - model.model_fields.keys())
        if unknown:
            told = {"type": "fields", "loc": ("query", "fields"), "input": unknown[0]}
            rule = f"there is no field {unknown[0][:40]!r}; there are {names}"
            raise RequestValidationError([told | {"msg": rule}])
        return Chosen(wanted, response)

    return Depends(choose)


def partial(model: type[BaseModel], *, page: bool = False) -> dict[int | str, dict[str, Any]]:
    """What an answer with some of a model's fields is like, for its documentation."""
    schema = model.model_json_schema(
        mode="serialization", ref_template="#/components/schemas/{model}"
    )
    if schema.pop("$defs", None):
        raise TypeError(f"{model.__name__} holds other models: their schemas would be missing")
    schema.pop("required", None)
    schema["title"] = f"Partial{model.__name__}"
    if page:
        schema = {
            "type": "object",
            "title": f"PartialPage_{model.__name__}_",
            "properties": {
                "items": {"type": "array", "items": schema},
                "next_cursor": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["items", "next_cursor"],
        }
    return {200: {"content": {PARTIAL_JSON: {"schema": schema}}}}
