"""Anomaly review: is an order, or the last movement of a stock, unusual enough to be looked at?

Nobody labels the usual. The model learns to tell real cases from made-up ones, whose values are
each real but do not belong together (Hastie, Tibshirani and Friedman, The Elements of Statistical
Learning, 14.2.4: unsupervised as supervised learning). What looks made up is unusual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from polars import col, when

from commands.decisions import Subject
from commands.handler import Read
from commands.orders import order_stream
from commands.sites import site_stream
from domain.decisions import Weights
from domain.errors import Refused
from domain.inventory import StockAdjusted, StockPicked, StockReceived
from domain.orders import ORDERS, OrderPlaced, Status
from domain.sites import SITES, must_be_known
from domain.values import Event, money
from ml.history import join
from ml.kind import Examples, Feature, History, Kind, Past, Request, Source
from ml.tables import CUSTOMER, ORDER, STOCK

#: What looking at a case costs: some minutes of a person.
REVIEW_MINOR = 500
#: One made-up case for so many real ones.
REAL_FOR_ONE = 10

# features

_IS_MOVEMENT = col("sku").is_not_null()
_MOVED = col("stock__last_quantity").cast(pl.Float64).abs()
_UNITS = col("order__units").cast(pl.Float64)
_QUANTITY = when(_IS_MOVEMENT).then(_MOVED).otherwise(_UNITS)
_RECEIPT = col("stock__last_kind") == "receipt"
_PICK = col("stock__last_kind") == "pick"
_AT = when(_IS_MOVEMENT).then(col("stock__last_at")).otherwise(col("order__placed_at"))


def _mean(total: str, count: str) -> pl.Expr:
    return when(col(count) > 0).then(col(total).cast(pl.Float64) / col(count))


_USUAL = (
    when(_RECEIPT)
    .then(_mean("stock__received", "stock__receipts"))
    .when(_PICK)
    .then(_mean("stock__picked", "stock__picks"))
    .when(~_IS_MOVEMENT)
    .then(_mean("customer__units", "customer__orders"))
)

FEATURES = (
    Feature(
        "is_movement",
        _IS_MOVEMENT.cast(pl.Int8),
        "it is a movement of stock ({value:.0f}: 1 is yes)",
        "it is a movement of stock ({value:.0f}: 1 is yes)",
    ),
    Feature("quantity", _QUANTITY, "{value:.0f} pieces are many", "{value:.0f} pieces are usual"),
    Feature(
        "usual_quantity",
        _USUAL,
        "{value:.1f} pieces are usual here",
        "{value:.1f} pieces are usual here",
    ),
    Feature(
        "quantity_vs_usual",
        when(col("usual_quantity") > 0).then(col("quantity") / col("usual_quantity")),
        "it is {value:.1f} times the usual quantity",
        "it is {value:.1f} times the usual quantity",
        derived=True,
    ),
    Feature(
        "is_receipt",
        (_IS_MOVEMENT & _RECEIPT.fill_null(False)).cast(pl.Int8),
        "goods came in ({value:.0f}: 1 is yes)",
        "goods came in ({value:.0f}: 1 is yes)",
    ),
    Feature(
        "is_adjustment",
        (_IS_MOVEMENT & (col("stock__last_kind") == "adjustment").fill_null(False)).cast(pl.Int8),
        "a count or breakage changed the stock ({value:.0f}: 1 is yes)",
        "a count or breakage changed the stock ({value:.0f}: 1 is yes)",
    ),
    Feature(
        "on_hand_after",
        when(_IS_MOVEMENT).then(col("stock__on_hand").cast(pl.Float64)),
        "{value:.0f} pieces are there now",
        "{value:.0f} pieces are there now",
    ),
    Feature(
        "movements",
        when(_IS_MOVEMENT).then(
            col("stock__receipts") + col("stock__picks") + col("stock__adjustments")
        ),
        "{value:.0f} movements are known of this stock",
        "{value:.0f} movements are known of this stock",
        of_the_world=True,
    ),
    Feature(
        "goods_value",
        col("order__goods_minor") / 100.0,
        "the goods are worth {value:.2f}",
        "the goods are worth {value:.2f}",
    ),
    Feature(
        "unit_price",
        when(_UNITS > 0).then(col("order__goods_minor") / 100.0 / _UNITS),
        "a piece costs {value:.2f}",
        "a piece costs {value:.2f}",
    ),
    Feature(
        "value_vs_usual",
        when(col("customer__goods_minor") > 0).then(
            col("order__goods_minor") * col("customer__orders") / col("customer__goods_minor")
        ),
        "it is worth {value:.1f} times the customer's usual order",
        "it is worth {value:.1f} times the customer's usual order",
    ),
    Feature(
        "customer_orders",
        when(~_IS_MOVEMENT).then(col("customer__orders")),
        "the customer has placed {value:.0f} orders",
        "the customer has placed {value:.0f} orders",
        of_the_world=True,
    ),
    Feature("lines", col("order__lines"), "it has {value:.0f} lines", "it has {value:.0f} lines"),
    Feature(
        "unit_weight_kg",
        when(_UNITS > 0).then(col("order__weight_g") / 1000.0 / _UNITS),
        "a piece weighs {value:.2f} kg",
        "a piece weighs {value:.2f} kg",
    ),
    Feature(
        "promised_days",
        (col("order__promised_at") - col("order__placed_at")).dt.total_seconds() / 86_400.0,
        "{value:.1f} days were promised",
        "{value:.1f} days were promised",
    ),
    Feature(
        "hour",
        _AT.dt.hour(),
        "it came at {value:.0f} o'clock UTC",
        "it came at {value:.0f} o'clock",
    ),
    Feature(
        "weekday",
        _AT.dt.weekday(),
        "it came on weekday {value:.0f} (1 is Monday)",
        "it came on weekday {value:.0f} (1 is Monday)",
    ),
)

# candidates

_VERDICTS = ("pass", "review")


async def enumerate_candidates(requests: Sequence[Request], history: History) -> pl.DataFrame:
    """To let it pass, or to have it reviewed. What is not on the log has no candidate."""
    subjects = [request.event.subject_id.partition("/") for request in requests]
    frame = pl.DataFrame(
        {
            "request": list(range(len(requests))),
            "organisation_id": [request.organisation_id for request in requests],
            "position": [request.position for request in requests],
            "subject_id": [request.event.subject_id for request in requests],
            "order_id": [None if sku else name for name, _, sku in subjects],
            "site_id": [name if sku else None for name, _, sku in subjects],
            "sku": [sku or None for _, _, sku in subjects],
        },
        schema={
            "request": pl.Int64,
            "organisation_id": pl.String,
            "position": pl.Int64,
            "subject_id": pl.String,
            "order_id": pl.String,
            "site_id": pl.String,
            "sku": pl.String,
        },
    )
    for source in SOURCES[:2]:
        frame = await join(frame, source.alias, source.table, history, source.keys)
    known = col("order__placed_at").is_not_null() | col("stock__last_kind").is_not_null()
    verdicts = pl.DataFrame({"verdict": _VERDICTS})
    return frame.filter(known).join(verdicts, how="cross").sort("request", "verdict")


SOURCES = (
    Source("order", ORDER),
    Source("stock", STOCK),
    Source("customer", CUSTOMER, {"customer_id": col("order__customer_id")}),
)

# what it learns from

_FIELDS: Mapping[type[Event], set[str]] = {
    OrderPlaced: {"order_id", "placed_at"},
    StockReceived: {"site_id", "sku", "received_at"},
    StockPicked: {"site_id", "sku", "picked_at"},
    StockAdjusted: {"site_id", "sku", "adjusted_at"},
}
#: What is shuffled among orders, and among movements, each column by itself.
_OF_ORDERS = (
    "order__units",
    "order__goods_minor",
    "order__lines",
    "order__weight_g",
    "order__placed_at",
    "order__promised_at",
    "customer__units",
    "customer__goods_minor",
)
_OF_MOVEMENTS = (
    "stock__last_quantity",
    "stock__last_kind",
    "stock__last_at",
    "stock__on_hand",
    "stock__picked",
    "stock__received",
)


def cases(past: Past) -> pl.DataFrame:
    """Every order and every movement of stock, as of itself."""
    at: Mapping[type[Event], str] = {
        OrderPlaced: "placed_at",
        StockReceived: "received_at",
        StockPicked: "picked_at",
        StockAdjusted: "adjusted_at",
    }
    found: list[pl.DataFrame] = []
    for event, moment in at.items():
        frame = past.frames.get(event)
        if frame is not None:
            named = [
                col(name) if name in frame.columns else pl.lit(None, pl.String).alias(name)
                for name in ("order_id", "site_id", "sku")
            ]
            found.append(
                frame.select("organisation_id", "position", *named, at=moment).drop_nulls("at")
            )
    if not found:
        return pl.DataFrame(schema={"position": pl.Int64})
    return (
        pl.concat(found)
        .sort("position")
        .with_columns(
            pl.lit(False).alias("occurred"),
            col("position").alias("known"),
            when(col("sku").is_null())
            .then(pl.lit("order"))
            .otherwise(pl.lit("stock movement"))
            .alias("subject"),
        )
    )


def made_up(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows, and behind every tenth of them one whose values are drawn from different rows of
    its sort. Drawn with a fixed seed."""
    chance = np.random.default_rng(7)
    made = []
    for subject, columns in (("order", _OF_ORDERS), ("stock movement", _OF_MOVEMENTS)):
        mine = rows.filter(col("subject") == subject)
        if mine.is_empty():
            continue
        some = mine.gather_every(REAL_FOR_ONE)
        drawn = [
            mine[name].gather(chance.integers(mine.height, size=some.height)) for name in columns
        ]
        made.append(some.with_columns(drawn).with_columns(pl.lit(True).alias("occurred")))
    return pl.concat([rows, *made]).sort("position", maintain_order=True)


def _summary(chosen: Mapping[str, Any]) -> str:
    what = "The last movement of stock" if chosen["sku"] else "Order"
    said = "let it pass" if chosen["verdict"] == "pass" else "have it reviewed"
    cost = money(chosen["cost_minor"], chosen["currency"])
    return f"{what} {chosen['subject_id']}: {said}, cost {cost}"


def _subject(subject_id: str, state: Any) -> None:
    site_id, _, sku = subject_id.partition("/")
    if sku:
        must_be_known(state, site_id)
    elif state.status is Status.UNKNOWN:
        raise Refused("order.unknown", order_id=subject_id)


def _reads(subject_id: str) -> list[Read]:
    site_id, _, sku = subject_id.partition("/")
    return [Read(site_stream(site_id), SITES) if sku else Read(order_stream(subject_id), ORDERS)]


_PASSES = col("verdict") == "pass"

ANOMALY = Kind(
    name="anomaly",
    subject=Subject(reads=_reads, rule=_subject, weights=Weights(risk_minor=2_500)),
    warning="be unusual and pass unseen",
    tables=(ORDER, STOCK, CUSTOMER),
    sources=SOURCES,
    features=FEATURES,
    constraints=(),
    enumerate=enumerate_candidates,
    nothing="no such order or stock is on the log",
    option=("verdict",),
    cost_minor=when(_PASSES).then(0).otherwise(REVIEW_MINOR),
    carbon_g=pl.lit(0),
    value_minor=col("order__goods_minor"),
    currency=col("order__currency"),
    exposure=when(_PASSES).then(1.0).otherwise(0.0),
    summary=_summary,
    examples=Examples(
        fields=_FIELDS,
        rows=cases,
        query="every order and every movement of stock, as of itself, and for every tenth one made "
        "up of values of others; occurred: it is made up",
        contrast=made_up,
        segments=("subject",),
    ),
)
