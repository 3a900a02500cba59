"""A real Apache Kafka for tests, without containers: its jars from Maven Central, run by Java.

The jars are fetched once, into the user's cache; a broker takes three seconds to start. Tests ask
for the fixture ``broker`` (`from tests.broker import broker`); where there is no Java or no jars
they are skipped, and the reason says why.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest
from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.serving import free_port

#: A broker of this version runs on Java 17.
VERSION = "4.3.1"
_JAVA = 17
_FETCH_S = 240
_START_S = 60
_STOP_S = 30
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_COPY = ("mvn", "--batch-mode", "--quiet", _PLUGIN, "-DincludeScope=runtime")
_FORMAT = ("kafka.tools.StorageTool", "format")
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>chainlytics</groupId>
  <artifactId>broker-of-the-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""
_PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
log.dirs={data}
num.partitions=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
"""


class NoBroker(Exception):
    """Java, Maven or the jars cannot be had here; the message says which."""


class EmbeddedBroker:
    """One broker in KRaft mode on loopback. Address and data stay over stop and start, though after
    a crash it takes some seconds until it trusts that its former self is gone.

    Topics are made by their first use. ``bootstrap`` is ``host:port``, also while it is stopped.
    """

    def __init__(self, home: Path) -> None:
        """``home``: a folder of its own, for data and the broker's log."""
        self._home = home
        self._port = free_port()
        self._properties = home / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """Where clients find it."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, unless it runs, and wait until it answers.

        Raises:
            NoBroker: Java, Maven or the jars cannot be had.
            AssertionError: it ended or did not answer in time; the message has its last words.
        """
        if self._process is not None and self._process.poll() is None:
            return
        command = _java(jars())
        if not self._properties.exists():
            self._format(command)
        with (self._home / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "kafka.Kafka", str(self._properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._home,
            )
        try:
            self._await_answer()
        except BaseException:
            self.stop(kill=True)
            raise

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

    def _format(self, command: list[str]) -> None:
        text = _PROPERTIES.format(port=self._port, controller=free_port(), data=self._home / "data")
        self._properties.write_text(text, encoding="utf-8")
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        done = subprocess.run(
            [*command, *_FORMAT, "--cluster-id", cluster, "--config", str(self._properties)],
            capture_output=True,
            text=True,
            timeout=_START_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _await_answer(self) -> None:
        deadline = monotonic() + _START_S
        while monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, f"the broker ended: {self._last_words()}"
            try:
                client = KafkaAdminClient(
                    bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=1000
                )
            except (KafkaError, OSError):
                sleep(0.1)
                continue
            try:
                client.list_topics()
                return
            except (KafkaError, OSError):
                sleep(0.1)
            finally:
                client.close()
        raise AssertionError(f"the broker did not answer in {_START_S} s: {self._last_words()}")

    def _last_words(self) -> str:
        return (self._home / "broker.log").read_text(encoding="utf-8", errors="replace")[-2000:]


@pytest.fixture(scope="session")
def broker() -> Iterator[EmbeddedBroker]:
    """A broker that runs; a test that stops it starts it again."""
    home = Path(tempfile.mkdtemp(prefix="chainlytics-kafka-"))
    running = EmbeddedBroker(home)
    try:
        try:
            running.start()
        except NoBroker as reason:
            pytest.skip(f"no Kafka here: {reason}")
        yield running
    finally:
        running.stop()
        shutil.rmtree(home, ignore_errors=True)


def jars() -> Path:
    """The folder with Kafka's jars, fetched if need be; of several processes one fetches them.

    Raises:
        NoBroker: they cannot be had.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chainlytics"
    folder = cache / f"kafka-{VERSION}"
    if folder.is_dir():
        return folder
    if shutil.which("mvn") is None:
        raise NoBroker("mvn was not found, and it has to fetch the broker's jars once")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        pom, found = Path(work, "pom.xml"), Path(work, "jars")
        pom.write_text(_POM, encoding="utf-8")
        try:
            done = subprocess.run(
                [*_COPY, "--file", str(pom), f"-DoutputDirectory={found}"],
                capture_output=True,
                text=True,
                timeout=_FETCH_S,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise NoBroker(f"mvn did not fetch the broker's jars in {_FETCH_S} s") from None
        if done.returncode != 0 or not any(found.glob("kafka_2.13-*.jar")):
            said = " ".join((done.stdout + done.stderr).split())[:300]
            raise NoBroker(f"mvn could not fetch the broker's jars: {said}")
        found.rename(folder)  # all of them or none


def _java(folder: Path) -> list[str]:
    java = shutil.which("java")
    if java is None:
        raise NoBroker("java was not found")
    asked = subprocess.run([java, "-version"], capture_output=True, text=True)
    match = re.search(r'version "(\d+)', asked.stderr)
    if match is None or int(match[1]) < _JAVA:
        raise NoBroker(f"java {_JAVA} or newer is needed")
    return [
        java,
        "-Xms64m",
        "-Xmx512m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        f"{folder}/*",
    ]
