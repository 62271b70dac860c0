"""The model that comes with the package."""

from __future__ import annotations

from pathlib import Path

MODEL_FILE = "dpa2-multitask.pt"


def bundled_model() -> Path:
    """Path of the bundled model, inside the installed package or in the ``data/`` folder of a checkout.

    Raises
    ------
    FileNotFoundError
        When the file was left out of the installation.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / MODEL_FILE).is_file():
            return folder / MODEL_FILE
    raise FileNotFoundError(f"the bundled model {MODEL_FILE} is not installed beside {package}; install dpa2-ase anew")
