"""Stands where the program `docker` would, on a machine without its server: the same commands, but
its one image is Kafka's jars. What decides whether a container comes up, the settings in its
environment, is read by the image's own entry point, which is among the jars.

    STATE=folder KAFKA='java ... -cp jars' python tests/docker_here.py run --detach ...
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import sleep

import psutil

_STATE = Path(os.environ["STATE"])
_KAFKA = shlex.split(os.environ["KAFKA"])  # Java with the jars' classes
_OPTIONS_WITH_VALUE = {"--name", "--publish", "--env", "--format", "--tail"}


def main(task: str, *words: str) -> int:
    """Do one of docker's tasks; answers with its exit code."""
    options, rest = parsed(words)
    if task == "version":
        say("28.0.0")
    elif task == "run":
        (name,) = options["--name"]
        (_STATE / name).mkdir()
        command = {"options": options, "image": rest[0]}
        (_STATE / name / "command.json").write_text(json.dumps(command))
        configure(name, dict(value.split("=", 1) for value in options["--env"]))
        launch(name)
        say(name)
    elif task == "start":
        launch(rest[0])
    elif task in ("stop", "kill"):
        send(rest[0], signal.SIGTERM if task == "stop" else signal.SIGKILL)
    elif task == "wait":
        await_end(rest[0])
    elif task == "inspect":
        say("true" if process_of(rest[0]) is not None else "false")
    elif task == "logs":
        say((_STATE / rest[0] / "log").read_text(errors="replace")[-2000:])
    elif task == "rm":
        send(rest[0], signal.SIGKILL)
        await_end(rest[0])
        (_STATE / rest[0] / "removed").touch()
    else:
        return 1
    return 0


def parsed(words: tuple[str, ...]) -> tuple[dict[str, list[str]], list[str]]:
    """Options with their values, and the rest."""
    options: dict[str, list[str]] = {}
    rest: list[str] = []
    left = iter(words)
    for word in left:
        if word.startswith("--"):
            value = next(left) if word in _OPTIONS_WITH_VALUE else ""
            options.setdefault(word, []).append(value)
        else:
            rest.append(word)
    return options, rest


def configure(name: str, environment: dict[str, str]) -> None:
    """What the image does first: settings out of the environment, and the storage formatted. The
    container's /tmp is a folder of its own."""
    home = _STATE / name
    environment["KAFKA_LOG_DIRS"] = environment["KAFKA_LOG_DIRS"].replace("/tmp", str(home), 1)
    for folder in ("default", "mounted", "final"):
        (home / folder).mkdir()
    # The image's own settings; they hold only where the environment has none.
    (home / "default" / "server.properties").write_text("process.roles=broker,controller\n")
    done = subprocess.run(
        [
            *_KAFKA,
            "kafka.docker.KafkaDockerWrapper",
            "setup",
            f"--default-configs-dir={home / 'default'}",
            f"--mounted-configs-dir={home / 'mounted'}",
            f"--final-configs-dir={home / 'final'}",
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)


def launch(name: str) -> None:
    """The broker as a process of nobody's, unless it runs."""
    home = _STATE / name
    if process_of(name) is not None:
        return
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [*_KAFKA, "kafka.Kafka", str(home / "final" / "server.properties")],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (home / "pid").write_text(str(process.pid))


def process_of(name: str) -> psutil.Process | None:
    """The container's process, where it lives."""
    with suppress(psutil.NoSuchProcess, FileNotFoundError):
        process = psutil.Process(int((_STATE / name / "pid").read_text()))
        if process.status() != psutil.STATUS_ZOMBIE and str(_STATE) in " ".join(process.cmdline()):
            return process
    return None


def send(name: str, number: signal.Signals) -> None:
    """A signal to the container's process, if there is one."""
    process = process_of(name)
    if process is not None:
        process.send_signal(number)


def await_end(name: str) -> None:
    """Return when nothing runs and nobody listens any more."""
    published = json.loads((_STATE / name / "command.json").read_text())["options"]["--publish"]
    address = (published[0].split(":")[0], int(published[0].split(":")[1]))
    while process_of(name) is not None or listens(address):
        sleep(0.05)


def listens(address: tuple[str, int]) -> bool:
    """Whether anybody is there."""
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


def say(line: str) -> None:
    """As docker would."""
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
