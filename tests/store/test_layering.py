"""The store stands alone: it installs a script, and drags in nothing heavy."""

import subprocess
import sys
from pathlib import Path


def test_the_script_is_installed() -> None:
    script = Path(sys.executable).with_name("linprobe")
    result = subprocess.run([script, "store", "--help"], capture_output=True, text=True, check=True)

    assert "verify" in result.stdout


def test_the_store_imports_neither_torch_nor_its_siblings() -> None:
    code = (
        "import sys, linprobe_store, linprobe_store.cli\n"
        "heavy = {'torch', 'zarr', 'fsspec', 'pyarrow', 'sklearn', 'linprobe_extract', "
        "'linprobe_train'}\n"
        "print(*heavy & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert result.stdout == "\n"
