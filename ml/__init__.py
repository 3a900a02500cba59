"""Decisions: features as folds, models trained from the log, explained choices, replay."""
