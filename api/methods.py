"""What a path can do, told to who asks it for something else."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from api.errors import problem


def install(app: FastAPI) -> None:
    """Answer 405 with every method of the path: Starlette names those of its first route only."""

    async def told(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        known = allowed(app, request.url.path)
        headers = {"Allow": ", ".join(known)} if known else error.headers
        return problem(request, 405, "method-not-allowed", error.detail, headers=headers)

    app.exception_handler(405)(told)


def allowed(app: FastAPI, path: str) -> list[str]:
    """The methods that the document has for an address, in capitals."""
    found: dict[str, list[str]] = {}
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema and route.path_regex.match(path):
            found.setdefault(route.path_format, []).extend(route.methods or ())
    # `/people/search` is also a `/people/{person}`: the one that says more is meant.
    return sorted(found[min(found, key=lambda template: template.count("{"))]) if found else []
