"""Route rules: what the law closes to whom, as data, and which rules a vehicle would break."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import atan2, cos, pi, radians, sin
from typing import Any

import pytest
from hypothesis import assume
from hypothesis import given as examples
from hypothesis import strategies as st

from domain.errors import Refused
from domain.hazards import Hazard
from domain.loads import Goods, closed_to
from domain.orders import AllocateOrder, OrderAllocated, OrderLine, OrderPlaced
from domain.places import EARTH_RADIUS_M, Point
from domain.prohibitions import Prohibition
from domain.route_rules import (
    MOST_RULES,
    ROUTE_RULES,
    ChangeRouteRule,
    LiftRouteRule,
    RouteRule,
    RouteRuleChanged,
    RouteRuleLifted,
    RouteRules,
    RouteRuleSet,
    SetRouteRule,
    broken,
    must_be_legal,
    set_rule,
)
from domain.sites import ServiceLevel, SiteOpened
from domain.time_windows import OpeningHours, OpenSpan
from domain.transport import Vehicle, VehicleRegistered
from domain.values import Command, Event
from domain.zones import Zone
from tests.spec import given, problems

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
HOUR = timedelta(hours=1)


def at(latitude: float, longitude: float) -> Point:
    return Point(latitude=latitude, longitude=longitude)


#: About 11 km of latitude and 7 km of longitude.
TOWN = Zone(
    name="Old Town", polygon=(at(52.4, 13.3), at(52.4, 13.4), at(52.5, 13.4), at(52.5, 13.3))
)
INSIDE, OUTSIDE = at(52.45, 13.35), at(52.45, 13.45)
DIRTY = Prohibition(emission_below="euro4", fuels=("diesel",))

SET = SetRouteRule(
    rule_id="LEZ",
    name="Low emission zone",
    zone=TOWN,
    forbids=DIRTY,
    valid_from=NOON - 24 * HOUR,
    source="35. BImSchV",
    source_url="https://www.gesetze-im-internet.de/bimschv_35/",
    exempt_vehicles=("V-PERMIT",),
    set_at=NOON,
)
CHANGE = ChangeRouteRule(
    rule_id="LEZ", forbids=Prohibition(emission_below="euro5"), changed_at=NOON
)
LIFT = LiftRouteRule(rule_id="LEZ", reason="repealed", lifted_at=NOON)

rule = RouteRule(
    rule_id="LEZ",
    name="Low emission zone",
    zone=TOWN,
    forbids=DIRTY,
    hours=None,
    valid_from=NOON - 24 * HOUR,
    valid_until=None,
    source="35. BImSchV",
    source_url="https://www.gesetze-im-internet.de/bimschv_35/",
    exempt_vehicles=("V-PERMIT",),
)
was_set = RouteRuleSet(**dict(rule), set_by="ana", set_at=NOON)
was_changed = RouteRuleChanged(
    **dict(rule) | {"forbids": CHANGE.forbids}, changed_by="ana", changed_at=NOON
)
was_lifted = RouteRuleLifted(rule_id="LEZ", reason="repealed", lifted_by="ana", lifted_at=NOON)

OLD_VAN = Vehicle(
    vehicle_id="V-1",
    site_id="S-1",
    mode="van",
    vehicle_class="N1",
    fuel="diesel",
    emission_class="euro3",
    gross_weight_g=3_500_000,
)
PETROL = Hazard(un_number="UN1203", hazard_class="3", packing_group="II", tunnel_code="D/E")


def other(message: Any, **fields: Any) -> Any:
    return message.model_copy(update=fields)


def vehicle(**fields: Any) -> Vehicle:
    told = {name: getattr(OLD_VAN, name) for name in Vehicle.__slots__}
    return Vehicle(**told | fields)


def forbidding(**what: Any) -> RouteRule:
    return rule.model_copy(update={"forbids": Prohibition(**what)})


def reason(of: RouteRule, by: Vehicle, goods: Goods | None = None) -> str:
    """Why a rule is broken; empty where it is not."""
    found = broken([of], by, goods, INSIDE, NOON)
    return found[0].sentence if found else ""


# rules come and go


def test_a_rule_is_set_changed_lifted_and_set_again() -> None:
    given().when(SET).then(was_set)
    given(was_set).when(CHANGE).then(was_changed)
    given(was_set, was_changed).when(LIFT).then(was_lifted)
    given(was_set, was_lifted).when(SET).then(was_set)


def test_a_rule_is_set_once_while_it_holds() -> None:
    given(was_set).when(SET).refused("route_rule.already_set", rule_id="LEZ")


@pytest.mark.parametrize("command", [CHANGE, LIFT], ids=type)
@pytest.mark.parametrize("history", [[], [was_set, was_lifted]])
def test_what_does_not_hold_is_neither_changed_nor_lifted(
    command: Command, history: list[Event]
) -> None:
    given(*history).when(command).refused("route_rule.unknown", rule_id="LEZ")


def test_a_change_of_nothing_is_no_event() -> None:
    given(was_set, was_changed).when(CHANGE).then()
    given(was_set).when(ChangeRouteRule(rule_id="LEZ", always=True, changed_at=NOON)).then()


def test_hours_and_an_end_come_and_go() -> None:
    hours = OpeningHours(zone="UTC", spans=(OpenSpan(day="monday", opens="07:00", closes="20:00"),))
    until = NOON + 24 * HOUR
    limited = other(was_changed, forbids=DIRTY, hours=hours, valid_until=until)
    given(was_set).when(
        ChangeRouteRule(rule_id="LEZ", hours=hours, valid_until=until, changed_at=NOON)
    ).then(limited)
    given(was_set, limited).when(
        ChangeRouteRule(rule_id="LEZ", always=True, unlimited=True, changed_at=NOON)
    ).then(other(limited, hours=None, valid_until=None))


def test_a_rule_does_not_end_before_it_begins() -> None:
    ends = ChangeRouteRule(rule_id="LEZ", valid_until=NOON - 48 * HOUR, changed_at=NOON)
    given(was_set).when(ends).refused("route_rule.ends_before_it_begins", rule_id="LEZ")


def test_a_zone_whose_sides_cross_is_refused() -> None:
    bow_tie = Zone(name="Bow", polygon=(at(0, 0), at(1, 1), at(1, 0), at(0, 1)))
    line = Zone(name="Line", polygon=(at(0, 0), at(1, 1), at(2, 2)))
    spike = Zone(name="Spike", polygon=(at(0, 0), at(0, 2), at(0, 1), at(1, 1)))
    twice = Zone(name="Twice", polygon=(at(0, 0), at(0, 1), at(1, 1), at(0, 0)))
    for zone in (bow_tie, line, spike, twice):
        given().when(other(SET, zone=zone)).refused(
            "route_rule.zone_crosses_itself", zone=zone.name
        )
        given(was_set).when(other(CHANGE, zone=zone)).refused("route_rule.zone_crosses_itself")
    notched = Zone(name="L", polygon=(at(0, 0), at(0, 2), at(1, 2), at(1, 1), at(2, 1), at(2, 0)))
    given().when(other(SET, zone=notched)).then(other(was_set, zone=notched))


def test_there_are_not_more_rules_than_commands_can_read() -> None:
    full = RouteRules({f"R-{n}": rule for n in range(MOST_RULES)})
    with pytest.raises(Refused) as refusal:
        set_rule(full, SET, "ana")
    assert refusal.value.code == "route_rule.too_many"
    assert refusal.value.context["most"] == MOST_RULES


# what they forbid


def test_a_broken_rule_is_told_with_zone_reason_and_law() -> None:
    [one] = broken([rule], OLD_VAN, None, [OUTSIDE, INSIDE], NOON)
    assert (one.rule_id, one.zone, one.source) == ("LEZ", "Old Town", "35. BImSchV")
    assert one.sentence == (
        "Vehicle V-1 may not be in Old Town at 2026-03-02T12:00:00+00:00: fuel diesel is forbidden;"
        " emission class euro3 is below euro4 (Low emission zone, 35. BImSchV)"
    )


@pytest.mark.parametrize(
    ("by", "points", "moment"),
    [
        (OLD_VAN, [OUTSIDE], NOON),
        (OLD_VAN, [], NOON),
        (OLD_VAN, [INSIDE], NOON - 25 * HOUR),
        (vehicle(emission_class="euro4"), [INSIDE], NOON),
        (vehicle(fuel="petrol"), [INSIDE], NOON),
        (vehicle(fuel="electric", emission_class="zero"), [INSIDE], NOON),
        (vehicle(vehicle_id="V-PERMIT"), [INSIDE], NOON),
        (vehicle(mode="rail", vehicle_class=None, fuel=None), [INSIDE], NOON),
    ],
)
def test_what_a_rule_is_not_about_breaks_it_not(
    by: Vehicle, points: list[Point], moment: datetime
) -> None:
    assert broken([rule], by, None, points, moment) == []


def test_a_rule_holds_within_its_validity_and_its_hours() -> None:
    hours = OpeningHours(
        zone="Europe/Berlin", spans=(OpenSpan(day="monday", opens="07:00", closes="20:00"),)
    )
    by_day = other(rule, hours=hours, valid_until=NOON + 8 * 24 * HOUR)

    def holds(moment: datetime) -> bool:
        return bool(broken([by_day], OLD_VAN, None, INSIDE, moment))

    seven_in_berlin = datetime(2026, 3, 2, 6, tzinfo=UTC)
    assert holds(seven_in_berlin)
    assert not holds(seven_in_berlin - timedelta(seconds=1))
    assert not holds(datetime(2026, 3, 2, 19, tzinfo=UTC))
    assert not holds(NOON + 24 * HOUR)  # a Tuesday
    assert holds(NOON + 7 * 24 * HOUR)
    assert not holds(NOON + 14 * 24 * HOUR)  # a Monday when it holds no more


def test_all_that_a_prohibition_names_has_to_apply() -> None:
    heavy = forbidding(vehicle_classes=("N2", "N3"), gross_weight_above_g=7_500_000)
    truck = vehicle(mode="truck", vehicle_class="N2", gross_weight_g=12_000_000)
    assert "class N2 is forbidden" in reason(heavy, truck)
    assert "12,000 kg is above 7,500 kg" in reason(heavy, truck)
    assert reason(heavy, vehicle(mode="truck", vehicle_class="N2", gross_weight_g=7_500_000)) == ""
    assert reason(heavy, vehicle(vehicle_class="M1", gross_weight_g=8_000_000)) == ""


def test_what_is_not_known_counts_as_forbidden_and_is_said() -> None:
    nameless = vehicle(vehicle_class=None, fuel=None, emission_class=None, gross_weight_g=None)
    assert "its class is not known" in reason(forbidding(vehicle_classes=("N3",)), nameless)
    assert "its fuel is not known" in reason(forbidding(fuels=("diesel",)), nameless)
    assert "its emission class is not known" in reason(forbidding(emission_below="zero"), nameless)
    heavy = forbidding(gross_weight_above_g=3_500_000)
    assert "its permissible weight is not known" in reason(heavy, nameless)


def test_a_class_says_what_its_vehicles_weigh_at_the_most() -> None:
    heavy = forbidding(gross_weight_above_g=3_500_000)
    assert reason(heavy, vehicle(gross_weight_g=None)) == ""
    assert reason(heavy, vehicle(vehicle_class="N2", gross_weight_g=None)) != ""
    assert reason(forbidding(gross_weight_above_g=12_000_000), vehicle(vehicle_class="N2")) == ""


def test_a_cargo_bike_of_which_nothing_more_is_told_is_a_bicycle() -> None:
    bike = Vehicle(vehicle_id="V-2", site_id="S-1", mode="cargo_bike")
    for what in (
        {"vehicle_classes": ("L", "N1")},
        {"fuels": ("diesel",)},
        {"emission_below": "zero"},
        {"gross_weight_above_g": 2_800_000},
    ):
        assert reason(forbidding(**what), bike) == ""
    assert reason(forbidding(vehicle_classes=("e-bike",)), bike) != ""


@pytest.mark.parametrize(
    ("forbidden", "carried", "is_broken"),
    [
        (("3",), "3", True),
        (("3",), "8", False),
        (("1",), "1.4", True),
        (("1.4",), "1", True),
        (("1.4",), "1.1", False),
        (("2", "6.1"), "6.1", True),
    ],
)
def test_dangerous_goods_are_kept_out_by_class(
    forbidden: tuple[str, ...], carried: Any, is_broken: bool
) -> None:
    goods = Goods(hazards=(Hazard(un_number="UN0001", hazard_class=carried),))
    told = reason(forbidding(hazard_classes=forbidden), OLD_VAN, goods)
    assert bool(told) is is_broken
    assert not is_broken or f"goods of hazard class {carried} are forbidden" in told
    assert reason(forbidding(hazard_classes=forbidden), OLD_VAN) == ""


#: ADR 8.6.4, read off by hand: code, in bulk, net explosive mass in grams, closed categories.
_TUNNELS = [
    ("B", False, None, "BCDE"),
    ("B1000C", False, None, "BCDE"),
    ("B1000C", False, 1_000_000, "CDE"),
    ("B1000C", False, 1_000_001, "BCDE"),
    ("B/D", False, None, "DE"),
    ("B/D", True, None, "BCDE"),
    ("B/E", False, None, "E"),
    ("B/E", True, None, "BCDE"),
    ("C", True, None, "CDE"),
    ("C5000D", False, 5_000_000, "DE"),
    ("C5000D", False, 5_000_001, "CDE"),
    ("C/D", False, None, "DE"),
    ("C/D", True, None, "CDE"),
    ("C/E", False, None, "E"),
    ("C/E", True, None, "CDE"),
    ("D", False, None, "DE"),
    ("D/E", False, None, "E"),
    ("D/E", True, None, "DE"),
    ("E", False, None, "E"),
    (None, True, None, ""),
]


@pytest.mark.parametrize(("code", "in_bulk", "mass_g", "closed"), _TUNNELS)
def test_tunnels_are_closed_as_adr_says(
    code: Any, in_bulk: bool, mass_g: int | None, closed: str
) -> None:
    hazard = Hazard(un_number="UN0001", hazard_class="9", tunnel_code=code)
    goods = Goods(hazards=(hazard,), in_bulk=in_bulk, explosive_mass_g=mass_g)
    categories: list[Any] = ["B", "C", "D", "E"]
    assert "".join(one for one in categories if closed_to(one, goods)) == closed
    for category in categories:
        told = reason(forbidding(tunnel_category=category), OLD_VAN, goods)
        assert bool(told) is (category in closed)


def test_a_command_that_obeys_the_rules_is_refused_with_the_law() -> None:
    rules = ROUTE_RULES.fold([was_set])
    must_be_legal(rules, OLD_VAN, Goods(hazards=(PETROL,)), OUTSIDE, NOON)
    with pytest.raises(Refused) as refusal:
        must_be_legal(rules, OLD_VAN, None, INSIDE, NOON)
    assert refusal.value.code == "route_rule.broken"
    assert refusal.value.context["rule_id"] == "LEZ"
    assert refusal.value.context["source"] == "35. BImSchV"
    must_be_legal(ROUTE_RULES.fold([was_set, was_lifted]), OLD_VAN, None, INSIDE, NOON)


def test_who_does_not_know_the_hour_is_refused_by_rules_of_all_hours_only() -> None:
    hours = OpeningHours(zone="UTC", spans=(OpenSpan(day="monday", opens="07:00", closes="20:00"),))
    by_day = ROUTE_RULES.fold([other(was_set, hours=hours)])
    must_be_legal(by_day, OLD_VAN, None, INSIDE, NOON, at_any_hour=True)
    for rules, any_hour in ((by_day, False), (ROUTE_RULES.fold([was_set]), True)):
        with pytest.raises(Refused, match=r"route_rule\.broken"):
            must_be_legal(rules, OLD_VAN, None, INSIDE, NOON, at_any_hour=any_hour)


def test_an_order_is_not_allocated_to_a_vehicle_that_may_not_go_there() -> None:
    placed = OrderPlaced(
        order_id="O-1",
        customer_id="C-1",
        currency="EUR",
        lines=(OrderLine(line_no=1, sku="A", quantity=Decimal(1), unit_price_minor=100),),
        lines_known=True,
        units=Decimal(1),
        goods_minor=100,
        freight_minor=0,
        weight_g=None,
        region=None,
        placed_at=NOON,
        promised_at=NOON,
        destination=INSIDE,
    )
    site = SiteOpened(
        site_id="S-1",
        name=None,
        region=None,
        service_levels=(ServiceLevel(code="standard"),),
        daily_capacity=None,
        opened_at=None,
    )
    van = VehicleRegistered(
        vehicle_id="V-1",
        site_id="S-1",
        mode="van",
        service_levels=("standard",),
        max_weight_g=None,
        daily_capacity=None,
        cost_minor=0,
        carbon_g=0,
        registered_at=None,
        fuel="diesel",
        emission_class="euro3",
    )
    allocate = AllocateOrder(
        order_id="O-1",
        site_id="S-1",
        service_level="standard",
        vehicle_id="V-1",
        allocated_at=NOON,
    )
    given(placed).reading(site, van, was_set).when(allocate).refused(
        "route_rule.broken", vehicle_id="V-1", rule_id="LEZ", zone="Old Town", source="35. BImSchV"
    )
    clean = other(van, fuel="electric", emission_class="zero")
    for read, sent in (
        ((site, van), allocate),
        ((site, van, was_set, was_lifted), allocate),
        ((site, clean, was_set), allocate),
        ((site, van, was_set), other(allocate, vehicle_id=None)),
    ):
        [made] = given(placed).reading(*read).when(sent).events
        assert isinstance(made, OrderAllocated)
    outside = other(placed, destination=OUTSIDE)
    assert given(outside).reading(site, van, was_set).when(allocate).events


# zones


_micro = st.integers(-40, 40)


def _winding(point: tuple[int, int], corners: list[tuple[int, int]]) -> bool:
    """Whether a point is inside or on the border, the slow way: the angles under which it sees the
    sides, summed up; on the border by exact fractions."""
    turned = 0.0
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        ax, ay, bx, by = ax - point[0], ay - point[1], bx - point[0], by - point[1]
        length = (bx - ax) ** 2 + (by - ay) ** 2
        if length:
            share = Fraction(-(ax * (bx - ax) + ay * (by - ay)), length)
            near = min(max(share, Fraction(0)), Fraction(1))
            if ax + near * (bx - ax) == 0 == ay + near * (by - ay):
                return True
        turned += atan2(ax * by - ay * bx, ax * bx + ay * by)
    return round(turned / (2 * pi)) % 2 != 0


@examples(
    st.lists(st.tuples(_micro, _micro), min_size=3, max_size=9, unique=True),
    st.tuples(_micro, _micro),
    st.sampled_from([1e-6, 1e-3, 0.5]),
)
def test_a_point_is_in_a_polygon_by_whichever_way(
    corners: list[tuple[int, int]], point: tuple[int, int], scale: float
) -> None:
    """Millionths of a degree and half degrees alike; sides may cross."""
    zone = Zone(name="Z", polygon=tuple(at(y * scale, x * scale) for x, y in corners))
    assert zone.contains(at(point[1] * scale, point[0] * scale)) is _winding(point, corners)


def _share_a_point(
    one: tuple[tuple[int, int], tuple[int, int]], two: tuple[tuple[int, int], tuple[int, int]]
) -> bool:
    """Whether two stretches share a point, by exact fractions: where do their lines meet?"""
    (ax, ay), (bx, by) = one
    (cx, cy), (dx, dy) = two
    det = (bx - ax) * (dy - cy) - (by - ay) * (dx - cx)
    if det:
        t = Fraction((cx - ax) * (dy - cy) - (cy - ay) * (dx - cx), det)
        u = Fraction((cx - ax) * (by - ay) - (cy - ay) * (bx - ax), det)
        return 0 <= t <= 1 and 0 <= u <= 1
    if (bx - ax) * (cy - ay) != (by - ay) * (cx - ax):
        return False
    key = 0 if ax != bx else 1
    lows, highs = (
        [min(p[key], q[key]) for p, q in (one, two)],
        [max(p[key], q[key]) for p, q in (one, two)],
    )
    return max(lows) <= min(highs)


@examples(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=4, max_size=6))
def test_sides_that_cross_are_found_by_whichever_way(corners: list[tuple[int, int]]) -> None:
    assume(len(set(corners)) == len(corners))
    sides = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    n = len(sides)
    apart = [(i, j) for i in range(n) for j in range(i + 2, n) if (i, j) != (0, n - 1)]
    crossing = any(_share_a_point(sides[i], sides[j]) for i, j in apart)
    # A corner at which the border runs straight back.
    for before, corner, after in zip(
        [corners[-1], *corners[:-1]], corners, [*corners[1:], corners[0]], strict=True
    ):
        u = (before[0] - corner[0], before[1] - corner[1])
        v = (after[0] - corner[0], after[1] - corner[1])
        crossing |= u[0] * v[1] == u[1] * v[0] and u[0] * v[0] + u[1] * v[1] > 0
    zone = Zone(name="Z", polygon=tuple(at(y, x) for x, y in corners))
    assert zone.crosses_itself() is crossing


@examples(st.floats(-80, 80), st.floats(-179, 179), st.floats(0, 359), st.floats(0.2, 1.8))
def test_a_circle_holds_what_is_not_farther_than_its_radius(
    latitude: float, longitude: float, bearing: float, share: float
) -> None:
    """A point so far from the centre, by the direct formula of the sphere."""
    assume(abs(share - 1) > 0.001)
    radius, centre = 5000, at(latitude, longitude)
    angle, turn = share * radius / EARTH_RADIUS_M, radians(bearing)
    lat, lon = radians(centre.latitude), radians(centre.longitude)
    up = sin(lat) * cos(angle) + cos(lat) * sin(angle) * cos(turn)
    east = atan2(sin(turn) * sin(angle) * cos(lat), cos(angle) - sin(lat) * up)
    there = at(
        atan2(up, (1 - up * up) ** 0.5) * 180 / pi,
        ((lon + east) * 180 / pi + 180) % 360 - 180,
    )
    zone = Zone(name="C", centre=centre, radius_m=radius)
    assert zone.contains(there) is (share < 1)


# what a command may hold


_square = [{"latitude": y, "longitude": x} for y, x in ((0, 0), (0, 1), (1, 1), (1, 0))]


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"forbids": {}}, "forbids", "must name one of"),
        ({"forbids": {"vehicle_classes": ["N4"]}}, "vehicle_classes.0", "Input should be"),
        ({"forbids": {"vehicle_classes": ["N3", "N3"]}}, "vehicle_classes", "named once"),
        ({"forbids": {"emission_below": "euro7"}}, "emission_below", "Input should be"),
        ({"forbids": {"gross_weight_above_g": -1}}, "gross_weight_above_g", "greater than or"),
        ({"forbids": {"hazard_classes": ["10"]}}, "hazard_classes.0", "Input should be"),
        ({"forbids": {"tunnel_category": "A"}}, "tunnel_category", "'B', 'C', 'D' or 'E'"),
        ({"zone": {"name": "Z", "polygon": _square[:2]}}, "polygon", "at least three corners"),
        ({"zone": {"name": "Z", "centre": _square[0]}}, "centre", "centre and radius_m"),
        (
            {"zone": {"name": "Z", "polygon": _square, "centre": _square[0], "radius_m": 5}},
            "centre",
            "no polygon beside them",
        ),
        (
            {"zone": {"name": "Z", "centre": _square[0], "radius_m": 0}},
            "radius_m",
            "greater than 0",
        ),
        (
            {
                "zone": {
                    "name": "Z",
                    "polygon": [*_square[:2], {"latitude": 0, "longitude": -179.5}],
                }
            },
            "polygon",
            "180th meridian",
        ),
        ({"valid_until": NOON - 48 * HOUR}, "valid_until", "must be after valid_from"),
        ({"valid_from": "2026-03-01"}, "valid_from", "timezone"),
        ({"source": ""}, "source", "at least 1 character"),
        ({"source_url": "javascript:alert(1)"}, "source_url", "match pattern"),
        ({"exempt_vehicles": ["V 1"]}, "exempt_vehicles.0", "match pattern"),
        ({"exempt_vehicles": ["V-1", "V-1"]}, "exempt_vehicles", "named once"),
        ({"penalty": 100}, "penalty", "Extra inputs"),
    ],
)
def test_a_wrong_field_is_named_with_its_rule(
    fields: dict[str, Any], field: str, rule: str
) -> None:
    sound = SET.model_dump()
    assert problems(SetRouteRule, **sound) == ""
    told = problems(SetRouteRule, **sound | fields)
    assert field in told
    assert rule in told


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        (
            {
                "always": True,
                "hours": {
                    "zone": "UTC",
                    "spans": [{"day": "monday", "opens": "07:00", "closes": "20:00"}],
                },
            },
            "always: does not go",
        ),
        ({"unlimited": True, "valid_until": NOON}, "unlimited: does not go together"),
    ],
)
def test_a_change_does_not_say_two_things_at_once(fields: dict[str, Any], rule: str) -> None:
    assert rule in problems(ChangeRouteRule, rule_id="LEZ", changed_at=NOON, **fields)
