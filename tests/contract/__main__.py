"""Run it: `make contract`, or `python -m tests.contract --help`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from domain.access import Role
from tests.contract.world import served
from tests.serving import bearer

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: What is left of a run: the server's log, which says why an answer was 500.
LEFT = ROOT / "build" / "contract"
#: A run is thousands of requests in a minute, many of them with no token or a bad one.
SETTINGS = {
    "CHAINLYTICS_RATE_IDENTITY": "0",
    "CHAINLYTICS_RATE_ADDRESS": "0",
    "CHAINLYTICS_RATE_FAILURES": "0",
    "CHAINLYTICS_MAIL": "console",
}


def main() -> int:
    """Hold a server against its document; the exit code is schemathesis' own."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--examples", type=int, default=200, help="for each operation")
    arguments.add_argument("rest", nargs="*", help="handed on to schemathesis, after --")
    asked = arguments.parse_args()
    os.environ.update(SETTINGS)
    LEFT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chainlytics-contract-") as folder:
        home = Path(folder)
        try:
            with served(home) as server:
                return _run(server.url, home, asked.examples, asked.rest)
        finally:
            if (log := home / "serve.log").exists():
                shutil.copy(log, LEFT)


def _run(url: str, home: Path, examples: int, rest: list[str]) -> int:
    command = [
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(HERE / "schemathesis.toml")),
        *("run", f"{url}/openapi.json", "--max-examples", str(examples), *rest),
    ]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.contract.hooks",
        "CONTRACT_TOKEN": bearer(*Role),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(command, env=environment, cwd=home, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
