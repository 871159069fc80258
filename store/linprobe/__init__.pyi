"""The public names of linprobe, and where each is: ``__init__.py`` reads it."""

from linprobe.errors import LinprobeError as LinprobeError
from linprobe_extract.api import extract_features as extract_features
from linprobe_extract.encoder import Encoder as Encoder
from linprobe_store.format.spec import DatasetSpec as DatasetSpec
from linprobe_store.format.spec import EncoderSpec as EncoderSpec
from linprobe_store.format.spec import FeatureBlock as FeatureBlock
from linprobe_store.handles.dataset import StoredDataset as StoredDataset
from linprobe_store.handles.encoder import StoredEncoder as StoredEncoder
from linprobe_store.handles.split import Split as Split
from linprobe_store.handles.store import FeatureStore as FeatureStore
from linprobe_train.estimator import LinearProbe as LinearProbe
from linprobe_train.estimator_cv import LinearProbeCV as LinearProbeCV
from linprobe_train.fitted import FittedProbe as FittedProbe
from linprobe_train.fitted import fit_probe as fit_probe
from linprobe_train.fitted import sweep as sweep
from linprobe_train.protocol.protocols import PROTOCOLS as PROTOCOLS
from linprobe_train.protocol.protocols import Protocol as Protocol
from linprobe_train.protocol.search import Search as Search
from linprobe_train.results.probe_file import save_probe as save_probe
from linprobe_train.results.saved_probe import SavedProbe as SavedProbe
from linprobe_train.results.saved_probe import load_probe as load_probe
from linprobe_train.solver.fit import FitSettings as FitSettings
from linprobe_train.solver.lbfgs import FitReport as FitReport
from linprobe_train.solver.lbfgs import Tolerance as Tolerance
from linprobe_train.solver.probe import Probe as Probe

__version__: str
