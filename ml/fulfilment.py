"""Fulfilment: from which site and by which service level an order goes, and will it be late."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from polars import col, when

from domain import catalogue
from domain.decisions import RecordOutcome
from domain.orders import OrderDelivered
from eventstore import StoredEvent
from ml.history import join
from ml.kind import Constraint, Feature, History, Kind, Outcome, Request, Source
from ml.tables import (
    CHAMPION,
    DECIDED,
    LANE,
    LANE_SERVICE,
    ORDER,
    OVERALL,
    REGION,
    SERVICE,
    SITE,
    SITE_DAY,
    STOCK,
)

# features

_DAY = 86_400.0


def _share(alias: str) -> pl.Expr:
    """Late share, drawn towards the overall one by five imagined deliveries (smoothing)."""
    overall = (col("all__late") + 1) / (col("all__delivered") + 10)
    return (col(f"{alias}__late") + 5 * overall) / (col(f"{alias}__delivered") + 5)


def _mean(sum_s: str, n: str, unit: float) -> pl.Expr:
    return when(col(n) > 0).then(col(sum_s) / col(n) / unit)


_BACKLOG = col("site__allocated") - col("site__shipped") - col("site__cancelled")
_PROMISED = (col("order__promised_at") - col("order__placed_at")).dt.total_seconds()
_HANDLING = _mean("site__handling_s", "site__handled", _DAY)
_TRANSIT = pl.coalesce(
    _mean("lane_service__transit_s", "lane_service__transits", _DAY),
    _mean("lane__transit_s", "lane__transits", _DAY),
    _mean("region__transit_s", "region__transits", _DAY),
)

FEATURES = (
    Feature(
        "promised_days",
        _PROMISED / _DAY,
        "only {value:.1f} days were promised",
        "{value:.1f} days were promised, which leaves room",
    ),
    Feature(
        "slack_days",
        _PROMISED / _DAY - _HANDLING - _TRANSIT,
        "usual handling and transit leave {value:.1f} days of slack",
        "usual handling and transit leave {value:.1f} days of slack",
    ),
    Feature(
        "site_backlog",
        _BACKLOG,
        "{value:.0f} orders wait at site {site_id}",
        "{value:.0f} orders wait at site {site_id}",
    ),
    Feature(
        "site_handling_days",
        _HANDLING,
        "site {site_id} takes {value:.1f} days to hand over",
        "site {site_id} hands over within {value:.1f} days",
    ),
    Feature(
        "site_late_share",
        _share("site"),
        "{value:.0%} of the orders of site {site_id} were late",
        "only {value:.0%} of the orders of site {site_id} were late",
    ),
    Feature(
        "lane_late_share",
        _share("lane"),
        "{value:.0%} were late from {site_id} to {region}",
        "only {value:.0%} were late from {site_id} to {region}",
    ),
    Feature(
        "lane_deliveries",
        col("lane__delivered"),
        "{value:.0f} deliveries are known from {site_id} to {region}",
        "{value:.0f} deliveries are known from {site_id} to {region}",
    ),
    Feature(
        "lane_service_late_share",
        _share("lane_service"),
        "{value:.0%} were late by {service_level} from {site_id} to {region}",
        "only {value:.0%} were late by {service_level} from {site_id} to {region}",
    ),
    Feature(
        "transit_days",
        _TRANSIT,
        "the way to {region} by {service_level} takes {value:.1f} days",
        "the way to {region} by {service_level} takes only {value:.1f} days",
    ),
    Feature(
        "service_late_share",
        _share("service"),
        "{value:.0%} of {service_level} deliveries were late",
        "only {value:.0%} of {service_level} deliveries were late",
    ),
    Feature(
        "region_late_share",
        _share("region"),
        "{value:.0%} of the deliveries to {region} were late",
        "only {value:.0%} of the deliveries to {region} were late",
    ),
    Feature(
        "same_region",
        (col("site__region") == col("region")).cast(pl.Int8),
        "site {site_id} is in another region",
        "site {site_id} is in the same region",
    ),
    Feature(
        "weight_kg",
        col("order__weight_g") / 1000.0,
        "the parcel weighs {value:.1f} kg",
        "the parcel weighs only {value:.1f} kg",
    ),
    Feature(
        "units",
        col("order__units").cast(pl.Float64),
        "the order has {value:.0f} units",
        "the order has only {value:.0f} units",
    ),
    Feature(
        "lines",
        col("order__lines"),
        "the order has {value:.0f} lines",
        "the order has only {value:.0f} lines",
    ),
    Feature(
        "weekday",
        col("order__placed_at").dt.weekday(),
        "it was placed on weekday {value:.0f} (1 is Monday)",
        "it was placed on weekday {value:.0f} (1 is Monday)",
    ),
    Feature(
        "hour",
        col("order__placed_at").dt.hour(),
        "it was placed at {value:.0f} o'clock UTC",
        "it was placed at {value:.0f} o'clock UTC",
    ),
)

# hard constraints

CONSTRAINTS = (
    Constraint("site.closed", ~col("site__is_open").fill_null(False), "site {site_id} is closed"),
    Constraint(
        "site.capacity_used_up",
        col("site_day__allocated") >= col("site__daily_capacity"),
        "site {site_id} has used up its capacity of {site__daily_capacity} orders that day",
    ),
    Constraint(
        "stock.not_enough",
        # A site without any receipt does not keep its stock here; then it is not judged.
        (col("site__receipts") > 0) & (col("short_lines") > 0),
        "site {site_id} lacks stock for {short_lines} of the lines",
    ),
    Constraint(
        "service_level.too_heavy",
        col("order__weight_g") > col("max_weight_g"),
        "{service_level} carries {max_weight_g} g at most, too little for {order__weight_g} g",
    ),
)

# candidates

#: Sites that are considered for one order: those that lack the fewest of its lines, then by id.
MAX_SITES = 50


async def enumerate_candidates(requests: Sequence[Request], history: History) -> pl.DataFrame:
    """Every site that may sell the order, open or closed, by every service level it offers.

    An order whose first line is sold by one site only has that site as its one candidate site.
    An order whose lines were never recorded has none.
    """
    frame = pl.DataFrame(
        {
            "request": list(range(len(requests))),
            "organisation_id": [request.organisation_id for request in requests],
            "position": [request.position for request in requests],
            "order_id": [request.event.subject_id for request in requests],
            "day": [request.event.requested_at.date() for request in requests],
        },
        schema_overrides={"request": pl.Int64, "position": pl.Int64, "day": pl.Date},
    )
    frame = await join(frame, "order", ORDER, history)
    lines = [_lines(placed) for placed in frame["order__placed"]]
    frame = frame.with_columns(
        pl.col("order__region").alias("region"),
        pl.Series("sold_by", [sold_by for sold_by, _ in lines], pl.String),
    ).drop("order__placed")
    frame = frame.filter(col("order__lines") > 0)
    sites = [
        (await history.every(SITE, organisation_id))
        .filter(pl.col("opened").is_not_null())
        .select("organisation_id", "site_id")
        .unique(maintain_order=True)
        for organisation_id in dict.fromkeys(frame["organisation_id"])
    ]
    known = pl.concat(sites) if sites else frame.select("organisation_id", site_id="order_id")
    frame = (
        frame.join(known, on="organisation_id", how="inner")
        .filter(col("sold_by").is_null() | (col("sold_by") == col("site_id")))
        .sort("request", "site_id")
    )
    frame = await join(frame, "site", SITE, history)
    frame = frame.filter(col("site__opened").is_not_null())
    frame = await _with_stock(frame, [wanted for _, wanted in lines], history)
    frame = (
        frame.sort("request", "short_lines", "site_id")
        .group_by("request", maintain_order=True)
        .head(MAX_SITES)
    )
    return _with_service_levels(frame)


def _lines(placed: str | None) -> tuple[str | None, dict[str, str]]:
    """Who sells the order's first line, and how much of each SKU is wanted."""
    lines = json.loads(placed)["lines"] if placed else []
    wanted: dict[str, str] = {line["sku"]: line["quantity"] for line in lines}
    return (lines[0]["site_id"] if lines else None), wanted


async def _with_stock(
    frame: pl.DataFrame, wanted: Sequence[Mapping[str, str]], history: History
) -> pl.DataFrame:
    """``short_lines``: of how many of the wanted SKUs the site has too little."""
    rows = [
        (request, sku, quantity)
        for request, skus in enumerate(wanted)
        for sku, quantity in skus.items()
    ]
    lines = pl.DataFrame(
        rows,
        schema={"request": pl.Int64, "sku": pl.String, "quantity": pl.String},
        orient="row",
    ).with_columns(pl.col("quantity").cast(pl.Decimal(38, 3)))
    pairs = frame.select("request", "organisation_id", "position", "site_id").join(
        lines, on="request", how="inner", maintain_order="left_right"
    )
    short = (
        (await join(pairs, "stock", STOCK, history))
        .group_by("request", "site_id")
        .agg((col("stock__on_hand") < col("quantity")).sum().cast(pl.Int64).alias("short_lines"))
    )
    return frame.join(
        short, on=["request", "site_id"], how="left", maintain_order="left"
    ).with_columns(col("short_lines").fill_null(0))


def _with_service_levels(frame: pl.DataFrame) -> pl.DataFrame:
    level = pl.List(
        pl.Struct(
            {
                "code": pl.String,
                "cost_minor": pl.Int64,
                "carbon_g": pl.Int64,
                "max_weight_g": pl.Int64,
            }
        )
    )
    opened = pl.Struct({"service_levels": level})
    return (
        frame.with_columns(
            col("site__opened")
            .str.json_decode(opened)
            .struct.field("service_levels")
            .alias("level")
        )
        .drop("site__opened")
        .explode("level")
        .unnest("level")
        .rename({"code": "service_level"})
        .sort("request", "site_id", "service_level")
    )


def _summary(chosen: Mapping[str, Any]) -> str:
    cost = chosen["cost_minor"] / 100
    return (
        f"Ship order {chosen['order_id']} from site {chosen['site_id']} by "
        f"{chosen['service_level']}: {chosen['probability']:.1%} risk of being late, "
        f"cost {cost:.2f} {chosen['order__currency']}"
    )


async def find_outcomes(events: Sequence[StoredEvent], history: History) -> list[Outcome]:
    """Deliveries of orders that were decided on."""
    stored = [event for event in events if catalogue.type_of(event.topic) is OrderDelivered]
    if not stored:
        return []
    states = [catalogue.present(event.topic, event.state)[1] for event in stored]
    delivered = [OrderDelivered.model_validate_json(state) for state in states]
    frame = pl.DataFrame(
        {
            "organisation_id": [str(event.organisation_id) for event in stored],
            "order_id": [event.order_id for event in delivered],
            "position": [event.position for event in stored],
        }
    )
    decided = await join(frame, "decided", DECIDED, history)
    found: list[Outcome] = []
    columns = decided.select("decided__decision_id", "decided__made").iter_rows()
    for cause, event, (decision_id, made) in zip(stored, delivered, columns, strict=True):
        if decision_id is None:
            continue
        option = json.loads(made)["option"]
        done = {"site_id": event.site_id, "service_level": event.service_level}
        outcome = RecordOutcome(
            decision_id=decision_id,
            late=event.late,
            followed=option == done,
            known_at=event.delivered_at,
        )
        found.append((cause, outcome))
    return found


FULFILMENT = Kind(
    name="fulfilment",
    sources=(
        Source("order", ORDER),
        Source("site", SITE),
        Source("site_day", SITE_DAY),
        Source("lane", LANE),
        Source("lane_service", LANE_SERVICE),
        Source("service", SERVICE),
        Source("region", REGION),
        Source("all", OVERALL),
    ),
    tables=(
        ORDER,
        SITE,
        SITE_DAY,
        LANE,
        LANE_SERVICE,
        SERVICE,
        REGION,
        OVERALL,
        STOCK,
        CHAMPION,
        DECIDED,
    ),
    features=FEATURES,
    constraints=CONSTRAINTS,
    enumerate=enumerate_candidates,
    option=("site_id", "service_level"),
    cost_minor=col("cost_minor"),
    carbon_g=col("carbon_g"),
    summary=_summary,
    outcomes=find_outcomes,
)
