"""Who reads the rows: threads, or workers of Dask in the place of this process."""
