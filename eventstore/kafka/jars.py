"""Apache Kafka without a container: its official jars, and the Java that runs them.

Maven resolves the jars once, into the user's cache (``XDG_CACHE_HOME``, else ``~/.cache``), with
whatever settings and mirrors the user's Maven has. Beside them lies an archive of the classes that
a broker loads, which halves the time that Java takes to start one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: The version of the jars, and of the image wherever one is run instead.
VERSION = "4.3.1"
#: The oldest Java that runs it.
JAVA = 17
_FETCH_S = 240
_ATTEMPTS = 2
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_COPY = ("mvn", "--batch-mode", "--quiet", _PLUGIN, "-DincludeScope=runtime")
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>chainlytics</groupId>
  <artifactId>embedded-kafka</artifactId>
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
# A broker of one machine's tests and trials: little memory, and soon there.
_OPTIONS = (
    "-Xms64m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


class NoBroker(Exception):
    """Java, Maven or the jars cannot be had here; the message says which, and what to do."""


@dataclass(frozen=True)
class Distribution:
    """Kafka's jars and the Java that runs them.

    Attributes:
        folder: where the jars are.
        java: the program.
        classes: where the archive of classes is, or would be; each Java has its own.
    """

    folder: Path
    java: str
    classes: Path

    def command(self, *options: str) -> list[str]:
        """Java with Kafka's classes, and with more ``options`` of Java's; append a class to run."""
        shared = [f"-XX:SharedArchiveFile={self.classes}"] if self.classes.exists() else []
        return [self.java, *_OPTIONS, *shared, *options, "-cp", f"{self.folder}/*"]


def distribution() -> Distribution:
    """Kafka as it can be run here, its jars fetched if need be; of several processes one fetches.

    Raises:
        NoBroker: it cannot be had.
    """
    java, version = _java()
    folder = _cache() / f"kafka-{VERSION}"
    found = Distribution(folder, java, _cache() / f"kafka-{VERSION}-java-{version}.jsa")
    if not folder.is_dir():
        if shutil.which("mvn") is None:
            raise NoBroker("mvn was not found: install Maven, it fetches Kafka's jars once")
        with only_one("fetch"):
            if not folder.is_dir():
                _fetch(folder)
    return found


@contextmanager
def only_one(task: str) -> Iterator[None]:
    """Of all processes with this cache, one at a time does this task.

    Raises:
        NoBroker: nothing can be written there.
    """
    try:
        _cache().mkdir(parents=True, exist_ok=True)
        lock = (_cache() / f"kafka-{task}.lock").open("w")
    except OSError as error:
        raise NoBroker(f"the cache {_cache()} cannot be written: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cache() -> Path:
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        raise NoBroker("nobody says where the home folder is: set XDG_CACHE_HOME") from error
    return base.absolute() / "chainlytics"


def _java() -> tuple[str, str]:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else None
    java = java or shutil.which("java")
    if java is None:
        raise NoBroker(f"java was not found: install Java {JAVA} or newer")
    asked = subprocess.run([java, "-version"], capture_output=True, text=True)
    version = re.search(r'version "((\d+)[^"]*)"', asked.stderr)
    if version is None or int(version[2]) < JAVA:
        said = " ".join(asked.stderr.split())[:100]
        raise NoBroker(f"Java {JAVA} or newer is needed, and {java} says: {said}")
    return java, version[1]


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        pom, found = Path(work, "pom.xml"), Path(work, "jars")
        pom.write_text(_POM, encoding="utf-8")
        said = ""
        for _ in range(_ATTEMPTS):
            try:
                done = subprocess.run(
                    [*_COPY, "--file", str(pom), f"-DoutputDirectory={found}"],
                    capture_output=True,
                    text=True,
                    timeout=_FETCH_S,
                    stdin=subprocess.DEVNULL,
                )
            except subprocess.TimeoutExpired:
                raise NoBroker(f"mvn did not fetch Kafka's jars in {_FETCH_S} s") from None
            if done.returncode == 0 and any(found.glob("kafka_2.13-*.jar")):
                found.rename(folder)  # all of them or none
                return
            said = " ".join((done.stdout + done.stderr).split())[:300]
        raise NoBroker(f"mvn could not fetch Kafka's jars: {said}")
