"""Encoder families, and the frozen tower that a run uses."""
