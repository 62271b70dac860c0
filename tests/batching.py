"""A calculator that takes many structures at once and counts how many."""

from __future__ import annotations

from ase.calculators.emt import EMT


class BatchEMT(EMT):
    """EMT with ``evaluate``; `sizes` has the number of structures of every call."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def evaluate(self, structures, properties):
        self.sizes.append(len(structures))
        results = []
        for atoms in structures:
            copied = atoms.copy()
            copied.set_constraint()
            copied.calc = EMT()
            copied.get_forces()
            results.append({name: copied.calc.results[name] for name in properties if name in copied.calc.results})
        return results
