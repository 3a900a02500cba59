"""One real PostgreSQL per test run, one fresh database per test module.

The controller of the run names the server's folder; whichever worker needs it first starts it.
CHAINLYTICS_TEST_DATABASE_URL names a server of your own instead; its role must be able to create
databases.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from eventstore.embedded import EmbeddedPostgres

# A killed process loses nothing that the kernel has; only a power cut needs fsync. Who begins
# to authenticate and does not go on, as behind a stalled proxy, holds up whoever drops a database.
TEST_SETTINGS = {"fsync": "off", "authentication_timeout": "5s"}

_home = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    workerinput: dict[str, Any] | None = getattr(config, "workerinput", None)
    if workerinput is not None:
        config.stash[_home] = workerinput["postgres_home"]
        return
    home = Path(tempfile.mkdtemp(prefix="chainlytics-tests-"))
    home.chmod(0o755)  # root's server runs as `nobody`
    config.stash[_home] = str(home)
    if threading.current_thread() is threading.main_thread():
        # A run that is told to end (a CI's time limit) stops its server as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["postgres_home"] = node.config.stash[_home]


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or (home := config.stash.get(_home, None)) is None:
        return
    remove_server(Path(home))


def remove_server(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.stop()
    data = server.status().data
    shutil.rmtree(data if data.parent == home.resolve() else data.parent, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> str:
    """The server of the run."""
    own = os.environ.get("CHAINLYTICS_TEST_DATABASE_URL")
    if own:
        return own
    home = Path(request.config.stash[_home])
    server = EmbeddedPostgres(home, settings=TEST_SETTINGS)
    return server.start()


@pytest.fixture(scope="module")
def database(server_url: str) -> Iterator[str]:
    """The URL of an empty database of the module's own."""
    name = sql.Identifier(f"test_{uuid.uuid4().hex[:12]}")
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
    yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name.as_string().strip(chr(34))}"))
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
