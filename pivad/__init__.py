"""Pi-VAD: weakly-supervised video anomaly detection with a poly-modal inductor. Made from the notebooks in nbs/."""
from importlib.metadata import version as _version

__version__ = _version("pivad")
