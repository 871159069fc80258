"""What a reader holds: the store, an encoder, a dataset, a split."""
