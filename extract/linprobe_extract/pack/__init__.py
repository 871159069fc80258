"""From images in any form to sealed tar shards."""
