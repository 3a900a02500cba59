"""SQL that reads the log for folds: which events of which stretch or of which keys, and which of
their columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from uuid import UUID

import polars as pl
from psycopg import sql

from domain import catalogue
from domain.values import Event
from eventstore.ids import named_id
from projections.frames import Wanted, metadata_of
from projections.schema import METADATA, is_column
from projections.table import Table

#: Looked at once, before the first row and in its snapshot: where a part of the stretch is dropped
#: there are no rows at all.
PRESENT = """(SELECT NOT EXISTS (SELECT FROM segments WHERE dropped_at IS NOT NULL
    AND last_position > {after} AND first_position <= {to}))"""
#: Texts looked for in events before they are decoded; more of them cost more than they save.
_MOST_TEXTS = 100
_COLUMNS = {
    "position": "notification_id",
    "stream_id": "originator_id",
    "version": "originator_version",
}


def between(fields: Wanted, organisation_id: UUID | None) -> Callable[[int, int], sql.Composed]:
    """The statement that reads a stretch of the log in its order."""
    where = of_topics(fields)
    if organisation_id is not None:
        where = sql.SQL("{} AND organisation_id = {}").format(where, organisation_id)

    def query(after: int, to: int) -> sql.Composed:
        present = sql.SQL(PRESENT).format(after=after, to=to)
        ordered = sql.SQL("{} AND {} ORDER BY notification_id")
        return ordered.format(select(fields, after, to, where), present)

    return query


def select(fields: Wanted, after: int, to: int, where: sql.Composed) -> sql.Composed:
    """The statement that reads rows of a stretch, in no order."""
    return sql.SQL(
        "SELECT {} FROM events WHERE notification_id > {} AND notification_id <= {} AND {}"
    ).format(_columns(fields), after, to, where)


def _columns(fields: Wanted) -> sql.Composed:
    names = [name for name in metadata_of(fields) if name in METADATA]
    return sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(sql.Identifier(_COLUMNS.get(name, name)), sql.Identifier(name))
        for name in (*names, "topic", "state")
    )


def of_topics(events: Iterable[type[Event]]) -> sql.Composed:
    """The topics of some events, older ones too, and those that this code does not know: one of
    them may be a newer one of ours."""
    mine = [topic for topic in _known() if catalogue.type_of(topic) in set(events)]
    return sql.SQL("(topic = ANY({}) OR topic <> ALL({}))").format(mine, _known())


def _known() -> list[str]:
    return [*catalogue.TYPES, *catalogue.UPCASTERS]


def streams_of(table: Table, event: type[Event], keys: pl.DataFrame) -> list[UUID] | None:
    """The streams that hold all events of this type about some keys; None: the key does not say."""
    if event in table.explode or len(table.keys_of(event)) != 1:
        return None
    [key] = table.keys_of(event)
    columns = {one.meta.root_names()[0]: name for name, one in key.items() if is_column(one)}
    template = catalogue.STREAMS[event]
    fields = catalogue.fields_of_stream(template)
    if not all(columns.get(field) in keys.columns for field in fields):
        return None
    different = keys.select("organisation_id", *(columns[field] for field in fields)).unique()
    return [
        named_id(UUID(organisation), template.format(**dict(zip(fields, values, strict=True))))
        for organisation, *values in different.iter_rows()
    ]


def search(keys: pl.DataFrame, texts: tuple[bytes, ...] | None, fields: Wanted) -> sql.Composed:
    """The condition that an event may be about some keys: their organisations, their texts."""
    organisations = [UUID(one) for one in keys["organisation_id"].unique()]
    where = sql.SQL("organisation_id = ANY({}) AND {}").format(organisations, of_topics(fields))
    if texts is None:
        return where
    # The text of a key stands in the JSON of its events. Postgres looks for it faster than we.
    held = sql.SQL(" OR ").join(sql.SQL("position({} in state) > 0").format(one) for one in texts)
    return sql.SQL("{} AND ({})").format(where, held)


def about(keys: pl.DataFrame, texts: tuple[bytes, ...] | None) -> pl.Expr:
    """As ``search``, of a segment's rows."""
    organisations = [UUID(one).bytes for one in keys["organisation_id"].unique()]
    kept = pl.col("organisation_id").is_in(organisations)
    if texts is None:
        return kept
    return kept & pl.any_horizontal(pl.col("state").bin.contains(one) for one in texts)


def texts_of(table: Table, event: type[Event], keys: pl.DataFrame) -> tuple[bytes, ...] | None:
    """JSON texts of which an event about one of the keys holds at least one; None: not known."""
    older = any(catalogue.type_of(topic) is event for topic in catalogue.UPCASTERS)
    found: set[bytes] = set()
    for key in table.keys_of(event):
        plain = [
            name
            for name, one in key.items()
            if is_column(one)
            and keys.schema.get(name) == pl.String()
            and one.meta.root_names()[0] not in METADATA
        ]
        if older or not plain or event in table.explode:
            return None
        chosen = max(plain, key=lambda name: keys[name].n_unique())
        found |= {json.dumps(one, ensure_ascii=False).encode() for one in keys[chosen].unique()}
    return tuple(sorted(found)) if len(found) <= _MOST_TEXTS else None
