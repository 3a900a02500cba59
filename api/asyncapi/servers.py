"""Where the brokers of the AsyncAPI document are, and how to get in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eventstore.kafka.cluster import Cluster


def servers_of(cluster: Cluster | None) -> dict[str, Any]:
    """The servers of the document: a placeholder where no cluster is named. Never a secret."""
    if cluster is None:
        return {
            "cluster": {
                "host": "{broker}",
                "protocol": "kafka-secure",
                "title": "Your Kafka cluster",
                "description": "`KAFKA_BOOTSTRAP_SERVERS` of the installation.",
                "variables": {
                    "broker": {
                        "default": "localhost:9092",
                        "description": "host:port of one of the brokers.",
                    }
                },
                "security": _ways("scramSha512"),
            }
        }
    protocol = str(cluster.security.get("security_protocol", "PLAINTEXT"))
    way = _MECHANISMS.get(str(cluster.security.get("sasl_mechanism")))
    told: dict[str, Any] = {
        "protocol": "kafka-secure" if protocol.endswith("SSL") else "kafka",
        "title": "The Kafka cluster",
    }
    if way is not None:
        told["security"] = _ways(way)
    return {
        "cluster" if number == 1 else f"cluster-{number}": {"host": broker, **told}
        for number, broker in enumerate(cluster.brokers, 1)
    }


def _ways(*names: str) -> Sequence[Mapping[str, str]]:
    return [{"$ref": f"#/components/securitySchemes/{name}"} for name in names]


_MECHANISMS = {
    "PLAIN": "plain",
    "SCRAM-SHA-256": "scramSha256",
    "SCRAM-SHA-512": "scramSha512",
}
SECURITY: Mapping[str, Any] = {
    "scramSha512": {
        "type": "scramSha512",
        "description": "SASL/SCRAM-SHA-512 over TLS (`SASL_SSL`): a user of the cluster's own.",
    },
    "scramSha256": {
        "type": "scramSha256",
        "description": "SASL/SCRAM-SHA-256 over TLS (`SASL_SSL`): a user of the cluster's own.",
    },
    "plain": {"type": "plain", "description": "SASL/PLAIN: only over TLS (`SASL_SSL`)."},
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The header `authorization` of a command: a token of the HTTP API, "
        "which says organisation, actor and roles.",
    },
}
