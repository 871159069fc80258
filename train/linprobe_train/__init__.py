"""The probe: CPU-only training and scoring of linear classifiers on stored features."""
