"""Looking after a store: list, verify, remove, import, export, copy."""
