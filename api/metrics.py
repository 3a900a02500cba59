"""Metrics over HTTP: figures that people and machines record."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from api.commands import Post, mount
from api.dependencies import Cursor, Limit, NotFound, reading, tagged
from api.errors import documented
from api.history import HistoryEntry, history_of
from api.listing import Chosen, Moment, Search, choosing, partial, sortable
from api.routers import Router
from commands.metrics import metric_stream
from domain.metrics import CorrectMetric, MetricName, RecordMetric, WithdrawMetric
from domain.values import Id
from readmodels import metrics
from readmodels.database import ReadModels
from readmodels.metrics import Metric
from readmodels.page import Page

router = Router("/metrics", tags=["metrics"])

POSTS: tuple[Post, ...] = (
    Post(
        "",
        RecordMetric,
        "Record a figure",
        now=("measured_at",),
        made=("metric_id",),
        status=201,
        example={"name": "dock.wait", "value": "12.5", "unit": "min", "site_id": "S-BER"},
    ),
    Post(
        "/{metric_id}/correct",
        CorrectMetric,
        "Correct a figure",
        now=("corrected_at",),
        example={"value": "21.5", "reason": "digits swapped"},
    ),
    Post(
        "/{metric_id}/withdraw",
        WithdrawMetric,
        "Withdraw a figure",
        now=("withdrawn_at",),
        example={"reason": "the clock stood still"},
    ),
)
mount(router, POSTS)


@router.get(
    "",
    summary="List figures, the newest first",
    responses=documented() | partial(Metric, page=True),
)
async def list_metrics(
    read: Annotated[ReadModels, reading("metrics.list", "metric_list")],
    chosen: Annotated[Chosen, choosing(Metric)],
    name: Annotated[MetricName | None, Query()] = None,
    site_id: Annotated[Id | None, Query()] = None,
    client_id: Annotated[Id | None, Query()] = None,
    vehicle_id: Annotated[Id | None, Query()] = None,
    sku: Annotated[Id | None, Query()] = None,
    measured_since: Moment = None,
    measured_until: Moment = None,
    withdrawn: Annotated[
        bool | None, Query(description="Those that were withdrawn; left out: those that count.")
    ] = False,
    search: Search = None,
    sort: Annotated[str | None, sortable(metrics.SORTING)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Metric]:
    """Figures as they hold now. Of times, `since` is in, `until` is out; `search` looks into id,
    name, source and the ids of what they are about."""
    found = await metrics.list_metrics(
        read,
        name=name,
        site_id=site_id,
        client_id=client_id,
        vehicle_id=vehicle_id,
        sku=sku,
        measured_since=measured_since,
        measured_until=measured_until,
        is_withdrawn=withdrawn,
        search=search,
        sort=sort,
        cursor=cursor,
        limit=limit,
    )
    return chosen.of(found)


@router.get("/{metric_id}", summary="Get a figure", responses=documented(404))
async def get_metric(
    metric_id: Annotated[Id, Path()],
    response: Response,
    read: Annotated[ReadModels, reading("metrics.get", "metric_list")],
) -> Metric:
    """A figure as it holds now; `is_withdrawn` says that it does not count."""
    found = await metrics.get_metric(read, metric_id)
    if found is None:
        raise NotFound("metric", metric_id)
    tagged(response, found.version)
    return found


@router.get("/{metric_id}/history", summary="The history of a figure", responses=documented(404))
async def metric_history(
    metric_id: Annotated[Id, Path()],
    read: Annotated[ReadModels, reading("metrics.history")],
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[HistoryEntry]:
    """What was recorded, corrected and withdrawn, in words."""
    return await history_of(read, metric_stream(metric_id), "metric", metric_id, cursor, limit)
