"""Route rules: which rule answers which command."""

from __future__ import annotations

from commands.handler import Handler, Read
from domain import route_rules
from domain.access import OPERATE

#: For handlers whose commands obey the rules: ``route_rules.must_be_legal`` wants the state.
RULES = Read(route_rules.STREAM, route_rules.ROUTE_RULES)

HANDLERS = (
    Handler(
        command=route_rules.SetRouteRule,
        roles=OPERATE,
        stream=lambda _: route_rules.STREAM,
        decider=route_rules.ROUTE_RULES,
        decide=lambda command, actor, rules: route_rules.set_rule(rules, command, actor),
    ),
    Handler(
        command=route_rules.ChangeRouteRule,
        roles=OPERATE,
        stream=lambda _: route_rules.STREAM,
        decider=route_rules.ROUTE_RULES,
        decide=lambda command, actor, rules: route_rules.change(rules, command, actor),
    ),
    Handler(
        command=route_rules.LiftRouteRule,
        roles=OPERATE,
        stream=lambda _: route_rules.STREAM,
        decider=route_rules.ROUTE_RULES,
        decide=lambda command, actor, rules: route_rules.lift(rules, command, actor),
    ),
)
