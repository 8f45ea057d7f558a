"""jetfm: jet foundation models, from simulated jets to the papers' figures."""

__version__ = "0.1.0"
