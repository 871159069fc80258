"""The optimum of a regularised linear classifier, to a rigorous gap."""
