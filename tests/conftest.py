"""One real PostgreSQL per test run, one fresh database per test module; one real Kafka besides.

The controller of the run names the servers' folders; whichever worker needs one first starts it.
CHAINLYTICS_TEST_DATABASE_URL names a server of your own instead; its role must be able to create
databases. Of Kafka see tests/broker.py.
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
import structlog
from psycopg import sql

from eventstore.embedded import EmbeddedPostgres
from tests.broker import NONE_HERE, remove_brokers
from tests.broker import broker as broker
from tests.broker import cluster as cluster
from tests.broker import own_broker as own_broker
from tests.broker import own_broker_of_process as own_broker_of_process

# A killed process loses nothing that the kernel has; only a power cut needs fsync. Who begins
# to authenticate and does not go on, as behind a stalled proxy, holds up whoever drops a database.
TEST_SETTINGS = {"fsync": "off", "authentication_timeout": "5s"}

# Files that take longest, first: what begins last is what everybody waits for in the end.
LONG = (
    "test_backup.py",
    "test_segments.py",
    "test_cli.py",
    "test_kafka_faults.py",
    "test_broker.py",
    "test_relay.py",
    "test_intake.py",
    "test_decision_consumer.py",
    "test_docs_analysts.py",
    "test_rebuild.py",
    "test_stream.py",
    "test_witness_kafka.py",
    "test_archive.py",
    "test_embedded.py",
    "test_adversity.py",
    "test_benchmark_project.py",
    "test_cli_decisions.py",
    "test_kill.py",
    "test_docs_decisions.py",
    "test_docs_auditors.py",
    "test_upcasting.py",
    "test_as_of.py",
    "test_trail.py",
    "test_olist.py",
)

_home = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    # As in production: without the values of all local variables, which take half a minute to draw.
    structlog.configure(
        processors=[
            *structlog.get_config()["processors"][:-1],
            structlog.dev.ConsoleRenderer(
                colors=False, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
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
def pytest_xdist_auto_num_workers() -> int | None:
    """Three workers on two cores: tests wait for servers more than they compute."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it
    cores = os.cpu_count() or 1
    return cores + (cores + 1) // 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Where Python may leave nothing behind, a run's hundreds of processes would each compile our
    sources anew: they keep the bytecode in a folder of the run's."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        os.environ["PYTHONPYCACHEPREFIX"] = f"{config.stash[_home]}/bytecode"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["postgres_home"] = node.config.stash[_home]


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or (home := config.stash.get(_home, None)) is None:
        return
    remove_brokers(kafka_folder(home))
    remove_server(Path(home))


def kafka_folder(home: str) -> Path:
    return Path(home, "kafka")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A run that did not try Kafka says so where it cannot be missed."""
    reasons: list[str] = []
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple) and NONE_HERE in report.longrepr[2]:
            reasons.append(report.longrepr[2].removeprefix("Skipped: "))
    if reasons:
        terminalreporter.write_sep("!", f"{len(reasons)} tests of Kafka did not run", red=True)
        for reason in sorted(set(reasons)):
            terminalreporter.write_line(reason, red=True)


def remove_server(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.stop()
    data = server.status().data
    shutil.rmtree(data if data.parent == home.resolve() else data.parent, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_home(request: pytest.FixtureRequest) -> Path:
    """The folder of the run's broker."""
    return kafka_folder(request.config.stash[_home])


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
