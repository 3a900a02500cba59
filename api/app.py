"""The application: routers, errors and the life of its parts, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from api import (
    archive,
    audit,
    bundles,
    decisions,
    errors,
    health,
    hypotheses,
    inventory,
    kinds,
    kpis,
    metrics,
    models,
    orders,
    people,
    policies,
    projections,
    relay,
    reviews,
    schemas,
    seals,
    stream,
    transport,
)
from api.correlation import Correlation
from api.dependencies import Dependencies

PREFIX = "/api/v1"
_ASSETS = Path(fastapi_offline.__file__).with_name("static")
_ROUTERS = (
    orders,
    inventory,
    transport,
    people,
    decisions,
    bundles,
    reviews,
    hypotheses,
    kinds,
    policies,
    models,
    kpis,
    audit,
    seals,
    archive,
    projections,
    relay,
    stream,
    schemas,
    health,
)

_DESCRIPTION = """
Commands become events in one log; read models answer queries; decisions come with their reasons.

* Send `Idempotency-Key` with a command: a retry gets the first answer.
* A command answers with its log `position`; a query waits for it with `min_position`.
* Errors are problem details (RFC 9457) with a stable `type`.
"""

OpenParts = Callable[[], AbstractAsyncContextManager[Dependencies]]


def create_app(open_parts: OpenParts, *, version: str) -> FastAPI:
    """The API. ``open_parts`` opens what it needs at its start and closes it at its end."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.stopping = asyncio.Event()
        async with open_parts() as dependencies:
            app.state.dependencies = dependencies
            yield

    app = FastAPI(
        title="Chainlytics",
        version=version,
        description=_DESCRIPTION,
        lifespan=life,
        docs_url=None,  # ours below: FastAPI's own loads its scripts from the internet
        openapi_url="/openapi.json",
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        responses={422: {"model": errors.Problem}},
    )
    errors.install(app)
    app.add_middleware(Correlation)
    for module in _ROUTERS:
        app.include_router(module.router, prefix=PREFIX)
    app.include_router(metrics.router)  # where Prometheus looks by itself

    app.mount("/assets", StaticFiles(directory=_ASSETS), name="assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Chainlytics API",
            swagger_js_url="/assets/swagger-ui-bundle.js",
            swagger_css_url="/assets/swagger-ui.css",
            swagger_favicon_url="/assets/favicon.png",
            swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
        )

    @app.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app
