"""Extraction: WebDataset shards through a frozen encoder into the feature store."""
