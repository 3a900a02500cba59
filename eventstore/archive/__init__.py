"""Sealed ranges of the log as Parquet, and how what was dropped is read."""
