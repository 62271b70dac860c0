"""Labelled structures in and out: DeePMD systems and everything ASE reads, as `Frame`."""
