"""Whoever is signed in, over HTTP: a profile and preferences, kept outside of the log."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import Body
from fastapi.openapi.models import Example
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from api.auth import PersonName
from api.dependencies import Parts, Who
from api.errors import documented
from api.identity.account import Account
from api.identity.local import LOCAL
from api.routers import Router

router = Router("/users", tags=["users"])

_MOST_BYTES = 16_384
_DEEPEST = 16


def _keepable(preferences: dict[str, Any]) -> dict[str, Any]:
    """What Postgres keeps as JSON, and not too much of it."""
    found: list[tuple[int, Any]] = [(1, preferences)]
    while found:
        depth, value = found.pop()
        if depth > _DEEPEST:
            raise ValueError(f"must not be nested deeper than {_DEEPEST}")
        inside = value
        if isinstance(value, dict):
            inside = [*value.keys(), *value.values()]
        if isinstance(inside, list):
            found += [(depth + 1, one) for one in inside]
        elif isinstance(value, str) and "\0" in value:
            raise ValueError("must not hold the character U+0000")
    try:
        size = len(json.dumps(preferences, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:
        raise ValueError("must hold text and numbers that JSON has") from None
    if size > _MOST_BYTES:
        raise ValueError(f"must not be larger than {_MOST_BYTES:,} bytes")
    return preferences


Preferences = Annotated[dict[str, Any], AfterValidator(_keepable)]
_PREFERENCES: dict[str, Example] = {
    "example": {"summary": "A dark theme", "value": {"theme": "dark", "rows": 50}}
}
_PROFILE: dict[str, Example] = {
    "example": {
        "summary": "Ada, in Berlin",
        "value": {"name": "Ada Lovelace", "locale": "de-DE", "time_zone": "Europe/Berlin"},
    }
}


class Profile(BaseModel):
    """What somebody tells of themselves."""

    model_config = ConfigDict(extra="forbid")

    name: PersonName | None = None
    locale: str | None = Field(
        default=None,
        max_length=35,
        pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$",
        description="A language tag (BCP 47).",
        examples=["de-DE"],
    )
    time_zone: str | None = Field(
        default=None,
        max_length=64,
        pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$",
        description="A name of the time zone database.",
        examples=["Europe/Berlin"],
    )


class ProfileView(Profile):
    """A profile, and whose it is."""

    model_config = ConfigDict(extra="ignore")

    id: str = Field(
        description="The account's id, as events name it.",
        examples=["local:6f1b7a52-0c35-4c1e-9d57-0d4a5a3c8f11"],
    )
    email: str | None = Field(
        description="If the provider has verified it.", examples=["ada@example.com"]
    )


@router.get("/profile", summary="Get my profile", responses=documented())
async def get_profile(deps: Parts, who: Who) -> ProfileView:
    """What the account tells of itself."""
    found = await deps.profiles.get("profile", who.id)
    if not found:
        name = who.name
        if name is None and who.provider == LOCAL and deps.accounts is not None:
            name = await deps.accounts.name_of(UUID(who.subject))
        found = {"name": name}
    return _shown(who, found)


@router.put("/profile", summary="Set my profile", responses=documented(400, 413))
async def put_profile(
    deps: Parts, who: Who, body: Annotated[Profile, Body(openapi_examples=_PROFILE)]
) -> ProfileView:
    """Set the profile as a whole; what is left out is empty from then on."""
    profile = body.model_dump()
    await deps.profiles.put("profile", who.id, profile)
    return _shown(who, profile)


@router.get("/preferences", summary="Get my preferences", responses=documented())
async def get_preferences(deps: Parts, who: Who) -> dict[str, Any]:
    """What was put last; an empty object where nothing was."""
    return await deps.profiles.get("preferences", who.id)


@router.put("/preferences", summary="Set my preferences", responses=documented(400, 413))
async def put_preferences(
    deps: Parts, who: Who, body: Annotated[Preferences, Body(openapi_examples=_PREFERENCES)]
) -> dict[str, Any]:
    """Set the preferences as a whole: any JSON object of up to 16 KB, for frontends to agree on."""
    await deps.profiles.put("preferences", who.id, body)
    return body


def _shown(who: Account, profile: dict[str, Any]) -> ProfileView:
    return ProfileView(**profile, id=who.id, email=who.email)
