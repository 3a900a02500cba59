"""A real Apache Kafka for tests, wherever one can be had.

``broker`` is one that all tests of a run share: what ``KAFKA_BOOTSTRAP_SERVERS`` names, else one of
our own. ``own_broker`` may be stopped and killed, so it is always one of our own. Our own is the
official jars run by Java, or the official image where Docker answers but Java does not.
``cluster`` is the shared broker with a prefix that no other test uses.

Where none can be had these tests are skipped, and the end of the run says so; with
``CHAINLYTICS_REQUIRE_KAFKA=1`` they fail.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import psutil
import pytest
from kafka import KafkaAdminClient

from eventstore.kafka.cluster import Cluster
from eventstore.kafka.embedded import (
    ONE_NODE,
    VERSION,
    EmbeddedBroker,
    NoBroker,
    answers,
    await_answer,
    free_port,
    prepare,
)

__all__ = ["DockerBroker", "EmbeddedBroker", "NoBroker", "RunningBroker", "StoppableBroker"]

SERVERS = "KAFKA_BOOTSTRAP_SERVERS"
REQUIRED = "CHAINLYTICS_REQUIRE_KAFKA"
#: What the reason of each skipped test begins with.
NONE_HERE = "NO KAFKA HERE"
IMAGE = f"apache/kafka:{VERSION}"
_CONTAINER = "container"  # the file with its name
_PULL_S = 300
_START_S = 60
_STOP_S = 30
T = TypeVar("T")


@dataclass(frozen=True)
class RunningBroker:
    """A broker that others use too: it must not be stopped. ``bootstrap``: ``host:port``, and
    more of them with commas between where it is a cluster of somebody's own."""

    bootstrap: str

    @property
    def servers(self) -> tuple[str, ...]:
        """The same, one by one."""
        return tuple(self.bootstrap.split(","))


class StoppableBroker(Protocol):
    """A broker of one's own. Address and data stay over stop and start."""

    @property
    def bootstrap(self) -> str:
        """Where clients find it."""

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers."""

    def stop(self, *, kill: bool = False) -> None:
        """Stop it; ``kill``: as a crash would."""


class DockerBroker:
    """One broker in a container of the official image."""

    def __init__(self) -> None:
        self.name = f"chainlytics-kafka-{uuid.uuid4().hex[:12]}"
        self._port, self._controller = free_port(), free_port()
        self._made = False

    @property
    def bootstrap(self) -> str:
        """Where clients find it."""
        return f"127.0.0.1:{self._port}"

    def command(self) -> list[str]:
        """How its container is made and started. The port is the same one inside, so that the
        address it is known by holds there too: its transaction coordinator calls it by that."""
        settings = {
            **ONE_NODE,
            "listeners": f"PLAINTEXT://0.0.0.0:{self._port},CONTROLLER://127.0.0.1:{self._controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "log.dirs": "/tmp/kafka-data",
        }
        command = ["docker", "run", "--detach", "--name", self.name]
        command += ["--publish", f"{self.bootstrap}:{self._port}"]
        for variable, value in container_environment(settings).items():
            command += ["--env", f"{variable}={value}"]
        return [*command, IMAGE]

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers.

        Raises:
            NoBroker: Docker cannot make it, as where the image cannot be pulled.
            BrokerFailed: it did not come up.
        """
        if self._made:
            _docker("start", self.name)  # where it runs, it says yes
        else:
            _docker(*self.command()[1:], seconds=_PULL_S)
            self._made = True
        await_answer(self.bootstrap, self._alive, self._last_words, _START_S)

    def stop(self, *, kill: bool = False) -> None:
        """Stop it; ``kill``: as a crash would. Its data stays."""
        if self._made and self._alive():
            _docker("kill" if kill else "stop", self.name)
            _docker("wait", self.name)  # `kill` does not

    def remove(self) -> None:
        """Leave nothing of it."""
        remove_container(self.name)

    def _alive(self) -> bool:
        return _docker("inspect", "--format", "{{.State.Running}}", self.name).strip() == "true"

    def _last_words(self) -> str:
        return _docker("logs", "--tail", "30", self.name)


def container_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """A broker's settings as the official image reads them from its environment."""
    variables = {f"KAFKA_{name.replace('.', '_').upper()}": settings[name] for name in settings}
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return {"CLUSTER_ID": cluster, **variables}


def remove_container(name: str) -> None:
    """Stop it and forget it and its data, if it is there."""
    with suppress(NoBroker):
        _docker("rm", "--force", "--volumes", name)


def docker_answers() -> bool:
    """Whether there is a Docker to ask, and its server answers."""
    try:
        return bool(_docker("version", "--format", "{{.Server.Version}}").strip())
    except NoBroker:
        return False


def _docker(*arguments: str, seconds: float = _START_S) -> str:
    """What Docker says (a container's own words come by stderr too).

    Raises:
        NoBroker: there is none, or it says no.
    """
    try:
        done = subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoBroker(f"docker {arguments[0]}: {error}") from error
    if done.returncode != 0:
        raise NoBroker(f"docker {arguments[0]}: {done.stderr.strip()[:300]}")
    return done.stdout + (done.stderr if arguments[0] == "logs" else "")


def broker_of_our_own(home: Path) -> EmbeddedBroker | DockerBroker:
    """A broker that runs, from the jars or else by Docker; ``home``: a folder of its own, in which
    ``remove_brokers`` finds it.

    Raises:
        NoBroker: neither can be had; the message says why.
        BrokerFailed: it can, and does not come up.
    """
    try:
        prepare()
    except NoBroker as no_jars:
        if not docker_answers():
            raise NoBroker(f"{no_jars}; and no Docker answers") from None
        container = DockerBroker()
        try:
            container.start()
        except BaseException:
            container.remove()
            raise
        home.mkdir(parents=True, exist_ok=True)
        (home / _CONTAINER).write_text(container.name, encoding="utf-8")
        return container
    embedded = EmbeddedBroker(home)
    embedded.start()
    return embedded


class SharedBroker:
    """The one broker of a test run: whichever of its processes needs it first starts it. What came
    of it stands in a note that all of them read."""

    def __init__(self, home: Path) -> None:
        """``home``: the folder that the processes of the run agree on."""
        self._home = home
        self._note = home / "broker.json"

    def start(self) -> str:
        """Its address.

        Raises:
            NoBroker: none can be had; the first process that asked found out.
            BrokerFailed: it does not come up.
        """
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._note.exists():
                self._note.write_text(json.dumps(self._started()), encoding="utf-8")
        note = json.loads(self._note.read_text(encoding="utf-8"))
        if "missing" in note:
            raise NoBroker(note["missing"])
        return str(note["bootstrap"])

    def _started(self) -> dict[str, str]:
        try:
            broker = broker_of_our_own(self._home / "kafka")
        except NoBroker as reason:
            return {"missing": str(reason)}
        return {"bootstrap": broker.bootstrap}


def remove_brokers(home: Path) -> None:
    """End every broker below a folder, whoever started it, and leave nothing of them. The
    processes of a run that was interrupted have left theirs behind."""
    if not home.exists():
        return
    for note in home.rglob(_CONTAINER):
        remove_container(note.read_text(encoding="utf-8"))
    ours = [process for process in psutil.process_iter() if _runs_below(home, process)]
    for process in ours:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(ours, timeout=_STOP_S)
    shutil.rmtree(home, ignore_errors=True)


def _runs_below(home: Path, process: psutil.Process) -> bool:
    try:
        command = process.cmdline()  # a zombie has none
    except psutil.Error:
        return False
    return "kafka.Kafka" in command and command[-1].startswith(f"{home}/")


def had(ask: Callable[[], T]) -> T:
    """What was asked for, or the end of the test where there is no broker for it."""
    try:
        return ask()
    except NoBroker as reason:
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{NONE_HERE}, and {REQUIRED}=1: {reason}", pytrace=False)
        pytest.skip(f"{NONE_HERE}: {reason}")


@pytest.fixture(scope="session")
def broker(kafka_home: Path) -> RunningBroker:
    """A broker that runs, with other tests' topics on it; it must not be stopped."""
    named = os.environ.get(SERVERS)
    if named:
        found = RunningBroker(named)
        if not any(answers(one) for one in found.servers):
            pytest.fail(f"{named}, which {SERVERS} names, does not answer", pytrace=False)
        return found
    return RunningBroker(had(SharedBroker(kafka_home).start))


@pytest.fixture
def cluster(broker: RunningBroker) -> Iterator[Cluster]:
    """The broker, with a prefix of topics and groups that are this test's alone."""
    made = Cluster(broker.servers, prefix=f"test-{uuid.uuid4().hex[:12]}")
    yield made
    admin = KafkaAdminClient(**made.options("cleaner"))
    try:
        topics = [name for name in admin.list_topics() if name.startswith(made.prefix)]
        if topics:
            admin.delete_topics(topics)
    finally:
        admin.close()


@pytest.fixture(scope="session")
def own_broker_of_process(kafka_home: Path) -> Iterator[StoppableBroker]:
    """Of this process; tests take ``own_broker``."""
    home = kafka_home / f"own-{os.getpid()}"
    yield had(lambda: broker_of_our_own(home))
    remove_brokers(home)


@pytest.fixture
def own_broker(own_broker_of_process: StoppableBroker) -> StoppableBroker:
    """A broker that the test may stop and kill; it runs, whatever the test before did to it. Other
    tests of this process had it too, so take topics that nobody else names."""
    own_broker_of_process.start()
    return own_broker_of_process
