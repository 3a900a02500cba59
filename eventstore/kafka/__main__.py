"""``python -m eventstore.kafka``: fetch a broker, and run one in the foreground.

python -m eventstore.kafka                           fetches what a broker needs, says where it is
python -m eventstore.kafka run --home DIR [--port N] runs one on loopback until Ctrl-C
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from eventstore.kafka.embedded import VERSION, BrokerFailed, EmbeddedBroker, NoBroker, prepare

_PORT = 9092


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; answers with the exit code."""
    parser = argparse.ArgumentParser(prog="python -m eventstore.kafka", description=__doc__)
    run = parser.add_subparsers(dest="task").add_parser("run")
    run.add_argument("--home", type=Path, required=True, help="for its data and its log")
    run.add_argument("--port", type=int, default=_PORT)
    asked = parser.parse_args(arguments)
    try:
        kafka = prepare()
        _say(f"Apache Kafka {VERSION}: {kafka.folder}, run by {kafka.java}")
        return 0 if asked.task is None else _run(asked.home, asked.port)
    except (NoBroker, BrokerFailed) as error:
        sys.stderr.write(f"kafka: {error}\n")
        return 1


def _run(home: Path, port: int) -> int:
    broker = EmbeddedBroker(home, port=port)
    for number in (signal.SIGINT, signal.SIGTERM):  # a script's background job ignores the first
        signal.signal(number, _as_ctrl_c)
    try:
        broker.start()
        _say(f"KAFKA_BOOTSTRAP_SERVERS={broker.bootstrap}   (Ctrl-C stops it; its data: {home})")
        return broker.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        broker.stop()


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
