"""The HTTP API under /api/v1: thin routers over commands and read models."""
