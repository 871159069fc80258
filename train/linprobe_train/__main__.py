"""``python -m linprobe_train``."""

from linprobe_train.cli import main

main()
