"""Clients: the accounts that orders are placed for."""

from __future__ import annotations

from polars import lit

from domain.clients import EVENTS, ClientChanged, ClientRegistered, ClientReinstated, ClientRetired
from projections.fold import first, last
from projections.table import Table

CLIENT_LIST = Table(
    name="client_list",
    key=dict.fromkeys(EVENTS, ("client_id",)),
    columns={
        "version": last(dict.fromkeys(EVENTS, "version")),
        "name": last({ClientRegistered: "name", ClientChanged: "name"}),
        "currency": last({ClientRegistered: "currency", ClientChanged: "currency"}),
        "priority": last({ClientRegistered: "priority", ClientChanged: "priority"}),
        # Whole: what was cleared is null in it, and a fold takes null for nothing said.
        "described": last({ClientRegistered: "state", ClientChanged: "state"}, json=True),
        "registered_at": first({ClientRegistered: "registered_at"}),
        "retired": last(
            {ClientRegistered: lit(False), ClientRetired: lit(True), ClientReinstated: lit(False)}
        ),
        "retired_at": last({ClientRetired: "retired_at"}),
        "retire_reason": last({ClientRetired: "reason"}),
    },
    indexes=(("name", "client_id"),),
)

TABLES = (CLIENT_LIST,)
