"""Kills and full disks of copy, pack, unpack, import, export: ``python show_full_disk.py``.

A disk that is full at every 4 kB, and SIGKILL before every event of the file system; then the same
command again, whose outcome must be that of an undisturbed one. Takes some minutes, and the right
to mount a tmpfs.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "factories"))

from copy_faults import main

if __name__ == "__main__":
    for how, step in (("disk", 4096), ("kill", 1)):
        print(f"{how}, every {step}")
        main(how, step)
