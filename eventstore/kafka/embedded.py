"""A real Apache Kafka of one node on loopback, without a container, for tests and trials.

``python -m eventstore.kafka`` (``make kafka``) fetches what it needs and can run one.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, sleep
from types import MappingProxyType

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from eventstore.kafka.jars import VERSION, Distribution, NoBroker, distribution, only_one

__all__ = [
    "ONE_NODE",
    "VERSION",
    "BrokerFailed",
    "EmbeddedBroker",
    "NoBroker",
    "answers",
    "await_answer",
    "free_port",
    "prepare",
]

#: How one node is a whole cluster, in KRaft mode, that tests need not wait for. Topics are made by
#: who needs them, never by a slip of the pen: only so they have the partitions that were asked for.
ONE_NODE: Mapping[str, str] = MappingProxyType(
    {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "num.partitions": "1",
        "auto.create.topics.enable": "false",
        "offsets.topic.num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "broker.heartbeat.interval.ms": "500",
        "broker.session.timeout.ms": "3000",
    }
)
_START_S = 60
_STOP_S = 30
_PORTS_TRIED = 3


class BrokerFailed(Exception):
    """It ended or did not answer in time; the message has its last words."""


class EmbeddedBroker:
    """One broker on loopback. Address and data stay over stop and start, though after a crash it
    takes some seconds until it trusts that its former self is gone.

    ``bootstrap`` is ``host:port``, also while it is stopped.
    """

    def __init__(
        self, home: Path, *, port: int | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """Nothing is started yet.

        Args:
            home: a folder of its own, for data and the broker's log; what is there is gone on with.
            port: where it listens; without one, some free port.
            settings: of the broker, on top of ONE_NODE.
        """
        self._home = home.absolute()
        self._port_given = port is not None
        self._port = port or free_port()
        self._settings = {**ONE_NODE, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._ran = False

    @property
    def bootstrap(self) -> str:
        """Where clients find it."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """Its process, while it is started."""
        return None if self._process is None else self._process.pid

    def start(self, *, java_options: tuple[str, ...] = ()) -> None:
        """Start it, unless it runs, and wait until it answers.

        Raises:
            NoBroker: Java, Maven or the jars cannot be had.
            BrokerFailed: it did not come up.
        """
        if self.alive():
            return
        kafka = distribution()
        self._home.mkdir(parents=True, exist_ok=True)
        for attempt in range(_PORTS_TRIED):
            try:
                self._launch(kafka, java_options)
                break
            except BrokerFailed as error:
                # Between the choice of a free port and its use somebody else may have taken it.
                taken = "Address already in use" in str(error)
                if self._ran or self._port_given or not taken or attempt == _PORTS_TRIED - 1:
                    raise
                self._port = free_port()
        self._ran = True

    def stop(self, *, kill: bool = False) -> None:
        """Stop it; ``kill``: as a crash would. Nothing happens where it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait(self) -> int:
        """Return when it ends by itself, with its exit code."""
        assert self._process is not None, "not started"
        return self._process.wait()

    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def last_words(self) -> str:
        """The end of its log."""
        return (self._home / "broker.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def _launch(self, kafka: Distribution, java_options: tuple[str, ...]) -> None:
        properties = self._configure()
        if not (self._home / "data" / "meta.properties").exists():
            self._format(kafka, properties)
        with (self._home / "broker.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*kafka.command(*java_options), "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._home,
            )
        try:
            await_answer(self.bootstrap, self.alive, self.last_words, _START_S)
        except BaseException:
            self.stop(kill=True)
            raise

    def _configure(self) -> Path:
        controller = free_port()  # nobody but itself talks to it: another one at each start
        own = {
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self._home / "data"),
        }
        properties = self._home / "server.properties"
        lines = [f"{name}={value}\n" for name, value in {**self._settings, **own}.items()]
        properties.write_text("".join(lines), encoding="utf-8")
        return properties

    def _format(self, kafka: Distribution, properties: Path) -> None:
        # A first byte of 0: one that makes the id begin with "-" would be taken for an option.
        cluster = urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        task = ["format", "--cluster-id", cluster, "--config", str(properties)]
        done = subprocess.run(
            [*kafka.command(), "kafka.tools.StorageTool", *task],
            capture_output=True,
            text=True,
            timeout=_START_S,
        )
        if done.returncode != 0:
            raise BrokerFailed(f"its storage could not be formatted: {done.stdout}{done.stderr}")


def prepare() -> Distribution:
    """Fetch the jars, and make the archive of classes by running a broker once, where they are
    still missing. A broker needs only the jars.

    Raises:
        NoBroker: they cannot be had.
        BrokerFailed: a broker does not come up here.
    """
    kafka = distribution()
    with only_one("prepare"):
        if not kafka.classes.exists():
            with tempfile.TemporaryDirectory(dir=kafka.folder.parent) as work:
                made = Path(work, "classes")
                broker = EmbeddedBroker(Path(work, "broker"))
                broker.start(java_options=(f"-XX:ArchiveClassesAtExit={made}",))
                broker.stop()
                if made.exists():  # Java goes without, where it cannot make one
                    made.rename(kafka.classes)
    return kafka


def await_answer(
    bootstrap: str, alive: Callable[[], bool], last_words: Callable[[], str], seconds: float
) -> None:
    """Return when a broker answers.

    Raises:
        BrokerFailed: it ended, or the time did.
    """
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        if not alive():
            raise BrokerFailed(f"the broker ended: {last_words()}")
        if answers(bootstrap):
            return
        sleep(0.05)
    raise BrokerFailed(f"the broker did not answer in {seconds:.0f} s: {last_words()}")


def answers(bootstrap: str) -> bool:
    """Whether a broker that needs no password answers there."""
    host, _, port = bootstrap.rpartition(":")
    try:
        # A cheap question first: a client of Kafka's takes a while to give up.
        with socket.create_connection((host, int(port)), timeout=1):
            pass
        client = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=1000)
    except (KafkaError, OSError):
        return False
    try:
        client.list_topics()
        return True
    except (KafkaError, OSError):
        return False
    finally:
        client.close()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
