"""The probe: CPU-only training and scoring of linear classifiers on stored features.

Names are loaded when they are first used, so that the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linprobe_train.api import fit_probe, sweep
    from linprobe_train.descent import FitReport, Tolerance
    from linprobe_train.errors import DataError, OptionError, ProbeError, ResultError
    from linprobe_train.estimator import LinearProbe
    from linprobe_train.probe import Probe
    from linprobe_train.probe_file import save_probe
    from linprobe_train.protocols import PROTOCOLS, Protocol
    from linprobe_train.saved_probe import SavedProbe, load_probe
    from linprobe_train.search import Search
    from linprobe_train.training import FitSettings

__all__ = [
    "PROTOCOLS",
    "DataError",
    "FitReport",
    "FitSettings",
    "LinearProbe",
    "OptionError",
    "Probe",
    "ProbeError",
    "Protocol",
    "ResultError",
    "SavedProbe",
    "Search",
    "Tolerance",
    "fit_probe",
    "load_probe",
    "save_probe",
    "sweep",
]

_HOMES = {
    "api": ("fit_probe", "sweep"),
    "descent": ("FitReport", "Tolerance"),
    "errors": ("DataError", "OptionError", "ProbeError", "ResultError"),
    "estimator": ("LinearProbe",),
    "probe": ("Probe",),
    "probe_file": ("save_probe",),
    "protocols": ("PROTOCOLS", "Protocol"),
    "saved_probe": ("SavedProbe", "load_probe"),
    "search": ("Search",),
    "training": ("FitSettings",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"linprobe_train.{home}"), name)
    raise AttributeError(f"module 'linprobe_train' has no attribute {name!r}")
