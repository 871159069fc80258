"""Sources of labelled images: a file each, with the names of :class:`pack.registry.Source`."""
