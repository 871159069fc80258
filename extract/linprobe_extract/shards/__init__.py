"""What was packed: cards, shards, their samples and labels."""
