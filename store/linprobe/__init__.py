"""linprobe: linear probes of frozen vision encoders, from images to a number."""
