"""Arrays of a unit: written in order, mapped without copying, sealed into splits."""
