"""A witness that is a topic of Kafka: key = the log's origin, value = the note.

A topic takes whatever it is given, so who reads it compares; it should keep its records for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from eventstore.witnesses.witness import HeadNote, Proof, WitnessAway

_PATIENCE_S = 10.0


class KafkaWitness:
    """Sends notes and waits until all in-sync replicas have them."""

    def __init__(
        self, brokers: Sequence[str], topic: str, *, patience_s: float = _PATIENCE_S
    ) -> None:
        """``brokers``: ``host:port`` each. ``patience_s``: how long each step may take, which are
        to reach a broker, to learn of the topic, and to be acknowledged."""
        self._brokers, self._topic = list(brokers), topic
        self._patience_s = patience_s
        self._producer: Any = None

    @property
    def name(self) -> str:
        """Brokers and topic as an address."""
        return f"kafka://{','.join(self._brokers)}/{self._topic}"

    async def hand(self, head: HeadNote, *, seen: int, proof: Proof) -> str:
        """Send the note and wait for the brokers' word; see ``Witness``."""
        try:
            await asyncio.to_thread(self._send, head)
        except (KafkaError, OSError) as error:
            # What is still in its hands must not arrive behind a later head.
            await self.close()
            raise WitnessAway(str(error) or type(error).__name__) from error
        return ""

    async def close(self) -> None:
        """Let the producer go, and with it what it has not delivered."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await asyncio.to_thread(producer.close, timeout=0)

    def _send(self, head: HeadNote) -> None:
        patience_ms = round(self._patience_s * 1000)
        if self._producer is None:
            self._producer = KafkaProducer(
                bootstrap_servers=self._brokers,
                client_id="chainlytics-witness",
                acks="all",
                enable_idempotence=True,
                bootstrap_timeout_ms=patience_ms,
                max_block_ms=patience_ms,
                request_timeout_ms=patience_ms // 2,
                delivery_timeout_ms=patience_ms,
            )
        sent = self._producer.send(
            self._topic, key=head.head.origin.encode(), value=head.note.encode()
        )
        sent.get(timeout=2 * self._patience_s)
