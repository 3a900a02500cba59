"""Route rules: which vehicles and goods may go where, as data."""

from __future__ import annotations

from polars import lit

from domain.route_rules import EVENTS, RouteRuleChanged, RouteRuleLifted, RouteRuleSet
from projections.fold import last
from projections.table import Table

ROUTE_RULE_LIST = Table(
    name="route_rule_list",
    key=dict.fromkeys(EVENTS, ("rule_id",)),
    columns={
        "version": last(dict.fromkeys(EVENTS, "version")),
        "name": last({RouteRuleSet: "name", RouteRuleChanged: "name"}),
        "source": last({RouteRuleSet: "source", RouteRuleChanged: "source"}),
        "valid_from": last({RouteRuleSet: "valid_from", RouteRuleChanged: "valid_from"}),
        # Whole: what was cleared is null in it, and a fold takes null for nothing said.
        "described": last({RouteRuleSet: "state", RouteRuleChanged: "state"}, json=True),
        "set_by": last({RouteRuleSet: "set_by"}),
        "set_at": last({RouteRuleSet: "set_at"}),
        "lifted": last(
            {RouteRuleSet: lit(False), RouteRuleLifted: lit(True)},
        ),
        "lifted_by": last({RouteRuleLifted: "lifted_by"}),
        "lifted_at": last({RouteRuleLifted: "lifted_at"}),
        "lift_reason": last({RouteRuleLifted: "reason"}),
    },
)

TABLES = (ROUTE_RULE_LIST,)
