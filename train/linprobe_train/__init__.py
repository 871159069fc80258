"""The probe: CPU-only training and scoring of linear classifiers on stored features.

Names are loaded when they are first used, so that the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linprobe.errors import DataError, OptionError, ProbeError, ResultError
    from linprobe_train.api import fit_probe, sweep
    from linprobe_train.estimator import LinearProbe
    from linprobe_train.protocol.protocols import PROTOCOLS, Protocol
    from linprobe_train.protocol.search import Search
    from linprobe_train.results.probe_file import SavedProbe, load_probe, save_probe
    from linprobe_train.solver.fit import FitSettings
    from linprobe_train.solver.lbfgs import FitReport, Tolerance
    from linprobe_train.solver.probe import Probe

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
    "solver.lbfgs": ("FitReport", "Tolerance"),
    "estimator": ("LinearProbe",),
    "solver.probe": ("Probe",),
    "protocol.protocols": ("PROTOCOLS", "Protocol"),
    "results.probe_file": ("SavedProbe", "load_probe", "save_probe"),
    "protocol.search": ("Search",),
    "solver.fit": ("FitSettings",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"linprobe_train.{home}"), name)
    if name in ("DataError", "OptionError", "ProbeError", "ResultError"):
        return getattr(import_module("linprobe.errors"), name)
    raise AttributeError(f"module 'linprobe_train' has no attribute {name!r}")
