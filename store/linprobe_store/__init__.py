"""The feature store: what extraction writes once and training reads for ever."""
