"""Extraction: source tars through a frozen vision encoder into the feature store."""
