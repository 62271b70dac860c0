"""``python -m dpa2_ase.cli``."""

from . import main

main()
