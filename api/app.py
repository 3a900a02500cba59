"""The application: routers, errors and the life of its parts, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import fastapi_offline
from fastapi import Depends, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware

from api import (
    alerts,
    api_keys,
    archive,
    assignments,
    audit,
    auth,
    bundles,
    clients,
    decisions,
    errors,
    explain,
    exports,
    forecasts,
    frontend,
    handshakes,
    health,
    hypotheses,
    imports,
    inventory,
    kinds,
    kpis,
    methods,
    metrics,
    models,
    notifications,
    openapi,
    orders,
    organisations,
    people,
    policies,
    products,
    projections,
    prometheus,
    relay,
    reviews,
    route_rules,
    schedules,
    schemas,
    seals,
    shipments,
    simulation_results,
    simulations,
    sites,
    socket,
    stock_keeping,
    stream,
    tariffs,
    tasks,
    tours,
    transport,
    uploads,
    users,
    webhooks,
)
from api.allowance import LIMITS, Limits
from api.bodies import Bodies
from api.browsers import Origins, page_policy
from api.conditional import NotModified
from api.correlation import Correlation
from api.dependencies import Dependencies
from api.limits import Limited
from api.quick import Commands
from api.routers import PREFIX
from api.strict import strict
from api.traffic import Measured, Traffic
from eventstore.spans import Spans

#: The paths that take more than a megabyte, and how many bytes.
LARGER: Mapping[str, int] = {PREFIX + uploads.PATH: uploads.MOST}
_ASSETS = Path(fastapi_offline.__file__).with_name("static")
# A request is held against each in turn, so what is asked for most stands first.
_ROUTERS = (
    orders,
    shipments,
    sites,
    inventory,
    stock_keeping,
    transport,
    decisions,
    people,
    organisations,
    api_keys,
    auth,
    users,
    bundles,
    reviews,
    hypotheses,
    kinds,
    policies,
    webhooks,
    models,
    tasks,
    uploads,
    kpis,
    products,
    clients,
    assignments,
    route_rules,
    tours,
    tariffs,
    forecasts,
    simulation_results,
    simulations,
    metrics,
    schedules,
    alerts,
    notifications,
    explain,
    exports,
    imports,
    frontend,
    audit,
    seals,
    archive,
    projections,
    relay,
    stream,
    socket,
    schemas,
    health,
)
_ELSEWHERE = (prometheus.router, health.probes)  # where Prometheus looks, and Kubernetes

_DESCRIPTION = """
Commands become events in one log; read models answer queries; decisions come with their reasons.

* Send `Idempotency-Key` with a command: a retry gets the first answer.
* A command answers with its log `position`; a query waits for it with `min_position`.
* Errors are problem details (RFC 9457) with a stable `type`.
"""

OpenParts = Callable[[], AbstractAsyncContextManager[Dependencies]]


def create_app(
    open_parts: OpenParts,
    *,
    version: str,
    spans: Spans | None = None,
    limits: Limits = LIMITS,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The API. ``open_parts`` opens what it needs at its start and closes it at its end.
    ``spans``: follows requests; None: nobody does. ``limits``: how much may be asked. ``origins``:
    the sites whose pages may ask."""

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
        openapi_url=None,  # so is the document: FastAPI makes it where all requests are answered
        redoc_url=None,
        dependencies=[Depends(strict)],
        # The address of a redirect would be made of the Host header, which is the sender's.
        redirect_slashes=False,
    )
    errors.install(app)
    methods.install(app)
    openapi.install(app)
    _guard(app, limits, origins)
    for router in (*(module.router for module in _ROUTERS), *_ELSEWHERE):
        router.join(app)

    # Before what is mounted: files are not for WebSockets.
    app.router.add_websocket_route("/{path:path}", handshakes.nowhere)
    app.mount("/assets", StaticFiles(directory=_ASSETS), name="assets")

    page = get_swagger_ui_html(
        openapi_url=openapi.PATH,
        title="Chainlytics API",
        swagger_js_url="/assets/swagger-ui-bundle.js",
        swagger_css_url="/assets/swagger-ui.css",
        swagger_favicon_url="/assets/favicon.png",
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
    )
    page.headers["Content-Security-Policy"] = page_policy(bytes(page.body).decode())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page

    @app.get("/", include_in_schema=False)
    async def start() -> RedirectResponse:
        return RedirectResponse("/docs")

    app.router.routes.insert(0, Commands(app))
    app.state.traffic = Traffic()
    # Last, so that it is outermost and sees every answer.
    app.add_middleware(Measured, traffic=app.state.traffic, spans=spans)
    return app


def _guard(app: FastAPI, limits: Limits, origins: Sequence[str]) -> None:
    """What stands before the endpoints, the innermost first."""
    app.add_middleware(Bodies, timeout_s=limits.body_timeout_s, larger=LARGER)
    app.add_middleware(NotModified)
    app.add_middleware(Limited, limits=limits)
    app.add_middleware(Correlation)
    # Quick rather than small; live streams are left out by their media type.
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=1)
    if origins:
        app.add_middleware(Origins, origins=origins)
