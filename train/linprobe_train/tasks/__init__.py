"""What a person asks for: probe, k-NN, few-shot, predict, compare."""
