"""Libraries of encoders: one adapter each, which do not know each other."""
