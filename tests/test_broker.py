"""Where the Kafka of the tests comes from, and what happens where there is none."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from eventstore.kafka.cluster import Cluster
from eventstore.kafka.embedded import EmbeddedBroker, free_port
from eventstore.kafka.jars import VERSION, NoBroker, distribution
from tests.broker import (
    NONE_HERE,
    REQUIRED,
    SERVERS,
    DockerBroker,
    SharedBroker,
    StoppableBroker,
    broker_of_our_own,
    had,
    remove_brokers,
)

ROOT = Path(__file__).resolve().parent.parent
RECORDS = "test_records_come_back"
KILLED = "test_a_killed_broker_comes_back_with_its_records"


def test_records_come_back(cluster: Cluster) -> None:
    topic = cluster.topic("things")
    make_topic(cluster.brokers[0], topic, 3)
    send_in_a_transaction(cluster.brokers[0], topic, b"one", b"two")
    assert received(cluster.brokers[0], topic, 2) == [b"one", b"two"]


def test_nobody_makes_a_topic_by_a_slip_of_the_pen(own_broker: StoppableBroker) -> None:
    name = f"nobody-made-{uuid.uuid4().hex}"
    consumer = KafkaConsumer(name, bootstrap_servers=own_broker.bootstrap)
    try:
        consumer.poll(timeout_ms=500)
    finally:
        consumer.close()
    assert name not in topics(own_broker.bootstrap)


def test_a_killed_broker_comes_back_with_its_records(own_broker: StoppableBroker) -> None:
    topic = f"kept-{uuid.uuid4().hex}"
    before = own_broker.bootstrap
    make_topic(before, topic, 1)
    send(before, topic, b"one")
    for kill in (True, False):
        own_broker.stop(kill=kill)
        assert not listens(before)
        own_broker.start()
    assert own_broker.bootstrap == before
    assert received(before, topic, 1) == [b"one"]


def test_the_processes_of_a_run_share_a_broker_that_goes_with_it(tmp_path: Path) -> None:
    here = SharedBroker(tmp_path / "kafka")
    address = had(here.start)
    try:
        assert SharedBroker(tmp_path / "kafka").start() == address
        assert listens(address)
    finally:
        remove_brokers(tmp_path / "kafka")
    assert not listens(address)
    assert not (tmp_path / "kafka").exists()


def test_a_port_that_was_taken_meanwhile_is_left_to_its_owner(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    wanted = broker.bootstrap
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(wanted.rpartition(":")[2])))
        other.listen()
        had(broker.start)
        try:
            assert broker.bootstrap != wanted
            assert topics(broker.bootstrap) == []
        finally:
            broker.stop()


class TestWhereNoneCanBeHad:
    """The tests above, run on a machine that has only Python."""

    def test_they_are_skipped_aloud(self, tmp_path: Path) -> None:
        done = run_of_tests(RECORDS, KILLED, path=tmp_path, workers=1)
        assert done.returncode == 0, done.stdout
        assert "2 skipped" in done.stdout
        assert "2 tests of Kafka did not run" in done.stdout
        assert f"{NONE_HERE}: java was not found" in done.stdout
        assert "no Docker answers" in done.stdout

    def test_they_fail_where_kafka_is_required(self, tmp_path: Path) -> None:
        done = run_of_tests(RECORDS, KILLED, path=tmp_path, environment={REQUIRED: "1"})
        assert done.returncode == 1, done.stdout
        assert "2 errors" in done.stdout
        assert f"{NONE_HERE}, and {REQUIRED}=1: java was not found" in done.stdout


class TestSources:
    def test_a_broker_that_is_named_is_taken_but_never_stopped(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        named = {SERVERS: ",".join(cluster.brokers)}
        done = run_of_tests(RECORDS, KILLED, path=tmp_path, environment=named)
        assert done.returncode == 0, done.stdout
        assert "1 passed, 1 skipped" in done.stdout
        assert f"{NONE_HERE}: java was not found" in done.stdout

    def test_one_that_is_named_and_not_there_fails(self, tmp_path: Path) -> None:
        nowhere = f"127.0.0.1:{free_port()}"
        done = run_of_tests(RECORDS, path=tmp_path, environment={SERVERS: nowhere})
        assert done.returncode == 1, done.stdout
        assert f"{nowhere}, which {SERVERS} names, does not answer" in done.stdout

    def test_without_java_docker_runs_the_official_image(self, tmp_path: Path) -> None:
        kafka = had(distribution)
        state = tmp_path / "containers"
        state.mkdir()
        docker = {"STATE": str(state), "KAFKA": shlex.join(kafka.command()), REQUIRED: "1"}
        program(tmp_path, "docker", f'exec {sys.executable} {ROOT}/tests/docker_here.py "$@"')
        done = run_of_tests(RECORDS, KILLED, path=tmp_path, environment=docker)
        assert done.returncode == 0, done.stdout
        assert "2 passed" in done.stdout
        containers = list(state.iterdir())
        assert len(containers) == 2
        for container in containers:
            assert (container / "removed").exists()
            assert json.loads((container / "command.json").read_text())["image"] == (
                f"apache/kafka:{VERSION}"
            )

    def test_a_container_is_reached_by_loopback_only(self) -> None:
        made = DockerBroker()
        command = made.command()
        port = made.bootstrap.rpartition(":")[2]
        assert command[:5] == ["docker", "run", "--detach", "--name", made.name]
        assert command[command.index("--publish") + 1] == f"127.0.0.1:{port}:{port}"
        assert command.count("--publish") == 1
        settings = [value for word, value in pairwise(command) if word == "--env"]
        assert f"KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://127.0.0.1:{port}" in settings
        assert "KAFKA_PROCESS_ROLES=broker,controller" in settings
        assert "KAFKA_AUTO_CREATE_TOPICS_ENABLE=false" in settings
        assert command[-1] == f"apache/kafka:{VERSION}"


class TestJars:
    @pytest.fixture(autouse=True)
    def alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No program but those of the test, and an empty cache."""
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("JAVA_HOME", raising=False)

    def test_an_old_java_will_not_do(self, tmp_path: Path) -> None:
        program(tmp_path / "bin", "java", """echo 'openjdk version "11.0.2"' >&2""")
        with pytest.raises(NoBroker, match="Java 17 or newer is needed"):
            distribution()

    def test_maven_has_to_be_there(self, tmp_path: Path) -> None:
        program(tmp_path / "bin", "java", """echo 'openjdk version "17.0.2"' >&2""")
        with pytest.raises(NoBroker, match="mvn was not found"):
            distribution()

    def test_what_maven_says_is_passed_on_and_nothing_is_half_there(self, tmp_path: Path) -> None:
        program(tmp_path / "bin", "java", """echo 'openjdk version "21" 2023-09-19' >&2""")
        program(tmp_path / "bin", "mvn", f"echo asked >> {tmp_path}/asked; echo no network; exit 1")
        with pytest.raises(NoBroker, match="mvn could not fetch Kafka's jars: no network"):
            distribution()
        assert (tmp_path / "asked").read_text() == "asked\nasked\n"
        assert list((tmp_path / "cache").glob("*/kafka-*.*.*")) == []

    def test_a_cache_that_cannot_be_written_is_a_reason(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program(tmp_path / "bin", "java", """echo 'openjdk version "17.0.2"' >&2""")
        program(tmp_path / "bin", "mvn", "exit 0")
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.raises(NoBroker, match="cannot be written"):
            distribution()

    def test_without_anything_the_reason_names_both(self, tmp_path: Path) -> None:
        with pytest.raises(NoBroker, match=r"java was not found.*; and no Docker answers"):
            broker_of_our_own(tmp_path)


def test_a_broker_in_the_foreground_runs_until_ctrl_c(tmp_path: Path) -> None:
    had(distribution)
    port = free_port()
    command = [sys.executable, "-m", "eventstore.kafka", "run", "--home", str(tmp_path / "home")]
    for existing in ([], ["kept"]):
        with subprocess.Popen(
            [*command, "--port", str(port)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as process:
            assert process.stdout is not None
            assert VERSION in process.stdout.readline()
            assert f"{SERVERS}=127.0.0.1:{port} " in process.stdout.readline()
            assert topics(f"127.0.0.1:{port}") == existing
            if not existing:
                make_topic(f"127.0.0.1:{port}", "kept", 1)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        assert not listens(f"127.0.0.1:{port}")


class TestContinuousIntegration:
    """`.ci/run`, with stand-ins for all that it calls."""

    @pytest.fixture
    def programs(self, tmp_path: Path) -> Path:
        made = tmp_path / "bin"
        made.mkdir()
        program(made, "make", f'echo "make $* {REQUIRED}=${REQUIRED}"')
        program(made, "id", "echo 0")
        return made

    def test_kafka_is_fetched_and_required(self, programs: Path) -> None:
        java_and_maven(programs)
        done = ci(programs)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"make kafka lint test clients contract EXAMPLES=60 {REQUIRED}=1\n"

    @pytest.mark.parametrize("package", ["openjdk-17-jre-headless", "default-jre-headless"])
    def test_what_is_missing_is_installed_on_debian(self, programs: Path, package: str) -> None:
        """Not every release has the first package."""
        java_and_maven(programs / "later")
        program(
            programs,
            "apt-get",
            f'echo "apt-get $DEBIAN_FRONTEND $*" >&2; case "$*" in *{package}*) '
            f"/bin/cp {programs}/later/* {programs};; *install*) exit 100;; esac",
        )
        done = ci(programs)
        assert done.returncode == 0, done.stderr
        assert (
            f"noninteractive install --yes --quiet --quiet --no-install-recommends {package} maven"
            in done.stderr
        )
        assert done.stdout == f"make kafka lint test clients contract EXAMPLES=60 {REQUIRED}=1\n"

    @pytest.mark.parametrize("version", [None, "11.0.2"])
    def test_elsewhere_it_says_what_to_install(self, programs: Path, version: str | None) -> None:
        if version is not None:
            java_and_maven(programs, version)
        done = ci(programs)
        assert done.returncode == 1
        assert "need Java 17 or newer and Maven" in done.stderr
        assert done.stdout == ""

    def test_so_it_does_where_they_cannot_be_installed(self, programs: Path) -> None:
        program(programs, "apt-get", "exit 100")
        done = ci(programs)
        assert done.returncode == 1
        assert "apt-get install openjdk-17-jre-headless maven" in done.stderr


def run_of_tests(
    *names: str, path: Path, workers: int = 0, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A run of tests of this file where only the programs in one folder are to be had."""
    outside = {"JAVA_HOME", SERVERS, REQUIRED, "DOCKER_HOST"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in outside and not name.startswith("PYTEST_")
    }
    chosen = [f"{__file__}::{name}" for name in names]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"-n{workers}", *chosen],
        env=kept | {"PATH": str(path), **(environment or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


def ci(programs: Path) -> subprocess.CompletedProcess[str]:
    """`.ci/run` where only these programs are to be had."""
    return subprocess.run(
        ["/bin/bash", str(ROOT / ".ci" / "run")],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def java_and_maven(folder: Path, version: str = "17.0.2") -> None:
    folder.mkdir(exist_ok=True)
    program(folder, "java", f"""echo 'openjdk version "{version}"' >&2""")
    program(folder, "mvn", "exit 0")


def program(folder: Path, name: str, script: str) -> None:
    """A program of the test's own."""
    made = folder / name
    made.write_text(f"#!/bin/sh\n{script}\n")
    made.chmod(0o755)


def listens(address: str) -> bool:
    """Whether anybody is there."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def topics(address: str) -> list[str]:
    """The topics that a broker has, but its own."""
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        return [name for name in admin.list_topics() if not name.startswith("__")]
    finally:
        admin.close()


def make_topic(address: str, name: str, partitions: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=1)])
    finally:
        admin.close()


def send(address: str, topic: str, value: bytes) -> None:
    """A record, which the broker has acknowledged."""
    producer = KafkaProducer(bootstrap_servers=address)
    try:
        producer.send(topic, value, partition=0).get(timeout=60)
    finally:
        producer.close()


def send_in_a_transaction(address: str, topic: str, *values: bytes) -> None:
    """Records in one transaction: that needs the broker's own coordinator, too."""
    producer = KafkaProducer(bootstrap_servers=address, transactional_id=uuid.uuid4().hex)
    try:
        producer.init_transactions()
        producer.begin_transaction()
        for value in values:
            producer.send(topic, value, partition=0)
        producer.commit_transaction()
    finally:
        producer.close()


def received(address: str, topic: str, count: int) -> list[bytes]:
    """The values of the first partition's records, as soon as there are so many: a transaction's
    may be read some time after its commit was acknowledged."""
    consumer = KafkaConsumer(
        bootstrap_servers=address, enable_auto_commit=False, isolation_level="read_committed"
    )
    try:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        found: list[bytes] = []
        while len(found) < count:
            for records in consumer.poll(timeout_ms=1000).values():
                found += [one.value for one in records]
        return found
    finally:
        consumer.close()
