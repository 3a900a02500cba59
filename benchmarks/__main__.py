"""Run a benchmark: `python -m benchmarks NAME [--json]`; without a name, list them."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks import append, day, decide, growth, http, load, project, relay, routing, seal, spine
from chainlytics.memory import calm_collector
from eventstore.embedded import EmbeddedPostgres

BENCHMARKS = {
    "append": append,
    "day": day,
    "decide": decide,
    "growth": growth,
    "http": http,
    "load": load,
    "project": project,
    "relay": relay,
    "routing": routing,
    "seal": seal,
    "spine": spine,
}


def main() -> int:
    """Run one benchmark on a fresh, durable, embedded PostgreSQL; the last line is its result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(BENCHMARKS), help="which one")
    parser.add_argument("--json", action="store_true", help="print nothing but one JSON object")
    arguments = parser.parse_args()
    if arguments.name is None:
        for name, module in BENCHMARKS.items():
            print(f"{name:10} {(module.__doc__ or '').splitlines()[0]}")
        return 0

    calm_collector()  # as every process of ours does

    def say(line: str) -> None:
        if not arguments.json:
            print(line, flush=True)

    with tempfile.TemporaryDirectory(prefix="chainlytics-bench-") as folder:
        Path(folder).chmod(0o755)  # root's server runs as `nobody`
        with EmbeddedPostgres(Path(folder)) as server:
            result = BENCHMARKS[arguments.name].run(server.start(), say)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
