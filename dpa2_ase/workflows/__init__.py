"""Jobs on any ASE calculator."""
