"""Rules of alerts: of each kind, when one is raised, how grave it is, and when nobody is to be
woken for it. Where nobody has set one, the usual one holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from enum import StrEnum
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from domain.decider import Decider
from domain.time_windows import ClockTime, Zone
from domain.values import Command, Event, UtcTime


class AlertKind(StrEnum):
    """What somebody should look at."""

    ORDER_LATE = "order_late"
    ORDER_LATE_AHEAD = "order_late_ahead"
    STOCK_OUT = "stock_out"
    STOCK_OUT_AHEAD = "stock_out_ahead"
    ANOMALY = "anomaly"
    MODEL_DRIFT = "model_drift"
    TASK_FAILED = "task_failed"
    DEAD_LETTERS = "dead_letters"
    #: There would be more alerts of a kind than its rule allows.
    TOO_MANY = "too_many"


class Severity(StrEnum):
    """How grave it is, from the least to the most."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


#: From the least to the most.
RANK: Mapping[Severity, int] = {severity: rank for rank, severity in enumerate(Severity)}


class SetAlertRule(Command):
    """Say when an alert of a kind is raised, as a whole.

    ``threshold``: order_late: hours past the promise; order_late_ahead: hours that an order needs
    where its lane is not known; stock_out: pieces; stock_out_ahead: days that goods need to come;
    anomaly: foretold risk, from 0 to 1; dead_letters: so many of one read model. The usual one
    where it is left out. ``max_age_days``: what is older than that is history, and raises none.
    ``most_open``: so many are open at a time at the most. ``quiet_from``, ``quiet_to``: by the
    clock of ``zone``, when no mail is sent of it unless it is critical; it is sent afterwards.
    """

    alert_kind: AlertKind
    enabled: bool = True
    threshold: Annotated[float, Field(ge=0, le=10_000)] | None = None
    severity: Severity | None = None
    max_age_days: Annotated[int, Field(ge=1, le=366)] = 14
    most_open: Annotated[int, Field(ge=1, le=1000)] = 200
    quiet_from: ClockTime | None = None
    quiet_to: ClockTime | None = None
    zone: Zone = "UTC"
    set_at: UtcTime

    @model_validator(mode="after")
    def _is_quiet_from_and_to(self) -> Self:
        if (self.quiet_from is None) != (self.quiet_to is None):
            raise ValueError("quiet_from, quiet_to: both, or neither")
        if self.quiet_from is not None and self.quiet_from == self.quiet_to:
            raise ValueError("quiet_to: must be another time than quiet_from")
        return self


class AlertRuleSet(Event):
    """The rule of a kind of alert, from here on."""

    kind: str
    enabled: bool
    threshold: float
    severity: str
    max_age_days: int
    most_open: int
    quiet_from: str | None
    quiet_to: str | None
    zone: str
    set_by: str
    set_at: datetime


EVENTS: tuple[type[Event], ...] = (AlertRuleSet,)

#: The stream that an event belongs to, by its fields.
STREAM = "alert_rules/{kind}"
STREAMS: dict[type[Event], str] = dict.fromkeys(EVENTS, STREAM)

SENTENCES: dict[type[Event], str] = {
    AlertRuleSet: "{set_by} set the rule of {kind}: threshold {threshold}, {severity}",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """When an alert of a kind is raised, and how grave it is."""

    threshold: float
    severity: Severity
    enabled: bool = True
    max_age_days: int = 14
    most_open: int = 200
    quiet_from: str | None = None
    quiet_to: str | None = None
    zone: str = "UTC"

    def is_quiet(self, at: datetime) -> bool:
        """Whether nobody is to be woken for it at a moment."""
        if self.quiet_from is None or self.quiet_to is None or self.severity is Severity.CRITICAL:
            return False
        now = at.astimezone(ZoneInfo(self.zone)).time()
        start, end = _time(self.quiet_from), _time(self.quiet_to)
        return start <= now < end if start < end else now >= start or now < end


def _time(clock: str) -> time:
    return time(int(clock[:2]) % 24, int(clock[3:]))


#: What holds where nobody has set a rule. A lane that is not known takes two days, and goods come
#: a week after they are ordered: the log knows no suppliers' times.
USUAL: Mapping[AlertKind, Rule] = {
    AlertKind.ORDER_LATE: Rule(0.0, Severity.WARNING),
    AlertKind.ORDER_LATE_AHEAD: Rule(48.0, Severity.INFO),
    AlertKind.STOCK_OUT: Rule(0.0, Severity.CRITICAL),
    AlertKind.STOCK_OUT_AHEAD: Rule(7.0, Severity.WARNING),
    AlertKind.ANOMALY: Rule(0.9, Severity.WARNING),
    AlertKind.MODEL_DRIFT: Rule(0.0, Severity.WARNING),
    AlertKind.TASK_FAILED: Rule(0.0, Severity.WARNING),
    AlertKind.DEAD_LETTERS: Rule(1.0, Severity.CRITICAL),
    AlertKind.TOO_MANY: Rule(0.0, Severity.CRITICAL),
}


def evolve(rule: Rule | None, event: Event) -> Rule | None:
    """The rule after one more of its events."""
    return rule_of(event) if isinstance(event, AlertRuleSet) else rule


def rule_of(event: AlertRuleSet) -> Rule:
    """The rule that an event sets."""
    told = event.model_dump(exclude={"kind", "set_by", "set_at", "severity"})
    return Rule(**told, severity=Severity(event.severity))


def rules_of(told: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[AlertKind, Rule]:
    """The rule of each kind: the usual ones, and those that were set, by kind and stored event."""
    found = dict(USUAL)
    known = {kind.value: kind for kind in AlertKind}
    for kind, event in told:
        if kind in known:
            found[known[kind]] = rule_of(AlertRuleSet.model_validate(event))
    return found


ALERT_RULES: Decider[Rule | None] = Decider(initial=None, evolve=evolve)


def set_rule(_: Rule | None, command: SetAlertRule, actor: str) -> Sequence[Event]:
    """Replace a kind's rule as a whole."""
    usual = USUAL[command.alert_kind]
    told = command.model_dump(exclude={"alert_kind"})
    told["threshold"] = usual.threshold if command.threshold is None else command.threshold
    told["severity"] = (command.severity or usual.severity).value
    return [AlertRuleSet(**told, kind=command.alert_kind.value, set_by=actor)]
