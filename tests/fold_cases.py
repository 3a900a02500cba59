"""Tables that need all of the engine of folds, each beside its meaning in plain Python.

A ``Case`` is a declaration beside its meaning in plain Python: what an event says about which keys,
and what a list of things said becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from operator import itemgetter
from random import Random
from typing import Any

import polars as pl
from polars import col, lit

from domain import catalogue
from domain.inventory import StockAdjusted, StockPicked, StockReceived
from domain.orders import OrderAllocated, OrderCancelled, OrderDelivered, OrderLine, OrderPlaced
from domain.values import Event
from eventstore import StoredEvent
from projections.fold import (
    Fold,
    Merge,
    collect,
    count,
    count_distinct,
    each,
    first,
    greatest,
    last,
    latest_of_map,
    least,
    total,
)
from projections.table import LAST_EFFECTIVE, LAST_POSITION, Table
from tests.test_folds import NOON, ORGANISATIONS, TEXTS, Fact, Row

Rows = dict[tuple[Any, ...], Row]

# events, by chance

_SITES = ("S-1", "S-2")
_SKUS = ("S-1", "A", "B")  # one is a site's name too: an event may have one key twice
_MOMENTS = (
    datetime(1969, 7, 20, 20, 17, tzinfo=UTC),
    *(NOON + timedelta(days=days, microseconds=days) for days in (-1, 0, 1, 40)),
)


def facts(chance: Random, size: int) -> list[Fact]:
    return [(chance.choice(ORGANISATIONS), _event(chance)) for _ in range(size)]


def _event(chance: Random) -> Event:
    at = chance.choice([None, *_MOMENTS])
    day = chance.choice(_MOMENTS)
    order_id = f"O-{chance.randint(1, 3)}"
    site_id, sku = chance.choice(_SITES), chance.choice(_SKUS)
    amount = Decimal(chance.randint(1, 9999)) / 1000
    region = chance.choice([None, "SP", "LIS"])
    match chance.randint(1, 7):
        case 1:
            return StockReceived(site_id=site_id, sku=sku, quantity=amount, received_at=at)
        case 2:
            order = chance.choice([None, order_id])
            return StockPicked(
                site_id=site_id, sku=sku, quantity=amount, order_id=order, picked_at=at
            )
        case 3:
            why = chance.choice(TEXTS)
            return StockAdjusted(
                site_id=site_id, sku=sku, change=amount - 5, reason=why, adjusted_at=at
            )
        case 4:
            return OrderPlaced(
                order_id=order_id,
                customer_id=f"C-{chance.randint(1, 3)}",
                currency="EUR",
                lines=tuple(_line(chance, no) for no in range(1, chance.randint(1, 4))),
                lines_known=True,
                units=amount,
                goods_minor=chance.randint(0, 1000),
                freight_minor=chance.randint(0, 100),
                weight_g=chance.choice([None, 5]),
                region=region,
                placed_at=day,
                promised_at=day,
            )
        case 5:
            return OrderAllocated(
                order_id=order_id,
                site_id=site_id,
                service_level="standard",
                line_sites=(),
                decision_id=None,
                region=region,
                allocated_at=at,
            )
        case 6:
            return OrderDelivered(
                order_id=order_id,
                site_id=site_id,
                service_level="standard",
                region=region,
                currency="EUR",
                placed_at=day,
                promised_at=day,
                delivered_at=at,
                late=chance.choice([None, True, False]),
                transit_s=None,
                out_of_order=False,
            )
    return OrderCancelled(
        order_id=order_id,
        site_id=None,
        currency="EUR",
        placed_at=day,
        cancelled_at=at,
        reason=chance.choice(TEXTS),
    )


def _line(chance: Random, number: int) -> OrderLine:
    return OrderLine(
        line_no=number,
        sku=chance.choice(_SKUS),
        quantity=Decimal(chance.randint(1, 9999)) / 1000,
        unit_price_minor=chance.randint(1, 9),
        site_id=chance.choice([None, *_SITES]),
    )


# plain Python

Said = Iterator[tuple[tuple[Any, ...], Row]]
#: Position, when it counts from, and values by column, of what was said about one key.
Told = list[tuple[int, datetime, Row]]


@dataclass(frozen=True)
class Case:
    """A declaration and its meaning.

    Attributes:
        table: the declaration.
        says: the keys (without the organisation) that an event says something about, each with what
            it says about columns. Null is nothing.
        moment: when an event counts from; by the log without it.
        computed: columns made of the others.
        recomputed: for a table that is recomputed, a row from all that was said.
    """

    table: Table
    says: Callable[[StoredEvent, Event], Said]
    moment: Callable[[StoredEvent, Event], datetime] | None = None
    computed: Callable[[Row], Row] = lambda row: {}
    recomputed: Callable[[list[Row]], Row] | None = None

    def __str__(self) -> str:
        return self.table.name

    def rows(self, events: Sequence[StoredEvent]) -> Rows:
        """All rows by key."""
        about: dict[tuple[Any, ...], Told] = {}
        for one in events:
            event = catalogue.decode(one.topic, one.state)
            assert isinstance(event, Event)
            moment = self.moment(one, event) if self.moment else NOON
            for key, values in self.says(one, event):
                whose = (str(one.organisation_id), *key)
                if None in key:
                    continue
                if type(event) in self.table.closes:
                    about.pop(whose, None)
                else:
                    about.setdefault(whose, []).append((one.position, moment, values))
        return {key: self.row(said) for key, said in about.items()}

    def row(self, said: Told) -> Row:
        """The row of one key; of nothing what the running form says where there is no row."""
        in_order = [values for _, _, values in sorted(said, key=itemgetter(1))]
        row = (
            self.recomputed(in_order)
            if self.recomputed
            else {
                name: meaning(fold, [v[name] for v in in_order if v.get(name) is not None])
                for name, fold in self.table.columns.items()
            }
        )
        row[LAST_POSITION] = max((position for position, _, _ in said), default=None)
        if self.moment:
            row[LAST_EFFECTIVE] = max((moment for _, moment, _ in said), default=None)
        return row | self.computed(row)


def meaning(fold: Fold, values: list[Any]) -> Any:
    """What a column makes of the values said, in their order."""
    match fold.merge:
        case Merge.FIRST | Merge.EACH:
            return values[0] if values else None
        case Merge.LAST:
            return values[-1] if values else None
        case Merge.TOTAL:
            return sum(values)
        case Merge.LEAST:
            return min(values, default=None)
        case Merge.GREATEST:
            return max(values, default=None)
        case Merge.COLLECT:
            return values[-fold.most :] if fold.newest else values[: fold.most]
        case Merge.DISTINCT:
            return len(set(values))
        case Merge.LATEST:
            changed: dict[str, Any] = {}
            for key, value in values:
                if None not in (key, value):
                    changed.pop(key, None)
                    changed[key] = value
            return dict(list(changed.items())[-fold.most :])


# every kind of fold


def _kinds_say(one: StoredEvent, event: Event) -> Said:
    match event:
        case StockReceived(site_id=site_id, sku=sku, quantity=amount, received_at=at):
            yield (
                (site_id, sku),
                dict.fromkeys(("first_at", "last_at", "oldest"), at)
                | dict.fromkeys(("last_amount", "on_hand", "smallest", "largest"), amount)
                | {"newest": amount, "amounts": amount, "by_order": ("in", amount)}
                | {"balance": 1, "moved_by": one.position},
            )
        case StockPicked(site_id=site_id, sku=sku, quantity=amount, picked_at=at, order_id=order):
            ordered = order is not None
            yield (
                (site_id, sku),
                dict.fromkeys(("first_at", "last_at"), at)
                | dict.fromkeys(("first_order", "least_order", "greatest_order", "orders"), order)
                | dict.fromkeys(("ever_ordered", "always_ordered"), ordered)
                | {"last_amount": amount, "moved_by": one.position, "by_order": (order, amount)}
                | {"on_hand": -amount, "balance": -1, "picks": 1, "ordered": order == "O-1"}
                | {"size": "big" if amount > 5 else "small" if amount < 2 else None}
                | {"earliest_day": at and at.date()},
            )
        case StockAdjusted(site_id=site_id, sku=sku, change=change, reason=why, adjusted_at=at):
            yield (
                (site_id, sku),
                dict.fromkeys(("on_hand", "smallest", "largest", "newest", "amounts"), change)
                | {"reasons": why, "days": at and at.date(), "by_reason": (why, at)},
            )


KINDS = Case(
    Table(
        name="kinds",
        key=dict.fromkeys((StockReceived, StockPicked, StockAdjusted), ("site_id", "sku")),
        columns={
            "first_at": first({StockReceived: "received_at", StockPicked: "picked_at"}),
            "last_at": last({StockReceived: "received_at", StockPicked: "picked_at"}),
            # These two never lack a value, of the same events: they share one order.
            "last_amount": last({StockReceived: "quantity", StockPicked: "quantity"}),
            "moved_by": last({StockReceived: "position", StockPicked: "position"}),
            "first_order": first({StockPicked: "order_id"}),
            "size": last(
                {
                    StockPicked: pl.when(col("quantity") > 5)
                    .then(lit("big"))
                    .when(col("quantity") < 2)
                    .then(lit("small"))
                }
            ),
            "on_hand": total(
                {StockReceived: "quantity", StockPicked: -col("quantity"), StockAdjusted: "change"}
            ),
            "balance": total({StockReceived: 1, StockPicked: -1}),
            "picks": count(StockPicked),
            "ordered": count(where={StockPicked: col("order_id").str.ends_with("1")}),
            "smallest": least({StockReceived: "quantity", StockAdjusted: "change"}),
            "largest": greatest({StockReceived: "quantity", StockAdjusted: "change"}),
            "least_order": least({StockPicked: "order_id"}),
            "greatest_order": greatest({StockPicked: "order_id"}),
            "earliest_day": least({StockPicked: col("picked_at").dt.date()}),
            "ever_ordered": greatest({StockPicked: col("order_id").is_not_null()}),
            "always_ordered": least({StockPicked: col("order_id").is_not_null()}),
            "newest": collect({StockReceived: "quantity", StockAdjusted: "change"}, most=3),
            "oldest": collect({StockReceived: "received_at"}, most=2, newest=False),
            "reasons": collect({StockAdjusted: "reason"}, most=4),
            "days": collect({StockAdjusted: col("adjusted_at").dt.date()}),
            "orders": count_distinct({StockPicked: "order_id"}),
            "amounts": count_distinct({StockReceived: "quantity", StockAdjusted: "change"}),
            "by_order": latest_of_map(
                {StockPicked: ("order_id", "quantity"), StockReceived: (lit("in"), "quantity")}
            ),
            "by_reason": latest_of_map({StockAdjusted: ("reason", "adjusted_at")}, most=3),
        },
        computed={"spread": col("largest") - col("smallest")},
    ),
    _kinds_say,
    computed=lambda row: {
        "spread": None if row["smallest"] is None else row["largest"] - row["smallest"]
    },
)


# what a table can do besides


def line(field: str) -> pl.Expr:
    return col("lines").struct.field(field)


def _lines_say(_: StoredEvent, event: Event) -> Said:
    match event:
        case StockReceived():
            yield (event.sku,), {"received": event.quantity}
        case OrderPlaced():
            for one in event.lines:
                yield (
                    (one.sku,),
                    dict.fromkeys(("first_line", "last_line"), one.line_no)
                    | {"ordered": one.quantity, "worth": one.quantity * one.unit_price_minor}
                    | {"last_site": one.site_id, "last_item": dict(one)}
                    | {"prices": one.unit_price_minor, "customers": event.customer_id}
                    | {"by_customer": (event.customer_id, one.line_no)},
                )


LINES = Case(
    Table(
        name="lines",
        key={OrderPlaced: {"sku": line("sku")}, StockReceived: ("sku",)},
        explode={OrderPlaced: "lines"},
        columns={
            "ordered": total({OrderPlaced: line("quantity")}),
            "worth": total({OrderPlaced: line("quantity") * line("unit_price_minor")}),
            "received": total({StockReceived: "quantity"}),
            "first_line": first({OrderPlaced: line("line_no")}),
            "last_line": last({OrderPlaced: line("line_no")}),
            "last_site": last({OrderPlaced: line("site_id")}),
            "last_item": last({OrderPlaced: "lines"}),
            "prices": collect({OrderPlaced: line("unit_price_minor")}, most=4),
            "customers": count_distinct({OrderPlaced: "customer_id"}),
            "by_customer": latest_of_map({OrderPlaced: ("customer_id", line("line_no"))}),
        },
    ),
    _lines_say,
)


def _several_say(_: StoredEvent, event: Event) -> Said:
    match event:
        case StockReceived():
            yield (event.site_id,), {"moved": event.quantity, "role": "in"}
        case StockPicked():
            amounts = (-event.quantity, event.quantity, Decimal(1))
            places = (event.site_id, event.sku, event.order_id)
            for place, amount, role in zip(places, amounts, ("site", "sku", "order"), strict=True):
                yield (
                    (place,),
                    dict.fromkeys(("role", "first_role", "roles"), role)
                    | {"moved": amount, "last_sku": event.sku, "by_role": (role, event.picked_at)},
                )


SEVERAL_KEYS = Case(
    Table(
        name="several_keys",
        key={
            StockPicked: [{"place": "site_id"}, {"place": "sku"}, {"place": "order_id"}],
            StockReceived: {"place": "site_id"},
        },
        columns={
            "moved": total(
                {StockPicked: (-col("quantity"), "quantity", 1), StockReceived: "quantity"}
            ),
            "role": last(
                {StockPicked: (lit("site"), lit("sku"), lit("order")), StockReceived: lit("in")}
            ),
            "first_role": first({StockPicked: (lit("site"), lit("sku"), lit("order"))}),
            "roles": collect({StockPicked: (lit("site"), lit("sku"), lit("order"))}, most=3),
            "last_sku": last({StockPicked: "sku"}),
            "by_role": latest_of_map(
                {StockPicked: ((lit("site"), lit("sku"), lit("order")), "picked_at")}
            ),
        },
    ),
    _several_say,
)


def _closes_say(_: StoredEvent, event: Event) -> Said:
    match event:
        case OrderPlaced():
            yield (
                (event.order_id,),
                dict.fromkeys(("worth", "dearest"), event.goods_minor)
                | {"placed_at": event.placed_at, "region": event.region}
                | {"customers": event.customer_id},
            )
        case OrderAllocated():
            yield (
                (event.order_id,),
                dict.fromkeys(("site_id", "sites"), event.site_id)
                | {"region": event.region, "allocations": 1}
                | {"by_site": (event.site_id, event.allocated_at)},
            )
        case OrderDelivered() | OrderCancelled():
            yield (event.order_id,), {}


CLOSES = Case(
    Table(
        name="open_orders",
        key={
            OrderPlaced: ("order_id",),
            OrderAllocated: ("order_id",),
            OrderDelivered: ("order_id",),
            OrderCancelled: ("order_id",),
        },
        closes=(OrderDelivered, OrderCancelled),
        columns={
            "placed_at": first({OrderPlaced: "placed_at"}),
            "site_id": last({OrderAllocated: "site_id"}),
            "region": last({OrderPlaced: "region", OrderAllocated: "region"}),
            "worth": total({OrderPlaced: "goods_minor"}),
            "allocations": count(OrderAllocated),
            "dearest": greatest({OrderPlaced: "goods_minor"}),
            "sites": collect({OrderAllocated: "site_id"}, most=2),
            "customers": count_distinct({OrderPlaced: "customer_id"}),
            "by_site": latest_of_map({OrderAllocated: ("site_id", "allocated_at")}),
        },
        computed={"open": lit(True)},
    ),
    _closes_say,
    computed=lambda row: {"open": True},
)


def _items_say(_: StoredEvent, event: Event) -> Said:
    match event:
        case StockReceived():
            yield (event.sku,), {"amount": event.quantity}
        case StockAdjusted():
            yield (event.sku,), {}
            yield (event.site_id,), {}
        case OrderPlaced():
            for one in event.lines:
                lines = {"last_line": one.line_no, "first_line": one.line_no}
                yield (one.sku,), lines | {"amount": -one.quantity, "roles": "sku"}
                yield (one.site_id,), lines | {"amount": 1, "roles": "site"}


CLOSES_ITEMS = Case(
    Table(
        name="items_since_counted",
        key={
            OrderPlaced: [{"item": line("sku")}, {"item": line("site_id")}],
            StockReceived: {"item": "sku"},
            StockAdjusted: [{"item": "sku"}, {"item": "site_id"}],
        },
        explode={OrderPlaced: "lines"},
        closes=(StockAdjusted,),
        columns={
            "amount": total({OrderPlaced: (-line("quantity"), 1), StockReceived: "quantity"}),
            "roles": collect({OrderPlaced: (lit("sku"), lit("site"))}, most=5, newest=False),
            "last_line": last({OrderPlaced: line("line_no")}),
            "first_line": first({OrderPlaced: line("line_no")}),
        },
    ),
    _items_say,
)


def _effective_says(one: StoredEvent, event: Event) -> Said:
    match event:
        case StockReceived(site_id=site, quantity=amount):
            yield (
                (event.sku,),
                dict.fromkeys(("first_site", "last_site", "sites"), site)
                | dict.fromkeys(("newest", "oldest", "moved", "largest"), amount)
                | {"last_move": one.position, "by_site": (site, amount)},
            )
        case StockPicked():
            said = {"moved": -event.quantity, "sites": event.site_id}
            yield (event.sku,), said | {"last_move": one.position}
        case OrderPlaced():
            for item in event.lines:
                said = {"first_site": item.site_id, "last_site": item.site_id}
                yield (
                    (item.sku,),
                    said | {"newest": item.quantity, "last_move": one.position},
                )


EFFECTIVE = Case(
    Table(
        name="effective",
        key={
            StockReceived: ("sku",),
            StockPicked: ("sku",),
            OrderPlaced: {"sku": line("sku")},
        },
        explode={OrderPlaced: "lines"},
        effective={StockReceived: "received_at", OrderPlaced: "placed_at"},
        columns={
            "first_site": first({StockReceived: "site_id", OrderPlaced: line("site_id")}),
            "last_site": last({StockReceived: "site_id", OrderPlaced: line("site_id")}),
            "last_move": last(dict.fromkeys((StockReceived, StockPicked, OrderPlaced), "position")),
            "newest": collect({StockReceived: "quantity", OrderPlaced: line("quantity")}, most=3),
            "oldest": collect({StockReceived: "quantity"}, most=2, newest=False),
            "moved": total({StockReceived: "quantity", StockPicked: -col("quantity")}),
            "largest": greatest({StockReceived: "quantity"}),
            "sites": count_distinct({StockReceived: "site_id", StockPicked: "site_id"}),
            "by_site": latest_of_map({StockReceived: ("site_id", "quantity")}),
        },
    ),
    _effective_says,
    moment=lambda one, event: (
        getattr(event, "received_at", None) or getattr(event, "placed_at", None) or one.recorded_at
    ),
)


def _days_say(_: StoredEvent, event: Event) -> Said:
    match event:
        case OrderPlaced(placed_at=at, goods_minor=goods):
            said = {"orders": 1, "revenue": goods + event.freight_minor}
            yield _day(at, "large" if goods > 500 else "any"), said | {"weekday": at.isoweekday()}
        case OrderCancelled():
            yield _day(event.placed_at, "any"), {"revenue": -100}


def _day(at: datetime, size: str) -> tuple[date, datetime, str]:
    return at.date(), datetime(at.year, at.month, 1, tzinfo=UTC), size


_BUCKETS = {"day": col("placed_at").dt.date(), "month": col("placed_at").dt.truncate("1mo")}
DAYS = Case(
    Table(
        name="days",
        key={
            OrderPlaced: {
                **_BUCKETS,
                "size": pl.when(col("goods_minor") > 500).then(lit("large")).otherwise(lit("any")),
            },
            OrderCancelled: {**_BUCKETS, "size": lit("any")},
        },
        columns={
            "orders": count(OrderPlaced),
            "revenue": total(
                {OrderPlaced: col("goods_minor") + col("freight_minor"), OrderCancelled: -100}
            ),
            "weekday": last({OrderPlaced: col("placed_at").dt.weekday()}),
        },
        computed={"mean": pl.when(col("orders") > 0).then(col("revenue") / col("orders"))},
    ),
    _days_say,
    computed=lambda row: {"mean": row["revenue"] / row["orders"] if row["orders"] else None},
)


def _every_event_says(one: StoredEvent, event: Event) -> Said:
    match event:
        case StockAdjusted():
            yield (one.position, 0), {"amount": event.change, "sku": event.sku}
        case OrderPlaced():
            for item in event.lines:
                said = {"amount": item.quantity, "sku": item.sku}
                yield (one.position, item.line_no), said


EVERY_EVENT = Case(
    Table(
        name="every_event",
        key={
            OrderPlaced: {"position": "position", "line_no": line("line_no")},
            StockAdjusted: {"position": "position", "line_no": 0},
        },
        explode={OrderPlaced: "lines"},
        columns={
            "amount": each({OrderPlaced: line("quantity"), StockAdjusted: "change"}),
            "sku": first({OrderPlaced: line("sku"), StockAdjusted: "sku"}),
        },
        every_event=True,
    ),
    _every_event_says,
)


def lowest(given: pl.DataFrame) -> pl.DataFrame:
    """How low the stock of each key ever was: what no fold expresses."""
    return given.group_by("organisation_id", "site_id", "sku").agg(
        lowest=col("change").cum_sum().min(), moves=pl.len(), last_event=col("event").last()
    )


def _recomputed_says(_: StoredEvent, event: Event) -> Said:
    if isinstance(event, StockReceived | StockPicked):
        change = event.quantity if isinstance(event, StockReceived) else -event.quantity
        yield (event.site_id, event.sku), {"change": change, "event": type(event).__name__}


RECOMPUTED = Case(
    Table(
        name="lowest",
        key=dict.fromkeys((StockReceived, StockPicked), ("site_id", "sku")),
        columns={"change": each({StockReceived: "quantity", StockPicked: -col("quantity")})},
        recompute=lowest,
        computed={"ever_short": col("lowest") < 0},
    ),
    _recomputed_says,
    recomputed=lambda said: {
        "lowest": min(accumulate(one["change"] for one in said)),
        "moves": len(said),
        "last_event": said[-1]["event"],
    },
    computed=lambda row: {"ever_short": row["lowest"] < 0},
)

FOLDED = (KINDS, LINES, SEVERAL_KEYS, CLOSES, CLOSES_ITEMS, EFFECTIVE, DAYS)
CASES = (*FOLDED, EVERY_EVENT, RECOMPUTED)
