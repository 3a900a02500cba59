"""Every kind of decision by name."""

from __future__ import annotations

from collections.abc import Mapping

from ml.fulfilment import FULFILMENT
from ml.kind import Kind
from projections.table import Table

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (FULFILMENT,)}

#: The tables that features are folded into; the decision consumer keeps them.
FEATURE_TABLES: tuple[Table, ...] = tuple(
    dict.fromkeys(table for kind in KINDS.values() for table in kind.tables)
)
