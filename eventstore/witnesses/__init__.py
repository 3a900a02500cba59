"""Who is handed each signed head: files, HTTP endpoints, Kafka topics."""
