"""What lies on disk: names, specifications, checksums, commits, Zarr metadata."""
