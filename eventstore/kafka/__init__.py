"""Kafka: the log relayed to topics, and read from them again by groups of consumers."""
