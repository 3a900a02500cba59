"""Fulfilment: from which site, by which service level and vehicle an order goes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from polars import col, when

from commands.decisions import Subject
from commands.handler import Read
from commands.orders import order_stream
from domain.decisions import DecisionMade, RecordOutcome
from domain.orders import ORDERS, Order, OrderDelivered, OrderPlaced, must_be_open
from domain.values import Event, money
from eventstore import StoredEvent
from ml.history import join
from ml.kind import (
    Constraint,
    Examples,
    Feature,
    History,
    Kind,
    Lever,
    Outcome,
    Past,
    Request,
    Source,
)
from ml.outcomes import opened
from ml.tables import (
    DELIVERY,
    LANE,
    LANE_SERVICE,
    ORDER,
    OVERALL,
    REGION,
    ROUTE,
    SERVICE,
    SITE,
    SITE_DAY,
    STOCK,
    VEHICLE,
    VEHICLE_DAY,
    VEHICLE_RECORD,
)
from projections.frames import decode
from projections.schema import MOMENT
from projections.table import Table

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
        lever=Lever(0.5, 30),
    ),
    Feature(
        "slack_days",
        col("promised_days") - col("site_handling_days") - col("transit_days"),
        "usual handling and transit leave {value:.1f} days of slack",
        "usual handling and transit leave {value:.1f} days of slack",
        derived=True,
    ),
    Feature(
        "site_backlog",
        _BACKLOG,
        "{value:.0f} orders wait at site {site_id}",
        "{value:.0f} orders wait at site {site_id}",
        lever=Lever(0, 500, shared=("site_id",)),
        of_the_world=True,
    ),
    Feature(
        "site_handling_days",
        _HANDLING,
        "site {site_id} takes {value:.1f} days to hand over",
        "site {site_id} hands over within {value:.1f} days",
        lever=Lever(0.1, 14, shared=("site_id",)),
        of_the_world=True,
    ),
    Feature(
        "site_late_share",
        _share("site"),
        "{value:.0%} of the orders of site {site_id} were late",
        "only {value:.0%} of the orders of site {site_id} were late",
        of_the_world=True,
    ),
    Feature(
        "lane_late_share",
        _share("lane"),
        "{value:.0%} were late from {site_id} to {region}",
        "only {value:.0%} were late from {site_id} to {region}",
        of_the_world=True,
    ),
    Feature(
        "lane_deliveries",
        col("lane__delivered"),
        "{value:.0f} deliveries are known from {site_id} to {region}",
        "{value:.0f} deliveries are known from {site_id} to {region}",
        of_the_world=True,
    ),
    Feature(
        "lane_service_late_share",
        _share("lane_service"),
        "{value:.0%} were late by {service_level} from {site_id} to {region}",
        "only {value:.0%} were late by {service_level} from {site_id} to {region}",
        of_the_world=True,
    ),
    Feature(
        "transit_days",
        _TRANSIT,
        "the way to {region} by {service_level} takes {value:.1f} days",
        "the way to {region} by {service_level} takes only {value:.1f} days",
        lever=Lever(0.2, 30, shared=("site_id", "service_level")),
        of_the_world=True,
    ),
    Feature(
        "vehicle_late_share",
        _share("vehicle_record"),
        "{value:.0%} of what vehicle {vehicle_id} carried was late",
        "only {value:.0%} of what vehicle {vehicle_id} carried was late",
        of_the_world=True,
    ),
    Feature(
        "by_truck",
        (col("vehicle__mode") == "truck").cast(pl.Int8),
        "a truck would take it: {value:.0f} (1 is yes)",
        "a truck would take it: {value:.0f} (1 is yes)",
    ),
    Feature(
        "service_late_share",
        _share("service"),
        "{value:.0%} of {service_level} deliveries were late",
        "only {value:.0%} of {service_level} deliveries were late",
        of_the_world=True,
    ),
    Feature(
        "region_late_share",
        _share("region"),
        "{value:.0%} of the deliveries to {region} were late",
        "only {value:.0%} of the deliveries to {region} were late",
        of_the_world=True,
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
    Constraint(
        "service_level.cut_off_passed",
        col("asked_at").dt.time() > col("cut_off"),
        "{service_level} at site {site_id} takes no orders after {cut_off:%H:%M} UTC",
    ),
    Constraint(
        "sla.promise_cannot_be_kept",
        # Of an order that is overdue already, nothing can be demanded any more.
        (col("asked_at") < col("order__promised_at"))
        & (col("asked_at") + pl.duration(seconds=col("transit_s")) > col("order__promised_at")),
        "{service_level} is undertaken to arrive after the promised {order__promised_at:%d %b %Y}",
    ),
    Constraint(
        "route.forbidden",
        col("route__forbidden").fill_null(False),
        "site {site_id} may not send to {region}",
    ),
    Constraint(
        "vehicle.retired",
        col("vehicle__retired").fill_null(False),
        "vehicle {vehicle_id} is retired",
    ),
    Constraint(
        "vehicle.too_heavy",
        col("order__weight_g") > col("vehicle__max_weight_g"),
        "vehicle {vehicle_id} carries {vehicle__max_weight_g} g at most, "
        "too little for {order__weight_g} g",
    ),
    Constraint(
        "vehicle.capacity_used_up",
        col("vehicle_day__allocated") >= col("vehicle__daily_capacity"),
        "vehicle {vehicle_id} has used up its {vehicle__daily_capacity} orders of that day",
    ),
)

# candidates

#: Sites that are considered for one order: open ones first, then those that lack the fewest of its
#: lines, then by id. Vehicles of one site and service level: by id.
MAX_SITES = 50
MAX_VEHICLES = 20


async def enumerate_candidates(requests: Sequence[Request], history: History) -> pl.DataFrame:
    """Every site that may sell the order, open or closed, by every service level it offers and
    every vehicle that serves it (without a vehicle where the site has none).

    An order whose first line is sold by one site only has that site as its one candidate site.
    An order whose lines were never recorded has none.
    """
    frame = pl.DataFrame(
        {
            "request": list(range(len(requests))),
            "organisation_id": [request.organisation_id for request in requests],
            "position": [request.position for request in requests],
            "order_id": [request.event.subject_id for request in requests],
            "asked_at": [request.event.requested_at for request in requests],
        },
        schema_overrides={"request": pl.Int64, "position": pl.Int64, "asked_at": MOMENT},
    ).with_columns(col("asked_at").dt.date().alias("day"))
    frame = await join(frame, "order", ORDER, history)
    lines = [_lines(placed) for placed in frame["order__placed"]]
    frame = frame.with_columns(
        pl.col("order__region").alias("region"),
        pl.Series("sold_by", [sold_by for sold_by, _ in lines], pl.String),
    ).drop("order__placed")
    frame = frame.filter(col("order__lines") > 0)
    known = await _known(SITE, "opened", frame, history)
    frame = (
        frame.join(known, on="organisation_id", how="inner")
        .filter(col("sold_by").is_null() | (col("sold_by") == col("site_id")))
        .sort("request", "site_id")
    )
    frame = await join(frame, "site", SITE, history)
    frame = frame.filter(col("site__opened").is_not_null())
    frame = await _with_stock(frame, [wanted for _, wanted in lines], history)
    frame = (
        frame.sort(
            "request",
            col("site__is_open").fill_null(False),
            "short_lines",
            "site_id",
            descending=[False, True, False, False],
        )
        .group_by("request", maintain_order=True)
        .head(MAX_SITES)
    )
    return await _with_vehicles(_with_service_levels(frame), history)


async def _known(
    table: Table, registered: str, frame: pl.DataFrame, history: History
) -> pl.DataFrame:
    """The keys of all of an organisation's rows that have this column."""
    found = [
        (await history.every(table, organisation_id))
        .filter(col(registered).is_not_null())
        .select(table.keys)
        .unique(maintain_order=True)
        for organisation_id in dict.fromkeys(frame["organisation_id"])
    ]
    return pl.concat(found) if found else pl.DataFrame(schema=dict.fromkeys(table.keys, pl.String))


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


_LEVEL = pl.Struct(
    {
        "code": pl.String,
        "cost_minor": pl.Int64,
        "carbon_g": pl.Int64,
        "max_weight_g": pl.Int64,
        "transit_s": pl.Int64,
        "cut_off": pl.String,
    }
)


def _with_service_levels(frame: pl.DataFrame) -> pl.DataFrame:
    opened = pl.Struct({"service_levels": pl.List(_LEVEL)})
    # A site's levels are read once, not for each order.
    levels = (
        frame.select("site__opened")
        .unique(maintain_order=True)
        .with_columns(
            col("site__opened")
            .str.json_decode(opened)
            .struct.field("service_levels")
            .alias("level")
        )
        .explode("level")
        .unnest("level")
        .rename({"code": "service_level"})
        .with_columns(col("cut_off").str.to_time("%H:%M", strict=False))
    )
    return frame.join(levels, on="site__opened", how="inner").drop("site__opened")


async def _with_vehicles(frame: pl.DataFrame, history: History) -> pl.DataFrame:
    known = await _known(VEHICLE, "registered", frame, history)
    columns = ["organisation_id", "site_id"]
    if not known.is_empty():
        pairs = frame.select("request", "position", *columns).unique(maintain_order=True)
        fleet = await join(pairs.join(known, on=columns, how="inner"), "vehicle", VEHICLE, history)
        fleet = fleet.filter(col("vehicle__registered").is_not_null()).with_columns(
            col("vehicle__service_levels").str.split(",").alias("service_level")
        )
        fleet = fleet.explode("service_level").select(
            "request", "site_id", "service_level", "vehicle_id", "vehicle__retired"
        )
        fleet = (
            fleet.sort(col("vehicle__retired").fill_null(False), "vehicle_id")
            .group_by("request", "site_id", "service_level", maintain_order=True)
            .head(MAX_VEHICLES)
            .drop("vehicle__retired")
        )
        frame = frame.join(fleet, on=["request", "site_id", "service_level"], how="left")
    else:
        frame = frame.with_columns(pl.lit(None, pl.String).alias("vehicle_id"))
    return frame.sort("request", "site_id", "service_level", "vehicle_id")


def _summary(chosen: Mapping[str, Any]) -> str:
    vehicle = f" with {chosen['vehicle_id']}" if chosen["vehicle_id"] else ""
    return (
        f"Ship order {chosen['order_id']} from site {chosen['site_id']} by "
        f"{chosen['service_level']}{vehicle}: {chosen['risk']:.1%} risk of being late, "
        f"cost {money(chosen['cost_minor'], chosen['currency'])}"
    )


async def find_outcomes(events: Sequence[StoredEvent], history: History) -> list[Outcome]:
    """Deliveries of orders that were decided on, and decisions on orders that were delivered by
    the time they were made."""
    fields: Mapping[type[Event], set[str]] = {
        OrderDelivered: {"order_id"},
        DecisionMade: {"kind", "subject_id"},
    }
    frames = decode(events, fields)
    told = []
    if OrderDelivered in frames:
        told.append(
            frames[OrderDelivered].select(
                "organisation_id",
                "position",
                "order_id",
                kind=pl.lit("fulfilment"),
                subject_id="order_id",
            )
        )
    if DecisionMade in frames:
        mine = frames[DecisionMade].filter(col("kind") == "fulfilment")
        told.append(
            mine.select(
                "organisation_id", "position", "kind", "subject_id", order_id="subject_id"
            ).select(told[0].columns if told else pl.all())
        )
    if not told:
        return []
    frame = pl.concat(told)
    causes = {event.position: event for event in events}
    frame = await join(frame, "delivery", DELIVERY, history)
    frame = frame.filter(col("delivery__site_id").is_not_null())
    if frame.is_empty():
        return []
    found: list[Outcome] = []
    for row in (await opened(frame, history)).iter_rows(named=True):
        for decision in row["open"]:
            option = decision.option
            done = all(row[f"delivery__{name}"] == said for name, said in option.items())
            outcome = RecordOutcome(
                decision_id=decision.decision_id,
                occurred=row["delivery__late"],
                followed=bool(option) and done,
                known_at=row["delivery__delivered_at"],
            )
            found.append((causes[row["position"]], outcome))
    return found


def delivered_orders(past: Past) -> pl.DataFrame:
    """A row for each delivered order: as it went, as of its placement."""
    placed, delivered = past.frames.get(OrderPlaced), past.frames.get(OrderDelivered)
    if placed is None or delivered is None:
        return pl.DataFrame(schema={"position": pl.Int64})
    known = delivered.filter(col("late").is_not_null()).select(
        "organisation_id",
        "order_id",
        "site_id",
        "service_level",
        "vehicle_id",
        occurred="late",
        known="position",
    )
    rows = placed.select("organisation_id", "position", "order_id", "region", at="placed_at").join(
        known, on=["organisation_id", "order_id"], how="inner"
    )
    return rows.sort("position").with_columns(col("at").dt.date().alias("day"))


def _subject(order_id: str, order: Order) -> None:
    must_be_open(order, order_id)


_FIELDS: Mapping[type[Event], set[str]] = {
    OrderPlaced: {"order_id", "region", "placed_at"},
    OrderDelivered: {"order_id", "site_id", "service_level", "vehicle_id", "late"},
}

FULFILMENT = Kind(
    name="fulfilment",
    subject=Subject(reads=lambda order_id: [Read(order_stream(order_id), ORDERS)], rule=_subject),
    warning="be late",
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
        VEHICLE,
        VEHICLE_DAY,
        VEHICLE_RECORD,
        ROUTE,
        DELIVERY,
    ),
    sources=(
        Source("order", ORDER),
        Source("site", SITE),
        Source("site_day", SITE_DAY),
        Source("lane", LANE),
        Source("lane_service", LANE_SERVICE),
        Source("service", SERVICE),
        Source("region", REGION),
        Source("all", OVERALL),
        Source("vehicle", VEHICLE),
        Source("vehicle_day", VEHICLE_DAY),
        Source("vehicle_record", VEHICLE_RECORD),
        Source("route", ROUTE),
    ),
    features=FEATURES,
    constraints=CONSTRAINTS,
    enumerate=enumerate_candidates,
    nothing="the order's lines are not known, or no site may sell them",
    option=("site_id", "service_level", "vehicle_id"),
    cost_minor=col("cost_minor") + col("vehicle__cost_minor").fill_null(0),
    carbon_g=pl.max_horizontal(col("carbon_g") + col("vehicle__carbon_g").fill_null(0), 0),
    value_minor=col("order__goods_minor"),
    currency=col("order__currency"),
    summary=_summary,
    outcomes=find_outcomes,
    examples=Examples(
        fields=_FIELDS,
        rows=delivered_orders,
        query="every delivered order whose delivery time is known, with the site, service level "
        "and vehicle that it went by, as of its placement; occurred: delivered after the promise",
        baseline="lane_late_share",
        segments=("region", "site_id", "service_level"),
    ),
)
