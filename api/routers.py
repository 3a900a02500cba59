"""A router for each area. Its endpoints become an application's as they are.

FastAPI analyses every endpoint of a router once more for each application that includes it, with
what the application adds: for three hundred endpoints that is half of a server's start. Here the
routers say themselves what holds everywhere, and nothing is left to add.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from fastapi import APIRouter, Depends, FastAPI

from api.errors import Problem
from api.strict import strict

PREFIX = "/api/v1"


class Router(APIRouter):
    """The endpoints of an area.

    Args:
        prefix: what the paths of all of them begin with.
        tags: under which they stand in the document.
        at: where the area is; the API's prefix, but for what others look for elsewhere.
    """

    def __init__(
        self, prefix: str = "", *, tags: Sequence[str | Enum] = (), at: str = PREFIX
    ) -> None:
        super().__init__(
            prefix=at + prefix,
            tags=list(tags),
            dependencies=[Depends(strict)],
            responses={422: {"model": Problem}},
            generate_unique_id_function=lambda route: route.name,
        )

    def join(self, app: FastAPI) -> None:
        """Make the endpoints an application's own; to be called when all of them are there."""
        app.router.routes.extend(self.routes)
