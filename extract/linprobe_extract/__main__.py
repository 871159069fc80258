"""``python -m linprobe_extract`` is ``linprobe-extract``."""

from linprobe_extract.cli import main

main()
