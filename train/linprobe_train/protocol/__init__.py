"""How C is chosen: grids, searches, held-out rows."""
