"""Decisions one at a time: from the request to its readable explanation, over HTTP, from a server
that runs as people run it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import psycopg

from api.tokens import Issuer
from domain.access import Role

_WARM = 5
_PATIENCE_S = 60.0
_SECRET = "of this benchmark alone, and long enough"
Say = Callable[[str], None]


class NotServed(Exception):
    """The server did not come up."""


def ask_one_at_a_time(url: str, organisation_id: UUID, count: int, say: Say) -> dict[str, Any]:
    """Ask for a decision, read its explanation as soon as it is there, and ask again when the read
    models show the decision too, so that one is under way at a time.

    The clock runs from the request's first byte to the explanation's last one.
    """
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            """SELECT order_id FROM read_models.order_summary
            WHERE status IN ('placed', 'allocated') ORDER BY order_id"""
        ).fetchall()
    orders = [str(order_id) for (order_id,) in rows]
    with _server(url) as (address, process):
        token = Issuer(_SECRET).issue(
            subject="bench",
            organisation_id=organisation_id,
            roles=frozenset({Role.ADMIN}),
            ttl=timedelta(hours=1),
        )
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=f"{address}/api/v1", headers=headers, timeout=60) as client:
            for number in range(_WARM):
                _ask(client, orders[number % len(orders)], f"warm-{number}")
            took = [
                _ask(client, orders[number % len(orders)], f"single-{number}")
                for number in range(count)
            ]
        resident = _resident_mb(process.pid)
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    p50, p99 = np.percentile(took, [50, 99])
    say(f"{count} decisions one at a time: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return {
        "decision_ms_p50": round(float(p50), 1),
        "decision_ms_p99": round(float(p99), 1),
        "resident_mb": round(resident),
        "shap_imported": "/shap/" in maps,
    }


def _ask(client: httpx.Client, order_id: str, decision_id: str) -> float:
    """Milliseconds from request to explanation."""
    begun = perf_counter()
    asked = {"decision_id": decision_id, "subject_id": order_id}
    client.post("/decisions", json=asked).raise_for_status()
    answer = client.get(f"/decisions/{decision_id}/explanation", params={"wait_s": 30})
    answer.raise_for_status()
    took = (perf_counter() - begun) * 1e3
    position = answer.headers["ETag"].strip('"')
    read = client.get(f"/decisions/{decision_id}", params={"min_position": position})
    read.raise_for_status()
    return took


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


@contextmanager
def _server(url: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`chainlytics serve` as a process of its own; what it said is told where we fail."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="chainlytics-bench-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "chainlytics", "serve", "--port", str(port)],
                env=os.environ
                | {
                    "DATABASE_URL": url,
                    "CHAINLYTICS_HOME": folder,
                    "CHAINLYTICS_TOKEN_SECRET": _SECRET,
                },
                cwd=Path(__file__).parent.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _until_it_answers(f"http://127.0.0.1:{port}/api/v1/health", process)
            yield f"http://127.0.0.1:{port}", process
        except BaseException as error:
            error.add_note(f"the server said:\n{log.read_text()[-2000:]}")
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_it_answers(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = monotonic() + _PATIENCE_S
    while monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(address, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        sleep(0.05)
    raise NotServed("the server did not start")
