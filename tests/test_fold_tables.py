"""Declarations of tables: what is refused when they are made, and what their fingerprints tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from polars import col, lit

from domain.inventory import StockAdjusted, StockPicked, StockReceived
from domain.orders import OrderPlaced
from projections.fold import (
    Fold,
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
from projections.table import Table, WrongDeclaration

LAST_SKU = last({StockReceived: "sku"})


def declared(**changes: Any) -> Table:
    """A sound declaration, with changes."""
    parts: dict[str, Any] = {
        "name": "stock",
        "key": {StockReceived: ("site_id",), StockPicked: ("site_id",)},
        "columns": {"sku": LAST_SKU},
        **changes,
    }
    table = Table(**parts)
    table.check()
    return table


def of_orders(**changes: Any) -> Table:
    parts: dict[str, Any] = {
        "name": "orders",
        "key": {OrderPlaced: ("order_id",)},
        "columns": {"x": first({OrderPlaced: "state"})},
        **changes,
    }
    table = Table(**parts)
    table.check()
    return table


def lines(field: str) -> pl.Expr:
    return col("lines").struct.field(field)


def refused(message: str, **changes: Any) -> None:
    """The declaration is refused with a message that begins so."""
    with pytest.raises(WrongDeclaration, match="^" + re.escape(message)):
        declared(**changes)


# wrong fields


def test_a_field_that_an_event_does_not_have() -> None:
    refused(
        "stock.x: StockReceived has no field 'colour'; it has actor, ",
        columns={"x": first({StockReceived: "colour"})},
    )
    refused(
        "stock.x: StockPicked has no field 'change'",
        columns={"x": total({StockReceived: "quantity", StockPicked: col("change") + 1})},
    )
    refused(
        "stock.x: StockReceived has no field 'why'",
        columns={"x": latest_of_map({StockReceived: ("why", "sku")})},
    )
    refused("stock.hue: StockPicked has no field 'hue'", key={StockPicked: ("hue",)}, columns={})
    refused(
        "stock.effective: StockReceived has no field 'counted_at'",
        effective={StockReceived: "counted_at"},
    )


def test_a_field_that_a_nested_value_does_not_have() -> None:
    first_line = col("lines").list.first().struct.field("colour")
    for value, explode in ((lines("colour"), {OrderPlaced: "lines"}), (first_line, {})):
        with pytest.raises(WrongDeclaration, match=r"^orders.x: OrderPlaced has no .*colour"):
            of_orders(columns={"x": last({OrderPlaced: value})}, explode=explode)


def test_an_exploded_field_that_is_no_list() -> None:
    for field in ("sku", "colour"):
        refused(f"stock: StockReceived has no list field {field!r}", explode={StockReceived: field})


# wrong types


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        (total({StockReceived: "sku"}), "says String where total needs a number"),
        (total({StockReceived: col("sku") == "A"}), "says Boolean where total needs a number"),
        (total({StockReceived: col("sku") + 1}), "arithmetic"),
        (total({StockReceived: col("quantity") * col("sku")}), "arithmetic"),
        (last({StockReceived: col("sku").dt.date()}), ""),
        (last({StockReceived: pl.when(col("sku")).then(1)}), ""),
        (last({StockReceived: col("quantity").struct.field("unit")}), ""),
        (count(where={StockReceived: col("received_at")}), ""),
        (last({StockReceived: col("received_at") - col("received_at")}), "Duration"),
    ],
)
def test_an_expression_that_does_not_fit_its_fields(fold: Fold, message: str) -> None:
    with pytest.raises(WrongDeclaration, match=rf"^stock.x: StockReceived.*{message}"):
        declared(columns={"x": fold})


@pytest.mark.parametrize("fold", [least, greatest, count_distinct], ids=lambda fold: fold.__name__)
def test_values_that_cannot_be_compared(fold: Callable[[Any], Fold]) -> None:
    with pytest.raises(WrongDeclaration, match=r"^orders.x: OrderPlaced says .*cannot compare"):
        of_orders(columns={"x": fold({OrderPlaced: "lines"})})


def test_keys_that_are_no_plain_values() -> None:
    with pytest.raises(WrongDeclaration, match=r"^orders.lines: OrderPlaced says List.* be a key"):
        of_orders(key={OrderPlaced: ("lines",)})
    by_lines = latest_of_map({OrderPlaced: ("lines", "units")})
    with pytest.raises(WrongDeclaration, match=r"^orders.x: OrderPlaced says .* be a .*key"):
        of_orders(columns={"x": by_lines})


def test_a_moment_that_is_none() -> None:
    refused(
        "stock.effective: StockReceived says String where a moment is needed",
        effective={StockReceived: "sku"},
    )


def test_types_that_do_not_go_together() -> None:
    refused(
        "stock.x: the types do not go together: StockReceived says Decimal",
        columns={"x": last({StockReceived: "quantity", StockPicked: "sku"})},
    )
    refused(
        "stock.x: the types do not go together: "
        "StockReceived says String, StockPicked says Boolean",
        columns={"x": last({StockReceived: "sku", StockPicked: col("order_id").is_null()})},
    )
    refused(
        "stock.place: the types do not go together: StockReceived says String, StockPicked says ",
        key={StockReceived: {"place": "sku"}, StockPicked: {"place": "picked_at"}},
    )
    refused(
        "stock.place: the types do not go together: StockPicked",
        key={StockPicked: [{"place": "sku"}, {"place": "quantity"}]},
        columns={"x": count(StockPicked)},
    )
    refused(
        "stock.x: the types do not go together: StockPicked",
        key={StockPicked: [{"place": "sku"}, {"place": "site_id"}]},
        columns={"x": last({StockPicked: ("sku", "quantity")})},
    )


def test_types_that_do_go_together() -> None:
    columns: dict[str, Fold] = {
        "exact": total({StockReceived: 1, StockPicked: "quantity"}),
        "whole": total({StockReceived: 1, StockPicked: lit(2, pl.UInt8)}),
        "float": total({StockReceived: 1, StockPicked: 0.5 * col("position")}),
        "null": last({StockReceived: "sku", StockPicked: lit(None)}),
    }
    types = declared(columns=columns).types
    assert types["exact"] == pl.Decimal(38, 3)
    assert [types[name] for name in ("whole", "float", "null")] == [
        pl.Int64(),
        pl.Float64(),
        pl.String(),
    ]


def test_one_event_may_say_exact_and_whole_numbers_under_its_keys() -> None:
    table = declared(
        key={StockPicked: [{"place": "sku"}, {"place": "site_id"}]},
        columns={"x": total({StockPicked: (1, "quantity")})},
    )
    assert table.types["x"] == pl.Decimal(38, 3)


def test_a_column_of_which_no_event_says_anything() -> None:
    refused(
        "stock: no event says anything about 'x'", columns={"x": last({StockReceived: lit(None)})}
    )
    refused("stock: no event says anything about 'x'", columns={"x": total({})})


def test_an_expression_may_be_used_several_times() -> None:
    sku = col("sku")
    table = declared(
        columns={
            "by_sku": latest_of_map({StockReceived: (sku, sku)}),
            "x": last({StockPicked: sku}),
        }
    )
    assert table.types["x"] == pl.String()


# wrong keys


def test_a_table_of_no_event() -> None:
    refused("stock: there is no event", key={}, columns={})


def test_an_event_without_a_key() -> None:
    for changes in (
        {"columns": {"x": total({StockAdjusted: "change"})}},
        {"columns": {"x": latest_of_map({StockAdjusted: ("sku", "change")})}},
        {"closes": (StockAdjusted,)},
        {"effective": {StockAdjusted: "adjusted_at"}},
    ):
        where = "stock.x" if "columns" in changes else "stock"
        refused(f"{where}: StockAdjusted has no key", **changes)
    refused("stock: OrderPlaced has no key", explode={OrderPlaced: "lines"})


@pytest.mark.parametrize(
    "keys",
    [
        (("sku",), ("site_id",)),
        (("sku",), ("sku", "site_id")),
        ({"place": "sku"}, {"site": "sku"}),
        ([{"place": "sku"}, {"site": "site_id"}], {"place": "sku"}),
    ],
    ids=str,
)
def test_keys_of_different_columns(keys: tuple[Any, Any]) -> None:
    refused(
        "stock: every event needs the same key columns, got ",
        key=dict(zip((StockReceived, StockPicked), keys, strict=True)),
    )


def test_contributions_that_are_not_as_many_as_keys() -> None:
    places = {StockPicked: [{"place": "sku"}, {"place": "site_id"}]}
    for fold in (
        total({StockPicked: (1, 2, 3)}),
        latest_of_map({StockPicked: ((lit("a"), lit("b"), lit("c")), "sku")}),
        last({StockPicked: ()}),
    ):
        with pytest.raises(
            WrongDeclaration, match=r"^stock.x: StockPicked has 2 keys and [03] contributions"
        ):
            declared(key=places, columns={"x": fold})
    refused(
        "stock.x: StockReceived has 1 keys and 2 contributions",
        columns={"x": total({StockReceived: (1, 2)})},
    )


# names that are taken, features that do not go together


@pytest.mark.parametrize(
    "name",
    ["organisation_id", "site_id", "last_position", "last_effective_at", "event", "x@", "x__seen"],
)
def test_a_name_that_is_taken(name: str) -> None:
    message = f"stock: a column cannot be called {name!r}"
    refused(message, columns={name: LAST_SKU})
    refused(message, computed={name: col("sku")})
    if name != "site_id":
        with pytest.raises(WrongDeclaration, match=f"{name!r}"):
            declared(key={StockReceived: {name: "sku"}})


def test_a_computed_column_in_the_place_of_a_fold() -> None:
    """Its fold would not be stored."""
    refused("stock: a column cannot be called 'sku'", computed={"sku": col("sku") + "!"})


def test_a_column_called_effective_is_a_column() -> None:
    table = declared(
        columns={"effective": LAST_SKU, "newest": LAST_SKU},
        effective={StockReceived: "received_at"},
    )
    assert table.types["effective"] == table.types["newest"] == pl.String()


def test_features_that_do_not_go_together() -> None:
    change = {"change": each({StockReceived: "quantity"})}
    features: list[dict[str, Any]] = [
        {"every_event": True},
        {"closes": (StockPicked,)},
        {"columns": change, "recompute": lambda given: given},
    ]
    for one in features:
        for other in features:
            if one is not other:
                refused("stock: `every_event`, `closes` and", **one | other | {"columns": change})
    refused("stock.x: `each` merges nothing", columns={"x": each({StockReceived: "sku"})})
    refused("stock.sku: `recompute` takes `each` columns only", recompute=lambda given: given)
    for feature in ({"closes": (StockPicked,)}, {"every_event": True}):
        refused(
            "stock: `effective` does not go together with `closes` or `every_event`",
            effective={StockReceived: "received_at"},
            **feature,
        )


def test_mistakes_of_form_are_told() -> None:
    refused("stock: the key of StockReceived is a text; write ('sku',)", key={StockReceived: "sku"})
    refused("stock: 'StockReceived' is no event", key={"StockReceived": ("sku",)})
    refused(
        "stock.x: StockReceived has no field 'open'", columns={"x": last({StockReceived: "open"})}
    )
    for odd in (None, Decimal("0.5")):
        with pytest.raises(TypeError, match="is no contribution: write an expression"):
            last({StockReceived: odd})  # type: ignore[dict-item]
    half = declared(columns={"x": total({StockReceived: 0.5}), "y": last({StockReceived: True})})
    assert (half.types["x"], half.types["y"]) == (pl.Float64(), pl.Boolean())


@pytest.mark.parametrize(
    "value",
    [
        col("quantity").sum(),
        col("quantity").sum().over("sku"),
        col("quantity") - col("quantity").max(),
    ],
    ids=["sum", "over", "max"],
)
def test_an_expression_is_of_one_event(value: pl.Expr) -> None:
    refused(
        "stock.x: StockReceived says something about several",
        columns={"x": last({StockReceived: value})},
    )


QUANTITY = col("quantity")


@pytest.mark.parametrize(
    "value",
    [
        QUANTITY.shift(),
        QUANTITY.cum_sum(),
        QUANTITY.diff(),
        QUANTITY.rank(),
        QUANTITY.reverse(),
        QUANTITY.sort(),
        QUANTITY.forward_fill(),
        QUANTITY.fill_null(strategy="backward"),
        pl.len() + QUANTITY,
        QUANTITY / QUANTITY.sum(),
        col("sku").str.to_date("%Y") == col("sku").str.to_date("%Y").max(),
        QUANTITY.drop_nulls(),
        QUANTITY.filter(QUANTITY > 1),
        pl.when(QUANTITY.mean() > 1).then(QUANTITY),
        pl.struct(QUANTITY.max(), QUANTITY.alias("x")).struct.field("quantity"),
    ],
    ids=[str(number) for number in range(15)],
)
def test_what_looks_at_other_rows_is_refused_everywhere(value: pl.Expr) -> None:
    refused("stock.x: StockReceived says", columns={"x": last({StockReceived: value})})
    if "quantity" in value.meta.root_names():
        exact = {"quantity": last({StockReceived: "quantity"})}
        refused("stock.y: a computed column is made", columns=exact, computed={"y": value})


def test_names_that_postgres_cannot_hold() -> None:
    for name in ("a-b", "Stock", "x" * 51, "stock__old", "stock__next", ""):
        with pytest.raises(WrongDeclaration, match="cannot be a table's name"):
            Table(name, {StockReceived: ("sku",)}, {"x": count(StockReceived)})
    for name in ("xmin", "x" * 51, ""):
        refused(f"stock: a column cannot be called {name!r}", columns={name: LAST_SKU})
    refused("stock: there is no column 'colour' for an index", indexes=(("colour",),))


def test_what_a_function_has_captured_is_part_of_it() -> None:
    def of(number: object) -> Callable[[pl.DataFrame], pl.DataFrame]:
        def rows(given: pl.DataFrame) -> pl.DataFrame:
            return given.select("organisation_id", "site_id", x=pl.lit(str(number)))

        return rows

    columns = {"change": each({StockReceived: "quantity"})}
    prints = [declared(columns=columns, recompute=of(n)).fingerprint for n in (1, 2, 1)]
    assert prints[0] == prints[2] != prints[1]
    refused("stock: recompute: what a function has captured", columns=columns, recompute=of([1]))


# computed and recomputed rows


def test_a_computed_column_that_does_not_fit() -> None:
    refused("stock.x: ", computed={"x": col("colour")})
    refused("stock.x: ", computed={"x": col("sku") * 2})
    refused("stock.y: ", computed={"x": col("sku"), "y": col("x")})
    refused("stock: ", computed={"x": col("last_position").cast(pl.Duration("us"))})


def _without_key(given: pl.DataFrame) -> pl.DataFrame:
    return given.select("organisation_id", "change")


def _wrong_field(given: pl.DataFrame) -> pl.DataFrame:
    return given.select("organisation_id", "site_id", "colour")


def _odd_type(given: pl.DataFrame) -> pl.DataFrame:
    return given.select("organisation_id", "site_id", x=lit(None, pl.Duration("us")))


@pytest.mark.parametrize(
    ("recompute", "message"),
    [
        (_without_key, "recompute gives no key column 'site_id'"),
        (_wrong_field, "recompute fails on no rows: .*colour"),
        (_odd_type, "Duration"),
    ],
)
def test_a_recompute_that_does_not_fit(
    recompute: Callable[[pl.DataFrame], pl.DataFrame], message: str
) -> None:
    with pytest.raises(WrongDeclaration, match=f"^stock: {message}"):
        declared(columns={"change": each({StockReceived: "quantity"})}, recompute=recompute)


# fingerprints


def _lowest(given: pl.DataFrame) -> pl.DataFrame:
    return given.group_by("organisation_id", "site_id").agg(x=col("change").min())


def _highest(given: pl.DataFrame) -> pl.DataFrame:
    return given.group_by("organisation_id", "site_id").agg(x=col("change").max())


def recomputed(recompute: Callable[[pl.DataFrame], pl.DataFrame]) -> Table:
    return declared(columns={"change": each({StockReceived: "quantity"})}, recompute=recompute)


def column(fold: Fold) -> Table:
    return declared(columns={"x": fold})


def key(*keys: Mapping[str, Any] | Sequence[Any]) -> Table:
    events = (StockReceived, StockPicked)
    return declared(key=dict(zip(events, keys, strict=False)), columns={"x": LAST_SKU})


PLACES = [{"place": "sku"}, {"place": "site_id"}]

#: Declarations that all mean something else.
DIFFERENT: list[Callable[[], Table]] = [
    declared,
    lambda: declared(name="stock_by_site"),
    lambda: key(("site_id",)),
    lambda: key(("sku",), ("sku",)),
    lambda: key({"site_id": "sku"}, {"site_id": "site_id"}),
    lambda: key({"site_id": "site_id"}, {"site_id": "sku"}),
    lambda: key({"site_id": col("site_id").str.to_lowercase()}, ("site_id",)),
    lambda: key(("site_id", "sku"), ("site_id", "sku")),
    lambda: key(("sku", "site_id"), ("sku", "site_id")),
    lambda: key(PLACES, PLACES),
    lambda: key(PLACES[::-1], PLACES[::-1]),
    lambda: key(PLACES, PLACES[0]),
    lambda: declared(indexes=(("sku",),)),
    lambda: declared(indexes=(("sku", "last_position"),)),
    lambda: declared(indexes=(("last_position",), ("sku",))),
    lambda: declared(every_event=True),
    lambda: declared(closes=(StockPicked,)),
    lambda: declared(closes=(StockReceived,)),
    lambda: declared(effective={StockReceived: "received_at"}),
    lambda: declared(effective={StockReceived: "recorded_at"}),
    lambda: declared(effective={StockPicked: "picked_at"}),
    lambda: declared(computed={"x": col("sku") + "!"}),
    lambda: declared(computed={"x": col("sku") + "?"}),
    lambda: declared(computed={"y": col("sku") + "!"}),
    lambda: declared(columns={"name": LAST_SKU}),
    lambda: column(total({StockReceived: "quantity"})),
    lambda: column(total({StockReceived: col("quantity") * 2})),
    lambda: column(total({StockPicked: "quantity"})),
    lambda: column(total({StockReceived: "quantity", StockPicked: "quantity"})),
    lambda: column(least({StockReceived: "quantity"})),
    lambda: column(greatest({StockReceived: "quantity"})),
    lambda: column(first({StockReceived: "quantity"})),
    lambda: column(last({StockReceived: "quantity"})),
    lambda: column(last({StockReceived: "state"})),
    lambda: column(last({StockReceived: "state"}, json=True)),
    lambda: column(count(StockReceived)),
    lambda: column(count(where={StockReceived: col("sku") == "A"})),
    lambda: column(collect({StockReceived: "quantity"})),
    lambda: column(collect({StockReceived: "quantity"}, most=9)),
    lambda: column(collect({StockReceived: "quantity"}, most=9, newest=False)),
    lambda: column(count_distinct({StockReceived: "quantity"})),
    lambda: column(count_distinct({StockReceived: "quantity"}, exact=9)),
    lambda: column(latest_of_map({StockReceived: ("sku", "quantity")})),
    lambda: column(latest_of_map({StockReceived: ("sku", "quantity")}, most=9)),
    lambda: column(latest_of_map({StockReceived: ("actor", "quantity")})),
    lambda: column(latest_of_map({StockReceived: ("sku", "received_at")})),
    lambda: recomputed(_lowest),
    lambda: recomputed(_highest),
    of_orders,
    lambda: of_orders(explode={OrderPlaced: "lines"}),
]


def test_the_fingerprint_changes_with_every_part_of_a_declaration() -> None:
    for number, make in enumerate(DIFFERENT):
        assert make().fingerprint == make().fingerprint, number
    assert len({make().fingerprint for make in DIFFERENT}) == len(DIFFERENT)


def test_the_fingerprint_is_the_same_however_the_same_is_said() -> None:
    said = {"site_id": col("site_id")}
    assert key(said, said).fingerprint == key(("site_id",), ("site_id",)).fingerprint
    assert declared(columns={"sku": last({StockReceived: col("sku")})}).fingerprint == (
        declared().fingerprint
    )
    assert declared(key={StockReceived: ["site_id"], StockPicked: ["site_id"]}).fingerprint == (
        declared().fingerprint
    )


CODES = {str(number): str(number) for number in range(60)}

#: Expressions that differ in what polars leaves out where it shows them.
ALIKE: list[tuple[pl.Expr, pl.Expr]] = [
    (
        col("received_at").dt.convert_time_zone("Europe/Lisbon").dt.date(),
        col("received_at").dt.convert_time_zone("America/Sao_Paulo").dt.date(),
    ),
    (col("received_at").dt.to_string("%Y-%m"), col("received_at").dt.to_string("%Y-%W")),
    (col("sku").str.to_date("%Y%m%d"), col("sku").str.to_date("%Y%d%m")),
    (col("position").cast(pl.Float64).round(1), col("position").cast(pl.Float64).round(2)),
    (pl.concat_str("site_id", "sku", separator="-"), pl.concat_str("site_id", "sku")),
    (col("position").is_between(1, 9), col("position").is_between(1, 9, closed="left")),
    (col("sku").replace(CODES), col("sku").replace(CODES | {"30": "other"})),
    (
        col("sku").is_in(list(CODES)),
        col("sku").is_in([*list(CODES)[:30], "other", *list(CODES)[31:]]),
    ),
]


@pytest.mark.parametrize(("one", "other"), ALIKE, ids=[str(number) for number in range(len(ALIKE))])
def test_the_fingerprint_knows_expressions_whole(one: pl.Expr, other: pl.Expr) -> None:
    folds = [last({StockReceived: value}) for value in (one, other, one)]
    first_one, second, third = (column(fold).fingerprint for fold in folds)
    assert first_one == third
    assert first_one != second


def test_the_fingerprint_knows_computed_columns_and_effective_times_whole() -> None:
    shares = [(col("last_position") / 3).round(digits) for digits in (1, 2)]
    one, other = (declared(computed={"x": share}).fingerprint for share in shares)
    assert one != other
    days = [col("sku").str.to_datetime(form, time_zone="UTC") for form in ("%Y%m%d", "%Y%d%m")]
    one, other = (declared(effective={StockReceived: day}).fingerprint for day in days)
    assert one != other
