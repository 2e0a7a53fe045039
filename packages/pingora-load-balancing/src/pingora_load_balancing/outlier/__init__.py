"""Outlier detection: backends are taken out because of what requests meet there."""

from pingora_load_balancing.outlier.detector import EjectionChanged, OutlierDetector
from pingora_load_balancing.outlier.settings import OutlierSettings

__all__ = ["EjectionChanged", "OutlierDetector", "OutlierSettings"]
