"""Every kind of decision by name."""

from __future__ import annotations

from collections.abc import Mapping

from commands import HANDLERS as COMMAND_HANDLERS
from commands.decisions import request_handler
from commands.handler import Handler
from commands.lines import importable
from commands.policies import handlers as policy_handlers
from commands.schedules import handlers as schedule_handlers
from commands.tasks import handlers as task_handlers
from domain.values import Command
from ml.anomaly import ANOMALY
from ml.estimates import ESTIMATES
from ml.fulfilment import FULFILMENT
from ml.kind import Kind
from ml.replenishment import REPLENISHMENT
from ml.tables import DECIDED, GOVERNANCE, REQUEST
from projections.table import Table

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (FULFILMENT, REPLENISHMENT, ANOMALY)}

#: The tables that features are folded into; the decision consumer keeps them.
FEATURE_TABLES: tuple[Table, ...] = tuple(
    dict.fromkeys(
        (
            *(table for kind in KINDS.values() for table in kind.tables),
            *GOVERNANCE,
            DECIDED,
            REQUEST,
        )
    )
)

#: All command handlers, with those that have to know the kinds.
HANDLERS: Mapping[type[Command], Handler] = {
    **COMMAND_HANDLERS,
    **{
        handler.command: handler
        for handler in (
            request_handler({name: kind.subject for name, kind in KINDS.items()}),
            *policy_handlers(KINDS),
            *task_handlers(KINDS, importable, ESTIMATES),
            *schedule_handlers({*KINDS, *ESTIMATES}, {*KINDS, "demand"}),
        )
    },
}
