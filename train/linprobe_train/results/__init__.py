"""Answers on disk, found again by their question."""
