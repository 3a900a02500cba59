"""Forecasts over HTTP: made now, looked at, and held against what came."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.commands import Post, mount
from api.conditional import entity_tag
from api.dependencies import (
    Cursor,
    Limit,
    NotFound,
    Parts,
    allowed,
    reading,
    tagged,
)
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, choosing, partial, sortable
from api.routers import Router
from api.tokens import Identity
from commands import Context
from commands.forecasts import forecast_stream
from commands.sites import site_stream
from domain.access import Role
from domain.catalogue import encode
from domain.errors import Refused
from domain.forecasts import MOST_DAYS, ForecastMade, RecordForecast
from domain.values import Id
from eventstore import Receipt
from eventstore.artifacts import Artifacts
from ml.forecast_picture import picture
from ml.forecaster import Forecaster, recorded
from readmodels import forecasts
from readmodels.database import ReadModels
from readmodels.forecasts import Accuracy, ForecastDetail, ForecastSummary
from readmodels.page import Page
from readmodels.past import AsOf

router = Router("/forecasts", tags=["forecasts"])

#: Stocks that are foretold by one request; for more there is a task.
MOST_STOCKS = 200
#: Days of history that the picture shows.
_SHOWN_DAYS = 120

POSTS: tuple[Post, ...] = ()
mount(router, POSTS)


class ForecastRequest(BaseModel):
    """What is to be foretold. ``sku``: all stocks of the site where left out; ``from_day``: today
    (UTC) where left out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"site_id": "S-BER", "sku": "SKU-001", "horizon_days": 28}},
    )

    site_id: Id
    sku: Id | None = None
    horizon_days: Annotated[int, Field(ge=1, le=MOST_DAYS)] = 28
    from_day: Annotated[
        date | None,
        Field(ge=date(2000, 1, 1), le=date(2100, 1, 1), description="The first day foretold."),
    ] = None


class MadeForecasts(BaseModel):
    """The forecasts that were made. ``position``: the log position of the last one of them."""

    position: int
    items: list[ForecastDetail]


class ReplayedForecast(BaseModel):
    """Whether a forecast, made again from the log, is the same to the byte, and what differs."""

    site_id: str
    sku: str
    version: int
    as_of: int
    method: str
    same: bool
    differs: list[str]


_Site = Annotated[Id, Path()]
_Sku = Annotated[Id, Path()]


@router.post("", status_code=201, summary="Make forecasts", responses=documented(404, 409))
async def make_forecasts(
    asked: ForecastRequest,
    request: Request,
    deps: Parts,
    caller: Annotated[Identity, allowed("forecasts.make")],
    read: Annotated[
        ReadModels, reading("forecasts.make", "demand_days", "model_list", "model_roles")
    ],
) -> MadeForecasts:
    """How many pieces will be asked for on each day, from what left the shelf so far: by the
    deployed model of the kind `demand`, or by the documented rule where there is none; then
    `method` is `rule-based`. The same question on the same series changes nothing."""
    now = datetime.now(UTC)
    if not await read.stream(site_stream(asked.site_id)):
        raise NotFound("site", asked.site_id)
    found = await Forecaster(Artifacts(deps.log)).make(
        read, asked.site_id, asked.sku, asked.from_day or now.date(), asked.horizon_days, now
    )
    if len(found) > MOST_STOCKS:
        raise Refused("forecast.too_many", stocks=len(found), most=MOST_STOCKS)
    commands = [
        (
            one,
            Context(
                organisation_id=caller.organisation_id,
                actor=caller.actor,
                roles=frozenset({Role.SERVICE}),  # nobody else records; who may ask was seen above
                correlation_id=request.state.correlation_id,
            ),
        )
        for one in found
    ]
    results = await deps.bus.execute_many(commands)
    for result in results:
        if not isinstance(result, Receipt):
            raise result
    receipts = [one for one in results if isinstance(one, Receipt)]
    items = [
        recorded(one, receipt.version, receipt.position, caller.actor)
        for one, receipt in zip(found, receipts, strict=True)
    ]
    return MadeForecasts(position=max(one.position for one in receipts), items=items)


@router.get(
    "",
    summary="List the last forecast of each stock",
    responses=documented() | partial(ForecastSummary, page=True),
)
async def list_forecasts(
    read: Annotated[ReadModels, reading("forecasts.list", "forecast_list")],
    chosen: Annotated[Chosen, choosing(ForecastSummary)],
    site_id: Annotated[Id | None, Query()] = None,
    sku: Annotated[Id | None, Query()] = None,
    technique: Annotated[Id | None, Query(description="How it was made.")] = None,
    rule_based: Annotated[bool | None, Query(description="No model made it.")] = None,
    search: Annotated[
        str | None, Query(min_length=1, max_length=64, description="A part of the SKU.")
    ] = None,
    sort: Annotated[str | None, sortable(forecasts.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[ForecastSummary]:
    """A page of forecasts; filters are joined by «and»."""
    return chosen.of(
        await forecasts.list_forecasts(
            read,
            site_id=site_id,
            sku=sku,
            technique=technique,
            rule_based=rule_based,
            search=search,
            sort=sort,
            cursor=cursor,
            limit=limit,
        )
    )


@router.get("/{site_id}/{sku}", summary="Get the last forecast", responses=documented(404))
async def get_forecast(
    site_id: _Site,
    sku: _Sku,
    response: Response,
    read: Annotated[ReadModels, reading("forecasts.get", "forecast_list")],
) -> ForecastDetail:
    """The last forecast of a stock, day by day."""
    found = await _known(read, site_id, sku)
    tagged(response, found.version)
    return found


@router.get("/{site_id}/{sku}/history", summary="All forecasts", responses=documented(404))
async def get_forecast_history(
    site_id: _Site,
    sku: _Sku,
    read: Annotated[ReadModels, reading("forecasts.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """Every forecast of a stock as the log has it, the oldest first."""
    name = f"{site_id}/{sku}"
    return await history_of(read, forecast_stream(site_id, sku), "forecast of", name, cursor, limit)


@router.get("/{site_id}/{sku}/accuracy", summary="How good they were", responses=documented(404))
async def get_forecast_accuracy(
    site_id: _Site,
    sku: _Sku,
    read: Annotated[ReadModels, reading("forecasts.accuracy", "demand_days")],
    until: Annotated[
        date | None, Query(description="The first day that does not count; today where left out.")
    ] = None,
    limit: Limit = 50,
) -> list[Accuracy]:
    """The last forecasts of a stock against what came, the newest first, over the days that are
    over."""
    today = datetime.now(UTC).date()
    found = await forecasts.accuracy(read, site_id, sku, min(until or today, today), limit)
    if not found:
        raise NotFound("forecast of", f"{site_id}/{sku}")
    return found


@router.get(
    "/{site_id}/{sku}/picture.svg",
    summary="See the last forecast",
    response_class=Response,
    responses=documented(404)
    | {200: {"content": {"image/svg+xml": {}}, "description": "A picture."}},
)
async def get_forecast_picture(
    site_id: _Site,
    sku: _Sku,
    read: Annotated[ReadModels, reading("forecasts.get", "forecast_list", "demand_days")],
) -> Response:
    """What was asked for, what was foretold, and the interval of 80 % around it."""
    found = await _known(read, site_id, sku)
    first = found.from_day.fromordinal(found.from_day.toordinal() - _SHOWN_DAYS)
    end = found.days[-1].day.fromordinal(found.days[-1].day.toordinal() + 1)
    rows = await forecasts.demand(read, site_id, sku, first, end)
    came = {row.day: float(row.demand) for row in rows}
    return Response(
        picture(found, came, first, datetime.now(UTC).date()),
        media_type="image/svg+xml",
        headers={"ETag": entity_tag(found.version)},
    )


@router.post("/{site_id}/{sku}/replay", summary="Make it again", responses=documented(404, 409))
async def replay_forecast(
    site_id: _Site,
    sku: _Sku,
    deps: Parts,
    caller: Annotated[Identity, allowed("forecasts.replay")],
    version: Annotated[
        int | None, Query(ge=1, lt=2**31, description="Which one; the last where left out.")
    ] = None,
) -> ReplayedForecast:
    """Make a forecast again from the log as of its own position, with its own model or rule: are
    the bytes the same?"""
    own = ReadModels(deps.log, caller.organisation_id)
    known = dict(await forecasts.made(own, site_id, sku))
    wanted = max(known, default=0) if version is None else version
    if wanted not in known:
        raise NotFound("forecast of", f"{site_id}/{sku}")
    made = known[wanted]
    then = ReadModels(deps.log, caller.organisation_id, deps.past, AsOf(made.as_of))
    command = await Forecaster(Artifacts(deps.log)).again(then, made)
    anew = _event(command, made.made_by)
    old, new = made.model_dump(mode="json"), anew.model_dump(mode="json")
    return ReplayedForecast(
        site_id=site_id,
        sku=sku,
        version=wanted,
        as_of=made.as_of,
        method=made.method,
        same=encode(made) == encode(anew),
        differs=[name for name in old if old[name] != new[name]],
    )


def _event(command: RecordForecast, actor: str) -> ForecastMade:
    return ForecastMade(**command.model_dump(), horizon_days=len(command.values), made_by=actor)


async def _known(read: ReadModels, site_id: str, sku: str) -> ForecastDetail:
    found = await forecasts.get_forecast(read, site_id, sku)
    if found is None:
        raise NotFound("forecast of", f"{site_id}/{sku}")
    return found
