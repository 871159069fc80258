"""One extraction: what is left to do, who does it, how it streams."""
