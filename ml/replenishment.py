"""Replenishment: whether to order more of an article for a site now or later, and how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
from polars import col, when

from commands.decisions import Subject
from commands.handler import Read
from commands.sites import site_stream
from domain.decisions import RecordOutcome, Weights
from domain.errors import Refused
from domain.inventory import StockAdjusted, StockPicked, StockReceived
from domain.sites import SITES, Site, must_be_open
from domain.values import Event
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
from ml.outcomes import Open, opened
from ml.tables import ARTICLE, RECEIPTS, REQUEST, SITE, STOCK, STOCK_WEEK
from projections.frames import decode
from projections.schema import MOMENT, DataType

#: The log knows no suppliers yet: goods come a week after they are ordered, and what is ordered
#: now has to last until those of the next weekly order come.
LEAD_DAYS = 7
REVIEW_DAYS = 7
#: For how many days an order may be meant to last.
COVERS = (14, 28, 42, 56)
#: What an order costs whatever its size, and what keeping goods costs, as a share of their price.
ORDER_MINOR = 1500
HOLDING_A_YEAR = 0.25
#: Carbon of a delivery, and of each kilogram in it.
DELIVERY_G = 2000
CARBON_PER_KG = 60

# features

_WEEKS = tuple(f"week_{number}" for number in (1, 2, 3, 4))


def _number(name: str) -> pl.Expr:
    """An exact quantity as a float."""
    return col(name).cast(pl.Float64)


_PICKED = [_number(f"{week}__picked").fill_null(0.0) for week in _WEEKS]
_A_DAY = pl.sum_horizontal(_PICKED) / 28.0
_AGE_DAYS = pl.max_horizontal(
    (col("asked_at") - col("stock__first_at")).dt.total_seconds() / 86_400.0, 7.0
)
_SINCE_EVER = _number("stock__picked") / _AGE_DAYS
#: What usually goes in a day: of the last four weeks, or since the first one where nothing went.
_USUAL = when(_A_DAY > 0).then(_A_DAY).when(_SINCE_EVER > 0).then(_SINCE_EVER)

# Only shares and days: a model that has seen small quantities says the same of large ones.
FEATURES = (
    Feature(
        "days_covered",
        col("available") / _USUAL,
        "what would be there usually goes in {value:.0f} days",
        "what would be there usually lasts {value:.0f} days",
        monotone=-1,
    ),
    Feature(
        "days",
        col("days"),
        "it has to last for {value:.0f} days",
        "it has to last for {value:.0f} days only",
        lever=Lever(1, 28, shared=("order",)),
        monotone=1,
    ),
    Feature(
        "cover",
        col("days_covered") / col("days"),
        "that is {value:.1f} times what usually goes in this time",
        "that is {value:.1f} times what usually goes in this time",
        derived=True,
        monotone=-1,
    ),
    Feature(
        "recent_vs_ever",
        when(_SINCE_EVER > 0).then(_A_DAY / _SINCE_EVER),
        "in the last four weeks {value:.1f} times as much went as on the long average",
        "in the last four weeks {value:.1f} times as much went as on the long average",
    ),
    Feature(
        "last_week_vs_usual",
        _PICKED[0] / 7.0 / _USUAL,
        "last week {value:.1f} times as much went as usual",
        "last week {value:.1f} times as much went as usual",
    ),
    Feature(
        "busiest_week_vs_usual",
        pl.max_horizontal(_PICKED) / 7.0 / _USUAL,
        "in the busiest of four weeks {value:.1f} times as much went as usual",
        "in the busiest of four weeks {value:.1f} times as much went as usual",
    ),
    Feature(
        "picks_a_day",
        _USUAL * col("stock__picks") / _number("stock__picked"),
        "it is picked {value:.2f} times a day",
        "it is picked {value:.2f} times a day",
    ),
    Feature(
        "month",
        col("asked_at").dt.month(),
        "it is month {value:.0f} of the year",
        "it is month {value:.0f} of the year",
        of_the_world=True,
    ),
)

CONSTRAINTS = (
    Constraint("site.closed", ~col("site__is_open").fill_null(False), "site {site_id} is closed"),
    Constraint(
        "quantity.beyond_experience",
        _number("quantity") > 5.0 * _number("stock__largest_receipt"),
        "{quantity} is more than five times the largest delivery so far, {stock__largest_receipt}",
    ),
)

# candidates

_SCHEMA: Mapping[str, DataType] = {
    "request": pl.Int64(),
    "organisation_id": pl.String(),
    "position": pl.Int64(),
    "site_id": pl.String(),
    "sku": pl.String(),
    "asked_at": MOMENT,
}


async def enumerate_candidates(requests: Sequence[Request], history: History) -> pl.DataFrame:
    """Order now so much that it lasts 2, 4, 6 or 8 weeks, or ask again in one or two weeks.

    An article that the site never had has no candidate.
    """
    subjects = [request.event.subject_id.partition("/") for request in requests]
    frame = pl.DataFrame(
        {
            "request": list(range(len(requests))),
            "organisation_id": [request.organisation_id for request in requests],
            "position": [request.position for request in requests],
            "site_id": [site_id for site_id, _, _ in subjects],
            "sku": [sku for _, _, sku in subjects],
            "asked_at": [request.event.requested_at for request in requests],
        },
        schema=_SCHEMA,
    ).with_columns(_monday("asked_at"))
    frame = await join(frame, "stock", STOCK, history)
    frame = frame.filter(col("stock__first_at").is_not_null())
    for source in _SOURCES:
        if source.alias in _WEEKS:
            frame = await join(frame, source.alias, source.table, history, source.keys)
    plans = pl.DataFrame(
        {
            "order": ["in_14_days", "in_7_days", *["now"] * len(COVERS)],
            "lasts": [0, 0, *COVERS],
            "days": [21, 14, *[LEAD_DAYS + REVIEW_DAYS] * len(COVERS)],
        }
    )
    on_hand = pl.max_horizontal(_number("stock__on_hand"), 0.0)
    usual = _USUAL.fill_null(0.0)
    pieces = when(col("lasts") > 0).then((usual * col("lasts") - on_hand).ceil()).otherwise(0.0)
    return (
        frame.join(plans, how="cross")
        .with_columns(pieces.clip(lower_bound=0.0).cast(pl.Int64).alias("pieces"))
        # An order of nothing is none; two of one size are one.
        .filter((col("lasts") == 0) | (col("pieces") > 0))
        .unique(["request", "order", "pieces"], maintain_order=True)
        .with_columns(
            (on_hand + col("pieces")).alias("available"),
            col("pieces").cast(pl.String).alias("quantity"),
            col("pieces").max().over("request").alias("most"),
        )
        .sort("request", "order", "pieces")
    )


def _monday(at: str, name: str = "asked_week") -> pl.Expr:
    return col(at).dt.truncate("1w").dt.date().alias(name)


_SOURCES = (
    Source("stock", STOCK),
    *(
        Source(week, STOCK_WEEK, {"week": col("asked_week").dt.offset_by(f"-{number}w")})
        for number, week in enumerate(_WEEKS, 1)
    ),
    Source("article", ARTICLE),
    Source("site", SITE),
)

# what it learns from

_HORIZONS = (7, 14, 21, 28)
#: Stocks that there might have been, as multiples of what usually goes in the time, and in pieces
#: beside: what hardly ever goes has to be learned too.
_COVERS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
_PIECES = (0, 1, 2, 4)
_FIELDS: Mapping[type[Event], set[str]] = {
    StockPicked: {"site_id", "sku", "quantity", "picked_at"},
    StockReceived: {"site_id", "sku", "received_at"},
}


def demands(past: Past) -> pl.DataFrame:
    """What was asked for after each receipt and each fifth pick, against stocks that there might
    have been: would so many pieces have lasted for so many days?

    What left the shelf says what was wanted as long as the shelf was not empty; it hardly ever is.
    """
    picks, receipts = past.frames.get(StockPicked), past.frames.get(StockReceived)
    if picks is None or receipts is None:
        return pl.DataFrame(schema={"position": pl.Int64})
    picked = picks.select(*_STOCK, "position", "quantity", at="picked_at").drop_nulls("at")
    anchors = pl.concat(
        [
            picked.gather_every(5).select(*_STOCK, "position", "at"),
            receipts.select(*_STOCK, "position", at="received_at").drop_nulls("at"),
        ]
    ).sort("position")
    number = pl.int_range(pl.len())
    anchors = anchors.with_columns(
        pl.lit(_HORIZONS).list.get(number % len(_HORIZONS)).cast(pl.Int64).alias("days"),
        pl.lit(_COVERS).list.get((number // len(_HORIZONS)) % len(_COVERS)).alias("cover"),
        pl.lit(_PIECES).list.get((number // 3) % len(_PIECES)).alias("pieces"),
        (col("at") - pl.duration(days=28)).alias("month_ago"),
    ).with_columns((col("at") + pl.duration(days=col("days"))).alias("until"))
    # How many had left the shelf by a moment.
    gone = (
        picked.sort("at")
        .with_columns(_number("quantity").cum_sum().over(_STOCK).alias("gone"))
        .select(*_STOCK, "at", "gone")
    )
    for moment in ("month_ago", "at", "until"):
        anchors = _gone_by(anchors, gone, moment)
    # The outcome is known with the first event of the log that is later than its time.
    clock = picked.sort("at").select(col("at").alias("then"), col("position").alias("known"))
    anchors = anchors.sort("until").join_asof(
        clock, left_on="until", right_on="then", strategy="forward"
    )
    usual = (col("gone_at") - col("gone_month_ago")) / 28.0 * col("days")
    return (
        anchors.drop_nulls("known")
        .with_columns((usual * col("cover")).round().clip(col("pieces")).alias("available"))
        .with_columns(
            (col("gone_until") - col("gone_at") > col("available")).alias("occurred"),
            pl.max_horizontal("known", "position").alias("known"),
            col("at").alias("asked_at"),
            _monday("at"),
        )
        .sort("position")
    )


_STOCK = ("organisation_id", "site_id", "sku")


def _gone_by(anchors: pl.DataFrame, gone: pl.DataFrame, moment: str) -> pl.DataFrame:
    """``gone_<moment>``: how many pieces had left the shelf by that moment."""
    return (
        anchors.sort(moment)
        .join_asof(
            gone.rename({"at": "then", "gone": f"gone_{moment}"}),
            left_on=moment,
            right_on="then",
            by=_STOCK,
            check_sortedness=False,
        )
        .drop("then")
        .with_columns(col(f"gone_{moment}").fill_null(0.0))
    )


# outcomes


async def find_outcomes(events: Sequence[StoredEvent], history: History) -> list[Outcome]:
    """A shelf that runs empty within a decision's days, or the first movement after them.

    Followed: what was to be ordered came in, or nothing did where nothing was to be ordered.
    """
    frames = decode(events, _MOVEMENTS)
    told = [
        frame.select(*_STOCK, "position", at=_MOVED_AT[event]) for event, frame in frames.items()
    ]
    if not told:
        return []
    frame = pl.concat(told).drop_nulls("at").sort("position")
    frame = frame.with_columns(
        pl.lit("replenishment").alias("kind"),
        pl.concat_str("site_id", "sku", separator="/").alias("subject_id"),
    )
    frame = await opened(frame, history)
    frame = frame.filter(pl.Series([bool(some) for some in frame["open"]], dtype=pl.Boolean))
    if frame.is_empty():
        return []
    frame = await join(frame, "stock", STOCK, history)
    frame = await join(frame, "receipts", RECEIPTS, history)
    causes = {event.position: event for event in events}
    known: set[str] = set()
    found: list[Outcome] = []
    for row in frame.iter_rows(named=True):
        decisions = [one for one in row["open"] if one.decision_id not in known]
        asked = await _asked_at(row, decisions, history)
        for decision, asked_at in zip(decisions, asked, strict=True):
            days = 21 if decision.option.get("order") == "in_14_days" else 14
            over = row["at"] > asked_at + timedelta(days=days)
            if not (over or row["stock__on_hand"] <= 0):
                continue
            known.add(decision.decision_id)
            came = _came(row["receipts__receipts"], decision.as_of)
            wanted = int(decision.option.get("quantity", 0))
            outcome = RecordOutcome(
                decision_id=decision.decision_id,
                occurred=not over,
                followed=came >= wanted if wanted else came == 0,
                known_at=row["at"],
            )
            found.append((causes[row["position"]], outcome))
    return found


_MOVED_AT: Mapping[type[Event], str] = {
    StockPicked: "picked_at",
    StockReceived: "received_at",
    StockAdjusted: "adjusted_at",
}
_MOVEMENTS = {event: {"site_id", "sku", at} for event, at in _MOVED_AT.items()}


async def _asked_at(
    row: Mapping[str, Any], decisions: Sequence[Open], history: History
) -> list[datetime]:
    """When each decision was asked for."""
    frame = pl.DataFrame(
        {
            "organisation_id": [row["organisation_id"]] * len(decisions),
            "decision_id": [one.decision_id for one in decisions],
            "position": [row["position"]] * len(decisions),
        },
        schema_overrides={"decision_id": pl.String, "position": pl.Int64},
    )
    frame = await join(frame, "request", REQUEST, history)
    return frame["request__requested_at"].to_list()


def _came(receipts: Sequence[str] | None, after: int) -> Decimal:
    """How much came in behind a log position."""
    told = [one.split(" ") for one in receipts or ()]
    return sum((Decimal(quantity) for at, quantity in told if int(at) > after), Decimal(0))


def _summary(chosen: Mapping[str, Any]) -> str:
    subject = f"{chosen['sku']} for site {chosen['site_id']}"
    risk = f"{chosen['risk']:.1%} risk of running out within {chosen['days']:.0f} days"
    if chosen["order"] == "now":
        return f"Order {chosen['quantity']} of {subject} now: {risk}"
    later = timedelta(days=14 if chosen["order"] == "in_14_days" else 7)
    return f"Order no {subject} before {chosen['asked_at'] + later:%d %B %Y}: {risk}"


def _subject(subject_id: str, site: Site) -> None:
    site_id, _, sku = subject_id.partition("/")
    if not sku:
        raise Refused(
            "decision.wrong_subject", subject_id=subject_id, wanted="a site and an SKU: SITE/SKU"
        )
    must_be_open(site, site_id)


_PRICE = col("article__price_minor").fill_null(0)
#: What an order costs is spread over the days that it lasts, to compare like with like.
_LASTS = pl.max_horizontal(col("lasts"), REVIEW_DAYS + LEAD_DAYS)
_ORDERING = (
    when(col("pieces") > 0).then(ORDER_MINOR * (LEAD_DAYS + REVIEW_DAYS) / _LASTS).otherwise(0.0)
)
_HOLDING = col("available") * _PRICE * (HOLDING_A_YEAR * (LEAD_DAYS + REVIEW_DAYS) / 365)

REPLENISHMENT = Kind(
    name="replenishment",
    subject=Subject(
        reads=lambda subject_id: [Read(site_stream(subject_id.partition("/")[0]), SITES)],
        rule=_subject,
        weights=Weights(risk_minor=10_000),
    ),
    warning="run out",
    tables=(STOCK, STOCK_WEEK, ARTICLE, SITE, RECEIPTS, REQUEST),
    sources=_SOURCES,
    features=FEATURES,
    constraints=CONSTRAINTS,
    enumerate=enumerate_candidates,
    nothing="the site never had that article",
    option=("order", "quantity"),
    cost_minor=(_ORDERING + _HOLDING).round().cast(pl.Int64),
    carbon_g=when(col("pieces") > 0)
    .then(
        DELIVERY_G + col("pieces") * col("article__weight_g").fill_null(0) * CARBON_PER_KG // 1000
    )
    .otherwise(0),
    value_minor=col("most") * col("article__price_minor"),
    summary=_summary,
    outcomes=find_outcomes,
    examples=Examples(
        fields=_FIELDS,
        rows=demands,
        query="what was picked after each receipt and each fifth pick of an article at a site, "
        "within 7, 14, 21 or 28 days, against 0 to 5 times what usually goes in that time; "
        "occurred: more was wanted than that",
        segments=("site_id",),
    ),
)
