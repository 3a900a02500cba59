"""The API keys of services."""

from __future__ import annotations

from domain.api_keys import ApiKeyIssued, ApiKeyRevoked
from projections.fold import first, last
from projections.table import Table

API_KEY_LIST = Table(
    name="api_key_list",
    key=dict.fromkeys((ApiKeyIssued, ApiKeyRevoked), ("key_id",)),
    columns={
        "version": last(dict.fromkeys((ApiKeyIssued, ApiKeyRevoked), "version")),
        "name": first({ApiKeyIssued: "name"}),
        "roles": first({ApiKeyIssued: "roles"}),
        "scopes": first({ApiKeyIssued: "scopes"}),
        "issued_by": first({ApiKeyIssued: "issued_by"}),
        "issued_at": first({ApiKeyIssued: "issued_at"}),
        "expires_at": first({ApiKeyIssued: "expires_at"}),
        "revoked_by": first({ApiKeyRevoked: "revoked_by"}),
        "revoked_at": first({ApiKeyRevoked: "revoked_at"}),
    },
)

TABLES = (API_KEY_LIST,)
