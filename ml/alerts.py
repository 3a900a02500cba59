"""The watcher: raises an alert where a condition is met, and resolves it when it is not any more.

It runs behind the log, on what the read models say. An alert's id follows from its kind, its
subject and the how many-th time it is, so that two watchers, or one that died before it heard an
answer, raise it once. What is older than a rule's ``max_age_days`` is history, and of each kind no
more than ``most_open`` are open: where there would be more, one alert says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg.rows import dict_row

from commands import Bus, Context, TooMuchContention
from domain.access import Role
from domain.alert_rules import AlertKind, Rule, rules_of
from domain.alerts import EndAlertCause, RaiseAlert
from domain.errors import Refused
from domain.values import Command
from eventstore import Log, LogUnavailable
from eventstore.ids import named_id
from eventstore.log import Connection
from ml.alert_conditions import CONDITIONS, Condition

ACTOR = "service:alerts"
_WATCHING = 0x_C4A1_0041
_LOOK_S = 5.0
#: So far it is counted how many there would be.
_COUNTED = 10_000
_log = structlog.get_logger(__name__)
_OUTAGE = (psycopg.OperationalError, psycopg.InterfaceError, LogUnavailable, TooMuchContention)

# Each organisation once, by steps through the index: without reading what belongs to it.
_ORGANISATIONS = """WITH RECURSIVE found AS (
        (SELECT organisation_id FROM read_models.{table} ORDER BY organisation_id LIMIT 1)
        UNION ALL
        SELECT (SELECT t.organisation_id FROM read_models.{table} t
            WHERE t.organisation_id > f.organisation_id ORDER BY t.organisation_id LIMIT 1)
        FROM found f WHERE f.organisation_id IS NOT NULL)
    SELECT organisation_id FROM found WHERE organisation_id IS NOT NULL"""
_OF = (
    *("open_promises", "stock_cover", "open_anomalies", "failed_tasks", "model_alerts"),
    *("alert_subjects", "alert_rule_list"),
)
_LETTERS = """SELECT DISTINCT e.organisation_id FROM dead_letters d
    JOIN events e ON e.notification_id = d.position WHERE d.suffix = ''"""
_RULES = "SELECT kind, told FROM read_models.alert_rule_list WHERE organisation_id = %s"
_COVERED = """SELECT alert_id, kind, subject_id FROM read_models.alert_subjects
    WHERE organisation_id = %s AND covered"""
_MOVED = """SELECT greatest(0,
    (SELECT max(last_position) FROM read_models.stock_cover WHERE organisation_id = %(one)s),
    (SELECT max(last_position) FROM read_models.product_list WHERE organisation_id = %(one)s))"""


@dataclass(frozen=True, slots=True)
class _Covered:
    alert_id: str
    kind: str
    subject_id: str


@dataclass(slots=True)
class Looked:
    """What a look has led to: ids of alerts."""

    raised: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Look:
    """A look at one organisation."""

    organisation_id: UUID
    now: datetime
    rules: dict[AlertKind, Rule]
    covered: list[_Covered]
    moved_since: dict[AlertKind, int]
    moved_to: int

    def bound(self, condition: Condition, rule: Rule, limit: int) -> dict[str, Any]:
        """What a query is asked with."""
        kind = condition.kind
        return {
            "organisation_id": self.organisation_id,
            "kind": kind.value,
            "now": self.now,
            "threshold": rule.threshold,
            "since": self.now - timedelta(days=rule.max_age_days),
            "moved_since": self.moved_since.get(kind, 0),
            "subjects": None,
            "limit": limit,
        }

    def of(self, kind: AlertKind) -> list[_Covered]:
        """What is covered of a kind."""
        return [one for one in self.covered if one.kind == kind]


class Watcher:
    """Watches all organisations.

    Args:
        log: the log.
        bus: takes commands.
    """

    def __init__(self, log: Log, bus: Bus) -> None:
        self._log, self._bus = log, bus
        # Up to where movements of stock were looked at; at the start all of it is looked at.
        # So it is by another rule.
        self._moved: dict[tuple[UUID, AlertKind], tuple[int, Rule]] = {}

    async def run(self) -> None:
        """Look every few seconds until cancelled; of several processes one does it at a time."""
        while True:
            try:
                async with self._log.connection() as connection:
                    row = await (
                        await connection.execute("SELECT pg_try_advisory_lock(%s)", (_WATCHING,))
                    ).fetchone()
                    try:
                        if row is not None and row[0]:
                            await self.look(datetime.now(UTC))
                    finally:
                        await connection.execute("SELECT pg_advisory_unlock(%s)", (_WATCHING,))
            except psycopg.errors.UndefinedTable:
                pass  # the read models are not made yet
            except _OUTAGE as error:
                _log.warning("alerts wait", error=str(error).strip())
            except Exception:
                _log.exception("alerts were not looked after")
            await asyncio.sleep(_LOOK_S)

    async def look(self, now: datetime, organisation_id: UUID | None = None) -> Looked:
        """Raise and resolve what is to be at a moment, of one organisation or of all."""
        looked = Looked()
        organisations = (
            await self._organisations() if organisation_id is None else [organisation_id]
        )
        for one in organisations:
            try:
                await self._look_at(one, now, looked)
            except (psycopg.errors.UndefinedTable, *_OUTAGE):
                raise  # all of them wait
            except Exception:
                if organisation_id is not None:
                    raise
                _log.exception("an organisation is not looked after", organisation_id=str(one))
        return looked

    async def _organisations(self) -> list[UUID]:
        found: dict[UUID, None] = {}
        async with self._log.connection() as connection:
            for query in (*(_ORGANISATIONS.format(table=table) for table in _OF), _LETTERS):
                for (one,) in await (await connection.execute(query.encode())).fetchall():
                    found[one] = None
        return list(found)

    async def _look_at(self, organisation_id: UUID, now: datetime, looked: Looked) -> None:
        async with self._log.connection() as connection:
            look = await self._begin(connection, organisation_id, now)
            for condition in CONDITIONS:
                await self._end(connection, look, condition, looked)
                await self._raise(connection, look, condition, looked)

    async def _begin(self, connection: Connection, organisation_id: UUID, now: datetime) -> _Look:
        rules = rules_of(await _fetched(connection, _RULES, organisation_id))
        # First, so that what moves meanwhile is looked at next time.
        moved = await connection.execute(_MOVED.encode(), {"one": organisation_id})
        [(moved_to,)] = await moved.fetchall()
        covered = [_Covered(*row) for row in await _fetched(connection, _COVERED, organisation_id)]
        since = {
            kind: moved
            for (one, kind), (moved, rule) in self._moved.items()
            if one == organisation_id and rule == rules[kind]
        }
        return _Look(organisation_id, now, rules, covered, since, moved_to)

    async def _end(
        self, connection: Connection, look: _Look, condition: Condition, looked: Looked
    ) -> None:
        """Resolve the alerts of a kind whose cause is gone."""
        rule, mine = look.rules[condition.kind], look.of(condition.kind)
        if not mine:
            return
        still: set[str] = set()
        if rule.enabled:
            bound = look.bound(condition, rule, 0) | {"subjects": [one.subject_id for one in mine]}
            still = {row["subject_id"] for row in await _rows(connection, condition.still, bound)}
        for one in mine:
            if one.subject_id not in still and await self._ended(look, one.alert_id):
                looked.ended.append(one.alert_id)
                look.covered.remove(one)

    async def _raise(
        self, connection: Connection, look: _Look, condition: Condition, looked: Looked
    ) -> None:
        """Raise alerts for what meets a condition and is not covered."""
        kind, rule = condition.kind, look.rules[condition.kind]
        if not rule.enabled:
            await self._enough(look, kind, looked)
            return
        if condition.by_stock and look.moved_since.get(kind, -1) >= look.moved_to:
            return
        room = max(rule.most_open - len(look.of(kind)), 0)
        found = await _rows(connection, condition.new, look.bound(condition, rule, room + 1))
        for row in found[:room]:
            alert_id = await self._raised(look, condition, rule, row)
            if alert_id is not None:
                looked.raised.append(alert_id)
        if len(found) <= room:
            # All there is has an alert; what is to be next comes with a movement.
            self._moved[look.organisation_id, kind] = (look.moved_to, rule)
            await self._enough(look, kind, looked)
            return
        [row] = await _rows(connection, condition.count, look.bound(condition, rule, _COUNTED))
        await self._too_many(connection, look, kind, rule, row["value"] - room, looked)

    async def _too_many(
        self,
        connection: Connection,
        look: _Look,
        kind: AlertKind,
        rule: Rule,
        more: int,
        looked: Looked,
    ) -> None:
        """Say that there would be more alerts of a kind than there may be."""
        summary = look.rules[AlertKind.TOO_MANY]
        if not summary.enabled or any(
            one.subject_id == kind for one in look.of(AlertKind.TOO_MANY)
        ):
            return
        query = """SELECT coalesce(max(times), 0) AS times FROM read_models.alert_subjects
            WHERE organisation_id = %(organisation_id)s AND kind = 'too_many'
                AND subject_id = %(subject)s"""
        [known] = await _rows(
            connection, query, {"organisation_id": look.organisation_id, "subject": kind.value}
        )
        told = f"{more:,}" if more < _COUNTED - rule.most_open else f"more than {more:,}"
        sentence = (
            f"There are {told} more cases of {kind} than the {rule.most_open:,} alerts that its "
            "rule allows: they have none"
        )
        row = {"subject_id": kind.value, "value": float(more), "times": known["times"]}
        alert_id = await self._send_raise(look, AlertKind.TOO_MANY, summary, row, sentence)
        if alert_id is not None:
            looked.raised.append(alert_id)

    async def _enough(self, look: _Look, kind: AlertKind, looked: Looked) -> None:
        """Take back that there would be too many of a kind."""
        for one in look.of(AlertKind.TOO_MANY):
            if one.subject_id == kind and await self._ended(look, one.alert_id):
                looked.ended.append(one.alert_id)

    async def _raised(
        self, look: _Look, condition: Condition, rule: Rule, row: dict[str, Any]
    ) -> str | None:
        sentence = condition.sentence(row)
        return await self._send_raise(look, condition.kind, rule, row, sentence)

    async def _send_raise(
        self, look: _Look, kind: AlertKind, rule: Rule, row: dict[str, Any], sentence: str
    ) -> str | None:
        command = RaiseAlert(
            kind=kind,
            subject_id=row["subject_id"],
            occurrence=row["times"] + 1,
            severity=rule.severity,
            sentence=sentence[:500],
            value=row["value"],
            threshold=rule.threshold if row.get("threshold") is None else row["threshold"],
            raised_at=look.now,
        )
        name = f"alert {kind} {command.subject_id} {command.occurrence}"
        return await self._say(look, name, command)

    async def _ended(self, look: _Look, alert_id: str) -> bool:
        command = EndAlertCause(alert_id=alert_id, ended_at=look.now)
        return await self._say(look, None, command) is not None

    async def _say(self, look: _Look, name: str | None, command: Command) -> str | None:
        """Send a command; the alert's id where it changed something."""
        context = Context(
            organisation_id=look.organisation_id, actor=ACTOR, roles=frozenset({Role.SERVICE})
        )
        if name is not None:
            id_ = named_id(look.organisation_id, name)
            context = Context(
                organisation_id=look.organisation_id,
                actor=ACTOR,
                roles=frozenset({Role.SERVICE}),
                command_id=id_,
                # Not its figures: whoever was first to see it has said it.
                digest=id_.bytes,
            )
        try:
            receipt = await self._bus.execute(command, context)
        except Refused as refusal:  # it was said before, and the read models do not know it yet
            _log.debug("alert not told of", code=refusal.code)
            return None
        return None if receipt.repeated else receipt.stream.partition("/")[2]


async def _fetched(connection: Connection, query: str, *values: Any) -> Sequence[Any]:
    return await (await connection.execute(query.encode(), values)).fetchall()


async def _rows(connection: Connection, query: str, bound: dict[str, Any]) -> list[dict[str, Any]]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        # Planned each time: a plan made while there was little would read all of it later on.
        await cursor.execute(query.encode(), bound, prepare=False)
        return await cursor.fetchall()
