"""Health: what a worker tells on its port, and what the API tells whoever probes it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from chainlytics.health import Pulse, serving_health
from tests.serving import NO_TLS, SECRET, free_port, until

SILENT_S = 0.5


class Worker:
    """An event loop in a thread that beats, and can be blocked."""

    def __init__(self, health: Pulse, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._work(health, url))
        self._thread = threading.Thread(target=self._run, name="worker")

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """As by code that does not give the loop back."""
        go = threading.Event()
        self._loop.call_soon_threadsafe(go.wait)
        try:
            yield
        finally:
            go.set()

    @staticmethod
    async def _work(health: Pulse, url: str) -> None:
        async with health.beating(url):
            await asyncio.Event().wait()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()


@contextmanager
def asked(health: Pulse) -> Iterator[httpx.Client]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with (
        serving_health(listener, health),
        httpx.Client(verify=NO_TLS, base_url=base, timeout=20) as client,
    ):
        yield client


def becomes(client: httpx.Client, path: str, status: int) -> None:
    until(lambda: client.get(path).status_code == status or None)


def test_alive_while_the_loop_turns_and_not_while_it_is_blocked(database: str) -> None:
    health = Pulse(silent_s=SILENT_S)
    with asked(health) as client, Worker(health, database) as worker:
        becomes(client, "/health/ready", 200)
        with worker.blocked():
            becomes(client, "/health/live", 503)
            assert client.get("/health/ready").status_code == 503
        becomes(client, "/health/live", 200)
        becomes(client, "/health/ready", 200)


def test_one_that_prepares_is_alive_and_not_ready() -> None:
    health = Pulse(silent_s=0.0)
    with asked(health) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503


def test_not_ready_without_its_database_yet_alive() -> None:
    health = Pulse()
    with (
        asked(health) as client,
        Worker(health, f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"),
    ):
        until(lambda: health._url)
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200


def test_metrics_are_of_the_process_and_nothing_else_is_served(database: str) -> None:
    health = Pulse()
    with asked(health) as client, Worker(health, database):
        answer = client.get("/metrics")
        families = {family.name for family in text_string_to_metric_families(answer.text)}
        assert "process_resident_memory_bytes" in families
        assert {name.split("_")[0] for name in families} == {"process", "python"}
        for path in ("/", "/health", "/health/live/", "/metrics?x=1", "//metrics"):
            assert client.get(path).status_code == 404, path
        assert client.post("/metrics").status_code == 501


def test_the_database_is_not_asked_by_every_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stands still, and who asks hears of one look, however often."""
    monkeypatch.setattr("chainlytics.health.monotonic", lambda: 100.0)
    health = Pulse()
    with (
        counting() as (url, visits),
        asked(health) as client,
        Worker(health, url),
    ):
        until(lambda: health._url)
        assert client.get("/health/ready").status_code == 503
        first = len(visits)
        assert first
        for _ in range(20):
            assert client.get("/health/ready").status_code == 503
        assert len(visits) == first


@contextmanager
def counting() -> Iterator[tuple[str, list[None]]]:
    """What is no database, and who came to it."""
    visits: list[None] = []
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()

        def open_and_close() -> None:
            while True:
                try:
                    visitor = door.accept()[0]
                except OSError:
                    return
                visits.append(None)
                visitor.close()

        porter = threading.Thread(target=open_and_close, name="porter")
        porter.start()
        try:
            yield f"postgresql://nobody@127.0.0.1:{door.getsockname()[1]}/nothing", visits
        finally:
            door.shutdown(socket.SHUT_RDWR)
            porter.join()


# The command line


def started(command: list[str], database: str, home: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "chainlytics", *command],
        env=os.environ
        | {
            "DATABASE_URL": database,
            "CHAINLYTICS_HOME": str(home),
            "CHAINLYTICS_TOKEN_SECRET": SECRET,
        }
        | more,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("worker", ["api", "projector", "consumer"])
def test_a_worker_tells_its_health_until_it_stops(
    worker: str, database: str, tmp_path: Path
) -> None:
    """By the option, or by the environment."""
    port = free_port()
    option = ["--health-port", str(port)] if worker != "consumer" else []
    if worker == "api":
        option += ["--port", "0"]
    process = started([worker, *option], database, tmp_path, CHAINLYTICS_HEALTH_PORT=str(port))
    try:

        def ready() -> bool | None:
            assert process.poll() is None, process.communicate()[0]
            try:
                answer = httpx.get(
                    f"http://127.0.0.1:{port}/health/ready", verify=NO_TLS, timeout=10
                )
            except httpx.TransportError:
                return None
            return True if answer.status_code == 200 else None

        until(ready)
        assert httpx.get(f"http://127.0.0.1:{port}/health/live", verify=NO_TLS).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/health/live", verify=NO_TLS)


def test_a_port_that_is_taken_is_one_clear_sentence(database: str, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = started(["projector", "--health-port", str(port)], database, tmp_path)
        output = process.communicate(timeout=50)[0]
    assert process.returncode == 1
    said = " ".join(output.split())
    assert f"error: port {port} on 127.0.0.1 is taken; name another: --health-port N" in said
    assert "Traceback" not in said
