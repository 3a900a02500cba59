"""Models: what was registered and approved, which one has which role, how they do."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

from domain.errors import Refused
from readmodels.database import ReadModels, Row
from readmodels.page import Page, decode, page
from readmodels.sorting import Column, Sorting

# A model has the role that it was given last, unless it was ended, another model has it by now, or
# the model is retired.
_COLUMNS = """m.model_hash, m.version, m.kind, m.stage,
    CASE WHEN m.retired IS NULL THEN ARRAY(
        SELECT r.role FROM read_models.model_roles r
        WHERE r.organisation_id = m.organisation_id AND r.model_hash = m.model_hash
          AND r.role = m.role
        ORDER BY r.role) ELSE '{}'::text[] END AS roles,
    nullif(m.stopped, '') AS stopped, m.retired, m.registered_by, m.registered_at, m.approved_by,
    m.approved_at, m.deployed_by, m.deployed_at, m.deployed_position, m.last_position"""

_FROM = "FROM read_models.model_list m WHERE m.organisation_id = %(organisation_id)s"

_GET = f"""SELECT {_COLUMNS}, m.registered, m.measured->'measurement' AS measurement
    {_FROM} AND m.model_hash = %(model_hash)s"""

_LIST = f"""SELECT {_COLUMNS} {_FROM}
      AND (%(of_kind)s::text IS NULL OR m.kind = %(of_kind)s)
      AND (%(stage)s::text IS NULL OR m.stage = %(stage)s)
      AND (%(retired)s::bool IS NULL OR (m.retired IS NOT NULL) = %(retired)s)"""

SORTING = Sorting(
    {
        "registered_at": Column(datetime, sql="m.registered_at"),
        "model_hash": Column(str, sql="m.model_hash"),
        "kind": Column(str, sql="m.kind"),
        "stage": Column(str, sql="m.stage"),
        "approved_at": Column(datetime, nullable=True, sql="m.approved_at"),
        "deployed_at": Column(datetime, nullable=True, sql="m.deployed_at"),
        "last_position": Column(int, sql="m.last_position"),
    },
    usual="-registered_at",
    key=("model_hash",),
)

_LIVE = """SELECT r.kind, r.role, r.model_hash, r.share, r.since, r.since_position,
        nullif(m.stopped, '') AS stopped, greatest(r.last_position, m.last_position)
            AS last_position
    FROM read_models.model_roles r JOIN read_models.model_list m
      ON m.organisation_id = r.organisation_id AND m.model_hash = r.model_hash
    WHERE r.organisation_id = %(organisation_id)s AND m.retired IS NULL AND r.role = m.role
      AND (%(kind)s::text IS NULL OR r.kind = %(kind)s)
      AND (r.kind, r.role) > (%(after_kind)s, %(after_role)s)
    ORDER BY r.kind, r.role LIMIT %(limit)s"""

_DEPLOYMENTS = """SELECT position, kind, role, model_hash, by, at, reason
    FROM read_models.model_deployments
    WHERE organisation_id = %(organisation_id)s
      AND (%(kind)s::text IS NULL OR kind = %(kind)s)
      AND (%(model_hash)s::text IS NULL OR model_hash = %(model_hash)s)
      AND (%(before)s::bigint IS NULL OR position < %(before)s)
    ORDER BY position DESC LIMIT %(limit)s"""

_MEASUREMENTS = """SELECT model_hash, position, kind, measured_at,
        measurement->'measurement' AS measurement
    FROM read_models.model_measurements
    WHERE organisation_id = %(organisation_id)s AND model_hash = %(model_hash)s
      AND (%(before)s::bigint IS NULL OR position < %(before)s)
    ORDER BY position DESC LIMIT %(limit)s"""

_MONTHS = """SELECT model_hash, month, decisions, overridden, outcomes, occurred, "right",
        accuracy, brier, foretold_share, occurred_share, override_rate, last_position
    FROM read_models.model_months
    WHERE organisation_id = %(organisation_id)s AND model_hash = %(model_hash)s
      AND (%(after)s::date IS NULL OR month > %(after)s)
    ORDER BY month LIMIT %(limit)s"""

_ALERTS = """SELECT model_hash, kind, measure, nullif(feature, '') AS feature, open, value,
        threshold, sentence, raised_at, cleared_at, times, last_position
    FROM read_models.model_alerts
    WHERE organisation_id = %(organisation_id)s
      AND (%(open)s::bool IS NULL OR open = %(open)s)
      AND (%(kind)s::text IS NULL OR kind = %(kind)s)
      AND (%(model_hash)s::text IS NULL OR model_hash = %(model_hash)s)
      AND (%(before)s::timestamptz IS NULL OR (raised_at, model_hash, measure, feature) <
           (%(before)s::timestamptz, %(before_hash)s, %(before_measure)s, %(before_feature)s))
    ORDER BY raised_at DESC, model_hash DESC, measure DESC, model_alerts.feature DESC
    LIMIT %(limit)s"""


class ModelSummary(Row):
    """A model and where it stands. ``roles``: what it does of its kind now; ``stopped`` and
    ``retired``: why."""

    model_hash: str
    version: int
    kind: str
    stage: str
    roles: list[str]
    stopped: str | None
    retired: str | None
    registered_by: str
    registered_at: datetime
    approved_by: str | None
    approved_at: datetime | None
    deployed_by: str | None
    deployed_at: datetime | None
    deployed_position: int | None
    last_position: int


class ModelDetail(ModelSummary):
    """A model with its training, its metrics and its baseline's, as registered, and its latest
    measurement."""

    registered: dict[str, Any]
    measurement: dict[str, Any] | None

    @property
    def features(self) -> list[str]:
        """The names of what it sees, in order."""
        return list(self.registered["training"]["features"])


class LiveModel(Row):
    """A model in its role. ``share``: of the requests that a challenger decides; ``stopped``: why
    it decides nothing for now."""

    kind: str
    role: str
    model_hash: str
    share: float
    since: datetime
    since_position: int
    stopped: str | None
    last_position: int


class Deployment(Row):
    """A change of a role. ``role`` is ``none`` where the model was withdrawn or retired;
    ``reason``: of that, or of a rollback."""

    position: int
    kind: str
    role: str
    model_hash: str
    by: str
    at: datetime
    reason: str | None


class ModelMeasurement(Row):
    """A model's figures over the decisions of a stretch of the log."""

    model_hash: str
    position: int
    kind: str
    measured_at: datetime
    measurement: dict[str, Any]


class ModelMonth(Row):
    """A model's decisions in the month (UTC) in which they were made, overridden or became known.

    ``right``: the outcomes that it foretold (from 50 % it says that it occurs);
    ``foretold_share``: the mean of what it foretold, to compare with ``occurred_share``.
    """

    model_hash: str
    month: date
    decisions: int
    overridden: int
    outcomes: int
    occurred: int
    right: int
    accuracy: float | None
    brier: float | None
    foretold_share: float | None
    occurred_share: float | None
    override_rate: float | None
    last_position: int


class ModelAlert(Row):
    """A figure of a model that has passed its threshold, and whether it still does."""

    model_hash: str
    kind: str
    measure: str
    feature: str | None
    open: bool
    value: float
    threshold: float
    sentence: str
    raised_at: datetime
    cleared_at: datetime | None
    times: int
    last_position: int


async def get_model(read: ReadModels, model_hash: str) -> ModelDetail | None:
    """One model, or None."""
    return await read.one(ModelDetail, _GET, model_hash=model_hash)


async def list_models(
    read: ReadModels,
    *,
    kind: str | None = None,
    stage: str | None = None,
    retired: bool | None = None,
    sort: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[ModelSummary]:
    """Models, the latest registered first."""
    by = SORTING.by(sort, cursor or None)
    rows = await read.rows(
        ModelSummary,
        _LIST + by.sql,
        of_kind=kind,
        stage=stage,
        retired=retired,
        limit=limit + 1,
        **by.parameters,
    )
    return by.page(rows, limit)


async def live_models(
    read: ReadModels, *, kind: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[LiveModel]:
    """The models in their roles, by kind and role; retired and withdrawn ones have none."""
    after_kind, after_role = decode(cursor, str, str) if cursor else ("", "")
    rows = await read.rows(
        LiveModel, _LIVE, kind=kind, after_kind=after_kind, after_role=after_role, limit=limit + 1
    )
    return page(rows, limit, lambda row: (row.kind, row.role))


async def champion(read: ReadModels, kind: str) -> LiveModel | None:
    """The champion of a kind, or None."""
    live = await live_models(read, kind=kind)
    return next((one for one in live.items if one.role == "champion"), None)


async def must_be_champion(read: ReadModels, model_hash: str) -> None:
    """Refuse what only the champion of a kind can be told. A model that is not known passes: its
    own rules refuse it.

    Raises:
        Refused: another model is the champion, or none is.
    """
    model = await get_model(read, model_hash)
    if model is None or "champion" in model.roles:
        return
    live = await champion(read, model.kind)
    now = "none" if live is None else live.model_hash
    raise Refused("model.not_champion", model_hash=model_hash, kind=model.kind, champion=now)


async def model_deployments(
    read: ReadModels,
    *,
    kind: str | None = None,
    model_hash: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Deployment]:
    """Changes of roles, the latest first."""
    (before,) = decode(cursor, int) if cursor else (None,)
    rows = await read.rows(
        Deployment, _DEPLOYMENTS, kind=kind, model_hash=model_hash, before=before, limit=limit + 1
    )
    return page(rows, limit, lambda row: (row.position,))


def champions(deployments: Iterable[Deployment]) -> list[str]:
    """The models that a rollback may choose from, by all changes of one kind's roles, the latest
    first: the champion, then the one before it, and so on. What was rolled back from,
    withdrawn or retired is not among them."""
    found: list[str] = []
    for one in sorted(deployments, key=lambda one: one.position):
        if one.role == "champion" and one.reason is not None and one.model_hash in found:
            del found[found.index(one.model_hash) + 1 :]
        elif one.role in ("champion", "none"):
            found = [name for name in found if name != one.model_hash]
            found += [one.model_hash] * (one.role == "champion")
    return found[::-1]


async def model_measurements(
    read: ReadModels, model_hash: str, *, cursor: str | None = None, limit: int = 50
) -> Page[ModelMeasurement]:
    """A model's figures, the latest first."""
    (before,) = decode(cursor, int) if cursor else (None,)
    rows = await read.rows(
        ModelMeasurement, _MEASUREMENTS, model_hash=model_hash, before=before, limit=limit + 1
    )
    return page(rows, limit, lambda row: (row.position,))


async def model_months(
    read: ReadModels, model_hash: str, *, cursor: str | None = None, limit: int = 50
) -> Page[ModelMonth]:
    """A model's months, the earliest first."""
    (after,) = decode(cursor, date) if cursor else (None,)
    rows = await read.rows(ModelMonth, _MONTHS, model_hash=model_hash, after=after, limit=limit + 1)
    return page(rows, limit, lambda row: (row.month,))


async def model_alerts(
    read: ReadModels,
    *,
    is_open: bool | None = None,
    kind: str | None = None,
    model_hash: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[ModelAlert]:
    """Alerts, the latest raised first."""
    before, before_hash, measure, feature = (
        decode(cursor, datetime, str, str, str) if cursor else (None, None, None, None)
    )
    rows = await read.rows(
        ModelAlert,
        _ALERTS,
        open=is_open,
        kind=kind,
        model_hash=model_hash,
        before=before,
        before_hash=before_hash,
        before_measure=measure,
        before_feature=feature,
        limit=limit + 1,
    )
    return page(
        rows, limit, lambda row: (row.raised_at, row.model_hash, row.measure, row.feature or "")
    )
