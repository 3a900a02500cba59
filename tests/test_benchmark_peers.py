"""Each peer of the append benchmark that can run here really appends, and checks versions.

Nothing is said of speed here: only that what a peer acknowledges is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import eventsourcing.persistence
import psycopg
import pytest

from benchmarks.peers import (
    PEERS,
    Appended,
    Emmett,
    EventsourcingPackage,
    EventsourcingRecorder,
    MessageDb,
    Miscounted,
    Peer,
    Store,
    adbc_rows,
    copy_binary,
    emmett,
    eventsourcing_package,
    message_db,
    raw_inserts,
    umadb,
)
from benchmarks.peers.peer import PAYLOAD, in_threads

CLIENTS, SECONDS = 4, 0.3
VARIANTS = {
    **{peer.name: peer for peer in PEERS},
    "message-db, one category": MessageDb(one_category=True),
    "eventsourcing, not cached": EventsourcingPackage(cached=False),
}


@pytest.mark.parametrize("peer", VARIANTS.values(), ids=list(VARIANTS))
def test_what_a_peer_acknowledges_is_there(database: str, peer: Peer) -> None:
    _skip_if_missing(peer)
    with peer.open(database) as store:
        assert store.count() == 0
        appended = store.append(CLIENTS, SECONDS)
        assert appended.events > 0
        assert store.count() == appended.warm + appended.events
    assert _databases_of(peer.name, database) == []


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_tells_its_rate_and_leaves_nothing_behind(database: str, peer: Peer) -> None:
    _skip_if_missing(peer)
    assert peer.append(database, CLIENTS, SECONDS) > 0
    assert _databases_of(peer.name, database) == []


@pytest.mark.parametrize(
    "rate",
    [
        lambda url: raw_inserts(url, SECONDS),
        lambda url: copy_binary(url, 1_000, 300),
        lambda url: adbc_rows(url, 1_000),
    ],
    ids=["insert", "copy", "adbc"],
)
def test_bare_rows_are_there(database: str, rate: Callable[[str], float]) -> None:
    assert rate(database) > 0  # raises Miscounted if they are not
    assert _databases_of("raw", database) == []


def test_message_db_refuses_a_stream_that_exists(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip_if_missing(MessageDb())
    monkeypatch.setattr(message_db, "uuid4", lambda: UUID(int=1))
    with pytest.raises(psycopg.errors.RaiseException, match="Wrong expected version: -1"):
        MessageDb(one_category=True).append(database, CLIENTS, SECONDS)


def test_the_eventsourcing_package_refuses_a_version_that_exists(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventsourcing_package, "uuid4", lambda: UUID(int=1))
    with pytest.raises(eventsourcing.persistence.IntegrityError):
        EventsourcingRecorder().append(database, CLIENTS, SECONDS)


class Boaster(EventsourcingRecorder):
    """Acknowledges one event that it does not store."""

    @contextmanager
    def open(self, url: str) -> Iterator[Store]:
        with super().open(url) as store:
            yield _Boasting(store)


class _Boasting:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.count = store.count

    def append(self, clients: int, seconds: float) -> Appended:
        appended = self._store.append(clients, seconds)
        return replace(appended, events=appended.events + 1)


def test_a_peer_that_lost_an_event_has_no_rate(database: str) -> None:
    with pytest.raises(Miscounted):
        Boaster().append(database, CLIENTS, SECONDS)


def test_a_client_that_fails_ends_them_all() -> None:
    @contextmanager
    def client(number: int) -> Iterator[Callable[[], object]]:
        if number == 2:
            raise ConnectionRefusedError
        yield lambda: None

    with pytest.raises(ConnectionRefusedError):
        in_threads(CLIENTS, SECONDS, client)


def test_payloads_have_300_bytes() -> None:
    assert len(PAYLOAD.encode()) == 300


def test_a_peer_that_cannot_run_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(message_db, "FOLDER", tmp_path / "absent")
    monkeypatch.setattr(emmett, "HERE", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "npm ci" in str(MessageDb().missing())
    assert "npm ci" in str(Emmett().missing())
    assert "pip install" in str(umadb.UmaDb().missing())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Node.js" in str(Emmett().missing())


def _skip_if_missing(peer: Peer) -> None:
    if (reason := peer.missing()) is not None:
        pytest.skip(reason)


def _databases_of(name: str, url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        query = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
        return [row[0] for row in connection.execute(query, [f"peer_{name.replace('-', '_')}_"])]
