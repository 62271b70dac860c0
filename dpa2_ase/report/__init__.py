"""One self-contained HTML page per run: numbers, pictures, structures, and how they came about."""

from .document import Report
from .tables import Number

__all__ = ["Number", "Report"]
