"""``python -m linprobe``."""

from linprobe.door import main

main()
