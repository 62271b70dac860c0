"""How far the numbers of one model can be trusted: calibration of its last layer, and whether that came out right."""

from ..interfaces.rigidity import Rigidity, read_rigidity, uncertainty_file
from .calibration import Calibration, calibrate
from .quality import Quality, check_uncertainty, quality

__all__ = [
    "Calibration",
    "Quality",
    "Rigidity",
    "calibrate",
    "check_uncertainty",
    "quality",
    "read_rigidity",
    "uncertainty_file",
]
