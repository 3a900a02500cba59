"""The AsyncAPI document: what goes over Kafka, made from the event catalogue and the commands."""
