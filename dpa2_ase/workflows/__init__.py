"""Jobs on any ASE calculator; every one is exported here under its name.

>>> from dpa2_ase.workflows import relax, phonons
"""

from .analysis import RadialDistribution, density_profile, mean_with_error, rdf
from .batch import evaluate
from .comparison import compare
from .convergence import convergence
from .defects import defects, voids
from .dimer import dimer
from .dispersion import with_dispersion
from .elastic import elastic
from .eos import eos
from .errors import errors
from .gruneisen import gruneisen
from .lockstep import in_lockstep
from .md import md
from .md_watch import ExplosionError, Limits
from .motion import motion_of, msd, vibrational_spectrum
from .neb import neb
from .phonons import phonons
from .quasi_harmonic import quasi_harmonic
from .relax import relax
from .relax_many import relax_many
from .results import Result, provenance_of
from .surface import surface
from .vacancy import vacancy
from .vibrations import vibrations

__all__ = [
    "ExplosionError",
    "Limits",
    "RadialDistribution",
    "Result",
    "compare",
    "convergence",
    "defects",
    "density_profile",
    "dimer",
    "elastic",
    "eos",
    "errors",
    "evaluate",
    "gruneisen",
    "in_lockstep",
    "md",
    "mean_with_error",
    "motion_of",
    "msd",
    "neb",
    "phonons",
    "provenance_of",
    "quasi_harmonic",
    "rdf",
    "relax",
    "relax_many",
    "surface",
    "vacancy",
    "vibrational_spectrum",
    "vibrations",
    "voids",
    "with_dispersion",
]
