"""Clients of kafka-python, opened so that nothing of them stays behind where no broker answers."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer

#: What every client talks to brokers with.
_NETWORK = KafkaConsumer.DEFAULT_CONFIG["kafka_client"]


def opened(client: Any, **options: Any) -> Any:
    """A client of this class.

    Its constructor looks for brokers. Where it finds none it raises, and left to itself it would
    leave a thread and four files behind each time: who tries again and again has none left by and
    by.

    Raises:
        KafkaError: no broker answers.
    """
    made: list[Any] = []

    def network(**config: Any) -> Any:
        made.append(_NETWORK(**config))
        return made[-1]

    try:
        return client(**options, kafka_client=network)
    except BaseException:
        for one in made:
            one.close()
        raise
