"""How a decision came about and what came of it: a tree, in which causes carry their effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal
from uuid import UUID

from pydantic import Field

from domain import decisions, orders
from domain.decisions import DecisionConfirmed, DecisionMade, DecisionOverridden
from domain.orders import OrderAllocated
from readmodels.audit import AuditLine
from readmodels.database import ReadModels, Row
from readmodels.positions import ReadModelBehind

#: More events than any decision has; what would be more is left out, and said to be.
MOST = 2000
#: Steps from the root that causes are followed; so far beyond any story that it is only a bound.
FARTHEST = 500
#: Levels that steps are nested in. What is caused deeper down stands on the last one.
DEEPEST = 12
#: Decisions that were asked for instead of one, and instead of those.
_MOST_DECISIONS = 100

# The decision, those that were asked for instead of it, and what they say of the rest. Here and
# below a limit outside ends the recursion: the database looks for no more rows than are fetched.
_DECISIONS = """WITH RECURSIVE family AS (
        SELECT decision_id, redecides, model_hash, as_of FROM read_models.decision_list
        WHERE organisation_id = %(organisation_id)s AND decision_id = %(decision)s
    UNION
        SELECT d.decision_id, d.redecides, d.model_hash, d.as_of
        FROM family f JOIN read_models.decision_list d
            ON d.organisation_id = %(organisation_id)s AND d.redecides = f.decision_id
    )
    SELECT decision_id, model_hash, as_of FROM family LIMIT %(limit)s"""
_ALLOCATED = """SELECT order_id, decision_id FROM read_models.order_summary
    WHERE organisation_id = %(organisation_id)s AND decision_id = ANY(%(decisions)s)
    ORDER BY order_id LIMIT %(limit)s"""
# From the streams on by causation: each step by the index of one column. Of an order nothing counts
# that came before its allocation, and nothing at all before the request. An event has one cause and
# those of the streams are there already, so no row comes twice, whatever is said to cause what.
_EVENTS = """WITH RECURSIVE began AS (
        SELECT min(position) AS position FROM read_models.audit_trail
        WHERE organisation_id = %(organisation_id)s AND stream_id = %(request)s
    ), streams AS (
        SELECT stream_id, 1 AS turn, 0::bigint AS since
        FROM unnest(%(own)s::uuid[]) AS o (stream_id)
    UNION ALL
        SELECT stream_id, 2, max(position) FROM read_models.audit_trail
        WHERE organisation_id = %(organisation_id)s AND stream_id = ANY(%(orders)s)
            AND what = %(allocation)s
        GROUP BY stream_id
    ), tree AS (
        (SELECT a.*, 0 AS depth
        FROM began b CROSS JOIN streams s CROSS JOIN LATERAL (
            SELECT * FROM read_models.audit_trail
            WHERE organisation_id = %(organisation_id)s AND stream_id = s.stream_id
                AND position >= greatest(s.since, b.position)
            ORDER BY position LIMIT %(limit)s
        ) a WHERE s.turn = 1 OR s.since > b.position
        ORDER BY s.stream_id <> %(request)s, s.turn, a.position LIMIT %(limit)s)
    UNION ALL
        SELECT a.*, t.depth + 1
        FROM tree t JOIN read_models.audit_trail a
            ON a.organisation_id = %(organisation_id)s AND a.causation_id = t.event_id
        WHERE a.stream_id <> ALL(%(own)s) AND a.stream_id <> ALL(%(orders)s)
            AND a.position > t.position AND t.depth <= %(farthest)s
    )
    SELECT position, area, what, sentence, recorded_at, actor, event_id, correlation_id,
        causation_id, stream_id, version, depth
    FROM (SELECT * FROM tree LIMIT %(limit)s) AS found ORDER BY position"""
# What gave each model the role in which it decided.
_LIVE = """SELECT l.of_stream, l.position, l.area, l.what, l.sentence, l.recorded_at, l.actor,
        l.event_id, l.correlation_id, l.causation_id, l.stream_id, l.version
    FROM unnest(%(of_streams)s::uuid[], %(models)s::text[], %(moments)s::bigint[])
            AS made (of_stream, model, moment)
        CROSS JOIN LATERAL (
            SELECT made.of_stream, a.*
            FROM read_models.model_deployments d JOIN read_models.audit_trail a
                ON a.organisation_id = d.organisation_id AND a.position = d.position
            WHERE d.organisation_id = %(organisation_id)s AND d.model_hash = made.model
              AND d.position <= made.moment AND d.role <> 'none'
            ORDER BY d.position DESC LIMIT 1
        ) AS l"""
#: Read models that a timeline is made of.
TABLES = ("decision_list", "order_summary", "audit_trail", "model_deployments")

_SAYS_YES = frozenset(one.__name__ for one in (DecisionMade, DecisionConfirmed, DecisionOverridden))

Why = Literal["root", "causation", "stream", "decision"]


class Step(AuditLine):
    """An event of a decision's timeline, and those that it led to.

    ``by``: why it hangs where it hangs. `causation`: the event of ``parent`` caused it; `stream`:
    nobody said what caused it, and it came later in that event's stream; `decision`: it names the
    decision; `root`: the request itself. ``parent`` is the step above it, or one that is as deep
    as itself where the tree goes no deeper. ``refers``: the event that gave the model its role.
    """

    by: Why
    parent: UUID | None = None
    refers: AuditLine | None = None
    children: tuple[Step, ...] = ()


class Timeline(Row):
    """A decision's whole story. ``decisions``: its id, then those that were asked for instead."""

    decision_id: str
    decisions: tuple[str, ...]
    events: int
    complete: bool = Field(description="False: there are more events than are shown.")
    root: Step


class NotInTheTrail(ReadModelBehind):
    """A decision is known and the audit trail does not have its request (yet)."""

    def __init__(self, decision_id: str, wanted: int) -> None:
        super().__init__(wanted, 0)
        self.args = (
            f"the audit trail does not have the request of decision {decision_id!r} yet "
            f"(position {wanted})",
        )


class _Decision(Row):
    decision_id: str
    model_hash: str | None
    as_of: int | None


class _Allocated(Row):
    order_id: str
    decision_id: str


class _Found(AuditLine):
    depth: int


class _Live(AuditLine):
    of_stream: UUID


async def timeline(read: ReadModels, decision_id: str) -> Timeline | None:
    """A decision as a tree by causation; None: the organisation has none of that id.

    Raises:
        NotInTheTrail: the audit trail is behind the list of decisions; later it is there.
    """
    family = await read.rows(_Decision, _DECISIONS, decision=decision_id, limit=_MOST_DECISIONS + 1)
    if not family:
        return None
    # The one that is asked about comes first, whatever order the database took.
    family.sort(key=lambda one: one.decision_id != decision_id)
    complete = len(family) <= _MOST_DECISIONS
    del family[_MOST_DECISIONS:]
    names = [one.decision_id for one in family]
    allocated = await read.rows(_Allocated, _ALLOCATED, decisions=names, limit=MOST + 1)
    own = {read.stream_id(decisions.STREAM.format(decision_id=name)): name for name in names}
    of_orders = {
        read.stream_id(orders.STREAM.format(order_id=one.order_id)): one.decision_id
        for one in allocated
    }
    request = next(iter(own))
    found = await read.rows(
        _Found,
        _EVENTS,
        request=request,
        own=list(own),
        orders=list(of_orders),
        allocation=OrderAllocated.__name__,
        farthest=FARTHEST,
        limit=MOST + 1,
    )
    if not any(line.stream_id == request and line.version == 1 for line in found):
        events = await read.stream(decisions.STREAM.format(decision_id=decision_id))
        raise NotInTheTrail(decision_id, events[0].position if events else 0)
    shown, cut = _cut(found, request)
    root = _tree(shown, own, of_orders, await _live(read, own, family))
    return Timeline(
        decision_id=decision_id,
        decisions=tuple(names),
        events=len(shown),
        complete=complete and not cut and len(allocated) <= MOST,
        root=root,
    )


def _cut(found: Sequence[_Found], request: UUID) -> tuple[list[AuditLine], bool]:
    """As many lines as are shown, and whether there were more."""
    near = [line for line in found if line.depth <= FARTHEST]
    cut = len(near) < len(found)
    if len(near) > MOST:
        # The first of the decision's own are the last to go.
        by_need = sorted(near, key=lambda one: (one.depth, one.stream_id != request, one.position))
        near, cut = sorted(by_need[:MOST], key=lambda one: one.position), True
    return [AuditLine(**one.model_dump(exclude={"depth"})) for one in near], cut


async def _live(
    read: ReadModels, own: Mapping[UUID, str], family: Sequence[_Decision]
) -> dict[UUID, AuditLine]:
    """By the decision's stream: what gave its model the role in which it decided."""
    made = [(of, one) for of, one in zip(own, family, strict=True) if one.model_hash is not None]
    if not made:
        return {}
    found = await read.rows(
        _Live,
        _LIVE,
        of_streams=[of for of, _ in made],
        models=[one.model_hash for _, one in made],
        moments=[one.as_of for _, one in made],
    )
    return {one.of_stream: AuditLine(**one.model_dump(exclude={"of_stream"})) for one in found}


def _tree(
    lines: Sequence[AuditLine],
    own: Mapping[UUID, str],
    of_orders: Mapping[UUID, str],
    live: Mapping[UUID, AuditLine],
) -> Step:
    """The lines, in log order, as a tree; the first one of the decision's own stream on top."""
    streams = {name: stream for stream, name in own.items()}
    first = next(iter(own))
    top = next(line for line in lines if line.stream_id == first)
    by_id = {line.event_id: line for line in lines}
    heads: dict[UUID, AuditLine] = {}  # of each stream: what later events without a cause hang on
    said: dict[UUID, AuditLine] = {}  # of each decision: who last said yes to it
    hangs: dict[UUID, tuple[UUID | None, Why]] = {top.event_id: (None, "root")}
    above: dict[UUID, UUID] = {}  # where a step is put: its parent, or that one's where it is deep
    depths = {top.event_id: 0}
    below: dict[UUID, list[UUID]] = {}
    for line in lines:
        cause = None if line.causation_id is None else by_id.get(line.causation_id)
        head = heads.setdefault(line.stream_id, line)
        if line.stream_id in own and line.what in _SAYS_YES:
            said[line.stream_id] = line
        if line is top:
            continue
        why: Why = "causation"
        if cause is not None and cause.position < line.position:
            parent = cause
        elif head is not line:
            parent, why = head, "stream"
        else:
            decided = streams.get(of_orders.get(line.stream_id, ""), first)
            parent, why = said.get(decided, top), "decision"
        id_, holder = line.event_id, parent.event_id
        hangs[id_] = (holder, why)
        if depths[holder] == DEEPEST:
            holder = above[holder]
        above[id_] = holder
        depths[id_] = depths[holder] + 1
        below.setdefault(holder, []).append(id_)

    # From the last line on, so that a step is made after those below it.
    steps: dict[UUID, Step] = {}
    for line in reversed(lines):
        id_ = line.event_id
        on, by = hangs[id_]
        steps[id_] = Step(
            **dict(line),
            by=by,
            parent=on,
            refers=live.get(line.stream_id) if line.what == DecisionMade.__name__ else None,
            children=tuple(steps[child] for child in below.get(id_, ())),
        )
    return steps[top.event_id]
