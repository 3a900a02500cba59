"""Vehicles, and the routes about which something was said."""

from __future__ import annotations

from polars import lit

from domain.routes import RouteAllowed, RouteForbidden
from domain.transport import (
    VehicleChanged,
    VehicleMoved,
    VehicleRegistered,
    VehicleReinstated,
    VehicleRetired,
)
from projections.fold import Fold, first, last
from projections.table import Table

_VEHICLE = (VehicleRegistered, VehicleChanged, VehicleMoved, VehicleRetired, VehicleReinstated)
#: Those that tell all that may be changed.
_DESCRIBED = (VehicleRegistered, VehicleChanged, VehicleMoved)


def _said(field: str) -> Fold:
    return last(dict.fromkeys(_DESCRIBED, field))


VEHICLE_LIST = Table(
    name="vehicle_list",
    key=dict.fromkeys(_VEHICLE, ("vehicle_id",)),
    columns={
        "version": last(dict.fromkeys(_VEHICLE, "version")),
        "site_id": last(dict.fromkeys(_VEHICLE, "site_id")),
        "mode": _said("mode"),
        "service_levels": last(
            {VehicleRegistered: "service_levels", VehicleMoved: "service_levels"}
        ),
        "max_weight_g": _said("max_weight_g"),
        "max_volume_cm3": _said("max_volume_cm3"),
        "gross_weight_g": _said("gross_weight_g"),
        "daily_capacity": _said("daily_capacity"),
        "vehicle_class": _said("vehicle_class"),
        "emission_class": _said("emission_class"),
        "fuel": _said("fuel"),
        "hazard_permits": _said("hazard_permits"),
        "cost_minor": _said("cost_minor"),
        "carbon_g": _said("carbon_g"),
        "cost_per_km_minor": _said("cost_per_km_minor"),
        "cost_per_hour_minor": _said("cost_per_hour_minor"),
        "fixed_cost_minor": _said("fixed_cost_minor"),
        "currency": _said("currency"),
        "registered_at": first({VehicleRegistered: "registered_at"}),
        "retired": last(
            {
                VehicleRegistered: lit(False),
                VehicleRetired: lit(True),
                VehicleReinstated: lit(False),
            }
        ),
        "retired_at": last({VehicleRetired: "retired_at"}),
        "retire_reason": last({VehicleRetired: "reason"}),
    },
    indexes=(("site_id", "vehicle_id"),),
)

ROUTE_LIST = Table(
    name="route_list",
    key=dict.fromkeys((RouteForbidden, RouteAllowed), ("site_id", "region")),
    columns={
        "version": last({RouteForbidden: "version", RouteAllowed: "version"}),
        "forbidden": last({RouteForbidden: lit(True), RouteAllowed: lit(False)}),
        "reason": last({RouteForbidden: "reason"}),
        "forbidden_at": last({RouteForbidden: "forbidden_at"}),
        "allowed_at": last({RouteAllowed: "allowed_at"}),
    },
)

TABLES = (VEHICLE_LIST, ROUTE_LIST)
