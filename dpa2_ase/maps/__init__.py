"""See what a model learned: representations of atoms, maps of them, and what to label next.

`describe` streams structures into `Environments`, `make_map` lays these out in two dimensions, `pictures`, `html` and
`tables` write the result; `analysis` and `clusters` say in numbers what the representation knows, and `selection` and
`duplicates` choose structures.
"""

from .atom_map import AtomMap, make_map
from .describing import describe
from .labels import column
from .layers import Layer
from .projection import Projection, project
from .sources import DataSets
from .store import Environments

__all__ = ["AtomMap", "DataSets", "Environments", "Layer", "Projection", "column", "describe", "make_map", "project"]
