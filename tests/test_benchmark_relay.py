"""The benchmark of the relay at a small size: it runs, and compares what is the same."""

from __future__ import annotations

from benchmarks import relay
from benchmarks.relay import Sizes
from tests.broker import RunningBroker

RATES = {
    "relay_vs_producer",
    "relay_per_second",
    "producer_per_second",
    "consume_vs_bare",
    "consume_per_second",
    "bare_consumer_per_second",
}
LATENCIES = {"topic_ms_p50", "topic_ms_p99", "latency_ms_p50", "latency_ms_p99"}


def test_every_figure_is_measured(server_url: str, broker: RunningBroker) -> None:
    # `broker`: where there is none the benchmark has none either.
    sizes = Sizes(events=2_000, rounds=1, appends=20, per_second=20, seconds=1)
    said: list[str] = []
    figures = relay.run(server_url, said.append, sizes)
    assert figures.keys() == RATES | LATENCIES | {"lanes", "sizes"}
    assert all(figures[name] > 0 for name in RATES | LATENCIES)
    assert {line.split()[0] for line in said} >= RATES | LATENCIES
