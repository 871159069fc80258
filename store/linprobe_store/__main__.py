"""``python -m linprobe_store`` is ``linprobe-store``."""

from linprobe_store.cli import main

main()
