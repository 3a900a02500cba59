"""What nobody declared is refused: query parameters as well as bodies of another media type."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastapi import Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

_KNOWN = "_chainlytics_known"


class _Known(NamedTuple):
    """The query parameters of a route, those that may come more than once, and its body's type."""

    names: frozenset[str]
    several: frozenset[str]
    media: str | None


async def strict(request: Request) -> None:
    """Refuse parameters that the route does not have, and a body that is not of its media type.

    Raises:
        RequestValidationError: a parameter is not known, or stands there twice.
        HTTPException: 415.
    """
    route = request.scope.get("route")
    has_body = request.method in ("POST", "PUT", "PATCH")
    if not has_body and not request.scope["query_string"]:
        return
    known: _Known | None = getattr(route, _KNOWN, None)
    if known is None:
        known = _known(route)
        setattr(route, _KNOWN, known)
    if has_body and known.media is not None:
        _must_be(known.media, request.headers.get("content-type"))
    if request.scope["query_string"]:
        _must_be_known(request, known)


def _must_be_known(request: Request, known: _Known) -> None:
    seen: set[str] = set()
    errors: list[dict[str, Any]] = []
    for name, value in request.query_params.multi_items():
        if name not in known.names:
            allowed = ", ".join(sorted(known.names)) or "there are none"
            rule = f"is not known; the parameters are: {allowed}"
            errors.append({"type": "extra", "loc": ("query", name), "msg": rule, "input": value})
        elif name in seen and name not in known.several:
            rule = "must be there once"
            errors.append({"type": "twice", "loc": ("query", name), "msg": rule, "input": value})
        seen.add(name)
    if errors:
        raise RequestValidationError(errors)


def _must_be(media: str, said: str | None) -> None:
    kind = (said or "").partition(";")[0].strip().lower()
    if media == "application/json":
        good = kind == media or (kind.startswith("application/") and kind.endswith("+json"))
    else:
        good = kind == media
    if not good:
        told = f"the body must be {media}, not {kind[:80] or 'without a Content-Type'}"
        raise HTTPException(415, told)


def _known(route: Any) -> _Known:
    names: set[str] = set()
    several: set[str] = set()
    for field in get_flat_params(route.dependant):
        if not isinstance(field.field_info, params.Query):
            continue
        annotation = field.field_info.annotation
        names.add(field.alias)
        if any(kind in str(annotation).lower() for kind in ("list[", "tuple[", "set[", "sequence")):
            several.add(field.alias)
    body = route.body_field
    media = None if body is None else getattr(body.field_info, "media_type", "application/json")
    return _Known(frozenset(names), frozenset(several), media)
