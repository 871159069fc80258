"""Metrics of predictions, with their intervals and paired tests."""
