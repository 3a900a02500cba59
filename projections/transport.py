"""Vehicles, and the routes about which something was said."""

from __future__ import annotations

from polars import lit

from domain.transport import RouteAllowed, RouteForbidden, VehicleRegistered, VehicleRetired
from projections.fold import first, last
from projections.table import Table

VEHICLE_LIST = Table(
    name="vehicle_list",
    key={VehicleRegistered: ("vehicle_id",), VehicleRetired: ("vehicle_id",)},
    columns={
        "version": last({VehicleRegistered: "version", VehicleRetired: "version"}),
        "site_id": first({VehicleRegistered: "site_id", VehicleRetired: "site_id"}),
        "mode": first({VehicleRegistered: "mode"}),
        "service_levels": first({VehicleRegistered: "service_levels"}),
        "max_weight_g": first({VehicleRegistered: "max_weight_g"}),
        "daily_capacity": first({VehicleRegistered: "daily_capacity"}),
        "cost_minor": first({VehicleRegistered: "cost_minor"}),
        "carbon_g": first({VehicleRegistered: "carbon_g"}),
        "registered_at": first({VehicleRegistered: "registered_at"}),
        "retired": last({VehicleRegistered: lit(False), VehicleRetired: lit(True)}),
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
