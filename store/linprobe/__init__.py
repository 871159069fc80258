"""linprobe: linear probes of frozen vision encoders, from images to a number.

The public names of all stages, each loaded when it is first used: importing this package loads
neither torch nor zarr nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linprobe.errors import LinprobeError
    from linprobe_extract.encoders.encoder import Encoder
    from linprobe_extract.run.run import extract_features
    from linprobe_store.format.spec import DatasetSpec, EncoderSpec, FeatureBlock
    from linprobe_store.handles.dataset import StoredDataset
    from linprobe_store.handles.encoder import StoredEncoder
    from linprobe_store.handles.split import Split
    from linprobe_store.handles.store import FeatureStore
    from linprobe_train.api import fit_probe, sweep
    from linprobe_train.estimator import LinearProbe
    from linprobe_train.protocol.protocols import PROTOCOLS, Protocol
    from linprobe_train.protocol.search import Search
    from linprobe_train.results.probe_file import SavedProbe, load_probe, save_probe
    from linprobe_train.solver.fit import FitSettings
    from linprobe_train.solver.lbfgs import FitReport, Tolerance
    from linprobe_train.solver.probe import Probe

_HOMES = {
    "linprobe.errors": ("LinprobeError",),
    "linprobe_extract.encoders.encoder": ("Encoder",),
    "linprobe_extract.run.run": ("extract_features",),
    "linprobe_store.format.spec": ("DatasetSpec", "EncoderSpec", "FeatureBlock"),
    "linprobe_store.handles.dataset": ("StoredDataset",),
    "linprobe_store.handles.encoder": ("StoredEncoder",),
    "linprobe_store.handles.split": ("Split",),
    "linprobe_store.handles.store": ("FeatureStore",),
    "linprobe_train.api": ("fit_probe", "sweep"),
    "linprobe_train.estimator": ("LinearProbe",),
    "linprobe_train.protocol.protocols": ("PROTOCOLS", "Protocol"),
    "linprobe_train.protocol.search": ("Search",),
    "linprobe_train.results.probe_file": ("SavedProbe", "load_probe", "save_probe"),
    "linprobe_train.solver.fit": ("FitSettings",),
    "linprobe_train.solver.lbfgs": ("FitReport", "Tolerance"),
    "linprobe_train.solver.probe": ("Probe",),
}

__all__ = [
    "PROTOCOLS",
    "DatasetSpec",
    "Encoder",
    "EncoderSpec",
    "FeatureBlock",
    "FeatureStore",
    "FitReport",
    "FitSettings",
    "LinearProbe",
    "LinprobeError",
    "Probe",
    "Protocol",
    "SavedProbe",
    "Search",
    "Split",
    "StoredDataset",
    "StoredEncoder",
    "Tolerance",
    "extract_features",
    "fit_probe",
    "load_probe",
    "save_probe",
    "sweep",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'linprobe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
