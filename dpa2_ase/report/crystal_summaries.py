"""What to show of equations of state, elastic constants and lattice dynamics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..workflows.elastic import Elastic
from ..workflows.eos import EOS
from ..workflows.gruneisen import Gruneisen
from ..workflows.phonon_results import Bands, DensityOfStates, ImaginaryModes, Thermal
from ..workflows.phonons import Phonons
from ..workflows.quasi_harmonic import QuasiHarmonic
from ..workflows.results import Result
from .summaries import Quantity, Row, Summary, Table, View, picture_of
from .tables import Number, thinned

VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")
MAX_BRANCHES = 12  # more columns than that nobody reads


def eos(result: EOS) -> Summary:
    """Volume, energy and bulk modulus of every form."""
    n = len(result.atoms)
    forms: list[Row] = [
        (
            name, Number(fit.v0 / n, 4), Number(fit.e0 / n, 5), Number(fit.b0, 2), Number(fit.b0_prime, 3),
            Number(1000 * fit.residual / n, 4),
        )
        for name, fit in result.fits.items()
    ]  # fmt: skip
    points = [
        (Number(float(volume) / n, 4), Number(float(energy) / n, 6))
        for volume, energy in zip(result.volumes, result.energies, strict=True)
    ]
    columns = ("form", "V₀ (Å³/atom)", "E₀ (eV/atom)", "B₀ (GPa)", "B₀′", "residual (meV/atom)")
    a, b, c = result.atoms.cell.lengths()
    headline = (
        Quantity("Volume V₀", Number(result.fit.v0 / n, 3), "Å³/atom"),
        Quantity("Bulk modulus B₀", Number(result.fit.b0, 1), "GPa"),
        Quantity("B₀′", Number(result.fit.b0_prime, 2)),
        Quantity("Energy E₀", Number(result.fit.e0 / n, 4), "eV/atom"),
    )
    return Summary(
        "Equation of state",
        headline,
        pictures=picture_of(result, "Energy against volume"),
        tables=(
            Table(columns, forms, "All forms"),
            Table(("volume (Å³/atom)", "energy (eV/atom)"), points, "Calculated points"),
        ),
        structures=(View("Structure at V₀", [result.atoms]),),
        notes=(f"Form {result.form}; at V₀ the lattice vectors are {a:.4f}, {b:.4f} and {c:.4f} Å long.",),
    )


def elastic(result: Elastic) -> Summary:
    """Tensor with errors, moduli, stability."""
    m = result.moduli
    scatter = float(np.nanmax(result.error, initial=0.0))
    error = result.error if scatter >= 0.005 else np.full((6, 6), np.nan)  # would be printed as zero
    rows: list[Row] = [
        (VOIGT[i], *(Number(float(result.tensor[i, j]), 2, float(error[i, j])) for j in range(6))) for i in range(6)
    ]
    moduli: list[Row] = [
        ("bulk modulus K", "GPa", Number(m.bulk_voigt, 2), Number(m.bulk_reuss, 2), Number(m.bulk_hill, 2)),
        ("shear modulus G", "GPa", Number(m.shear_voigt, 2), Number(m.shear_reuss, 2), Number(m.shear_hill, 2)),
    ]
    derived: list[Row] = [
        ("Young's modulus", Number(m.young, 2), "GPa"),
        ("Poisson's ratio", Number(m.poisson, 4), ""),
        ("universal anisotropy", Number(m.anisotropy, 4), ""),
        ("longitudinal velocity of sound", Number(m.longitudinal, 1), "m/s"),
        ("transverse velocity of sound", Number(m.transverse, 1), "m/s"),
        ("Debye temperature", Number(m.debye_temperature, 1), "K"),
        ("smallest eigenvalue of the tensor", Number(float(result.eigenvalues.min()), 2), "GPa"),
        ("pressure of the strained structure", Number(result.pressure, 4), "GPa"),
    ]
    headline = (
        Quantity("Bulk modulus", Number(m.bulk_hill, 1), "GPa"),
        Quantity("Shear modulus", Number(m.shear_hill, 1), "GPa"),
        Quantity("Young's modulus", Number(m.young, 1), "GPa"),
        Quantity("Debye temperature", Number(m.debye_temperature, 0), "K"),
    )
    return Summary(
        "Elastic constants",
        headline,
        warnings=() if result.stable else ("Mechanically unstable: the tensor has a negative eigenvalue.",),
        pictures=picture_of(result, "Elastic constants"),
        tables=(
            Table(("GPa", *VOIGT), rows, "Elastic tensor"),
            Table(("quantity", "unit", "Voigt", "Reuss", "Hill"), moduli, "Averages for polycrystals"),
            Table(("quantity", "value", "unit"), derived, "Derived from the Hill averages"),
        ),
        structures=(View("Structure that was strained", [result.atoms]),),
        notes=(
            f"{result.independent} independent constants by symmetry, {len(result.strains)} of six strains applied; "
            f"Born's conditions {'hold' if result.stable else 'do not hold'}.",
            f"Largest error of a constant, by the scatter around the fits: {scatter:.2g} GPa.",
        ),
    )


def phonons(result: Phonons) -> Summary:
    """Bands, density of states and thermal properties."""
    thermal, unstable = result.thermal(), result.imaginary()
    room = result.thermal([300.0])
    bands = result._bands  # computed once, for the picture too
    headline = (
        Quantity("Highest frequency", Number(float(bands.frequencies.max()), 2), "THz"),
        Quantity("Zero-point energy", Number(1000 * float(thermal.free_energy[0]) / thermal.n_atoms, 2), "meV/atom"),
        Quantity("Entropy at 300 K", Number(1e6 * float(room.entropy[0]) / room.n_atoms, 1), "µeV/K/atom"),
        Quantity("Lowest frequency", Number(unstable.lowest, 3), "THz"),
    )
    origin = {"derivatives": "products with second derivatives", "displacements": "displaced supercells"}
    repeats = "; ".join(" ".join(map(str, row)) for row in result.supercell.tolist())
    return Summary(
        "Phonons",
        headline,
        warnings=() if unstable.is_stable else (_sentence(str(unstable)),),
        pictures=(
            *picture_of(result, "Bands and density of states"),
            ("Heat capacity and entropy", thermal.plot),
        ),
        tables=(*_special_points(bands), _thermal_table(thermal)),
        structures=(View("Primitive cell", [result.primitive]),),
        notes=(
            f"Force constants by {result.n_displacements} {origin.get(result.source, result.source)} "
            f"of a supercell of {round(np.linalg.det(result.supercell))} cells (rows {repeats}).",
            "Imaginary frequencies are negative.",
        ),
    )


def _special_points(bands: Bands) -> tuple[Table, ...]:
    count = bands.frequencies.shape[1]
    if count > MAX_BRANCHES:
        return ()
    rows: dict[str, Row] = {}
    for place, label in zip(bands.ticks, bands.labels, strict=True):
        index = int(np.abs(bands.distances - place).argmin())
        if not set(label) & set("|,"):  # where the path jumps, two points share a place
            q = ", ".join(f"{x:.3g}" for x in bands.qpoints[index].round(6) + 0.0)
            rows.setdefault(label, (_plain(label), q, *(Number(float(x), 3) for x in bands.frequencies[index])))
    columns = ("point", "q", *(f"branch {k + 1} (THz)" for k in range(count)))
    return (Table(columns, list(rows.values()), "Frequencies at special points"),) if rows else ()


def _plain(label: str) -> str:
    """A label without what matplotlib's formulas need."""
    return label.replace("$", "").replace(r"\Gamma", "Γ").replace(r"\mathrm", "").replace("{", "").replace("}", "")


def _thermal_table(result: Thermal) -> Table:
    n = result.n_atoms
    rows: list[Row] = [
        (
            Number(float(result.temperatures[k]), 0), Number(1000 * float(result.free_energy[k]) / n, 3),
            Number(1e6 * float(result.entropy[k]) / n, 3), Number(1e6 * float(result.heat_capacity[k]) / n, 3),
        )
        for k in thinned(len(result.temperatures), 11)
    ]  # fmt: skip
    columns = ("temperature (K)", "free energy (meV/atom)", "entropy (µeV/K/atom)", "heat capacity (µeV/K/atom)")
    return Table(columns, rows, "Thermal properties")


def bands(result: Bands) -> Summary:
    """Frequencies at special points."""
    lowest, highest = float(result.frequencies.min()), float(result.frequencies.max())
    headline = (
        Quantity("Lowest frequency", Number(lowest, 3), "THz"),
        Quantity("Highest frequency", Number(highest, 3), "THz"),
    )
    return Summary("Bands", headline, pictures=picture_of(result, "Bands"), tables=_special_points(result))


def dos(result: DensityOfStates) -> Summary:
    """The curve."""
    integral = float(np.trapezoid(result.total, result.frequencies))
    return Summary(
        "Density of states",
        (Quantity("Integral", Number(integral, 3), "modes per cell"),),
        pictures=picture_of(result, "Density of states"),
    )


def thermal(result: Thermal) -> Summary:
    """Properties at chosen temperatures."""
    return Summary(
        "Thermal properties", pictures=picture_of(result, "Thermal properties"), tables=(_thermal_table(result),)
    )


def imaginary(result: ImaginaryModes) -> Summary:
    """Whether there are any, and where."""
    rows: list[Row] = [
        (", ".join(f"{x:.3g}" for x in q), Number(float(frequency), 3))
        for q, frequency in zip(result.exact_qpoints, result.exact_frequencies, strict=True)
    ]
    headline = (
        Quantity("Lowest frequency", Number(result.lowest, 3), "THz"),
        Quantity("Imaginary modes of the mesh", Number(100 * result.fraction, 2), "%"),
    )
    columns = ("q-point that fits into the supercell", "lowest frequency (THz)")
    tables = (Table(columns, rows),) if rows else ()
    return Summary("Stability", headline, () if result.is_stable else (_sentence(str(result)),), tables=tables)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def gruneisen(result: Gruneisen) -> Summary:
    """Mean parameters at some temperatures."""
    temperatures = [50.0, 100.0, 200.0, 300.0, 500.0, 1000.0]
    means = result.average(temperatures)
    rows: list[Row] = [(Number(t, 0), Number(float(v), 4)) for t, v in zip(temperatures, means, strict=True)]
    finite = result.parameters[np.isfinite(result.parameters)]
    headline = (
        Quantity("Mean at 300 K", Number(float(means[3]), 3)),
        Quantity("Smallest of a mode", Number(float(finite.min(initial=np.inf)), 3)),
        Quantity("Largest of a mode", Number(float(finite.max(initial=-np.inf)), 3)),
    )
    return Summary(
        "Grüneisen parameters",
        headline,
        pictures=picture_of(result, "Parameters of all modes"),
        tables=(Table(("temperature (K)", "mean Grüneisen parameter"), rows),),
        notes=("Means are weighted by the heat capacities of the modes.",),
    )


def quasi_harmonic(result: QuasiHarmonic) -> Summary:
    """Properties against temperature."""
    columns = (
        "temperature (K)", "volume (Å³)", "Gibbs energy (eV)", "bulk modulus (GPa)", "expansion (10⁻⁶/K)",
        "Cₚ (meV/K)", "γ",
    )  # fmt: skip
    rows: list[Row] = [
        (
            Number(float(result.temperatures[k]), 0), Number(float(result.volumes[k]), 4),
            Number(float(result.gibbs[k]), 5), Number(float(result.bulk_moduli[k]), 2),
            Number(1e6 * float(result.thermal_expansion[k]), 3), Number(1000 * float(result.heat_capacities[k]), 4),
            Number(float(result.gruneisen[k]), 3),
        )
        for k in thinned(len(result.temperatures), 16)
    ]  # fmt: skip
    room = int(np.abs(result.temperatures - 300).argmin())
    at = f"at {result.temperatures[room]:g} K"
    headline = (
        Quantity(f"Volume {at}", Number(float(result.volumes[room]), 3), "Å³"),
        Quantity(f"Expansion {at}", Number(1e6 * float(result.thermal_expansion[room]), 1), "10⁻⁶/K"),
        Quantity(f"Bulk modulus {at}", Number(float(result.bulk_moduli[room]), 1), "GPa"),
        Quantity("Static volume", Number(result.static_volume, 3), "Å³"),
    )
    lowest = float(result.lowest_frequencies.min())
    return Summary(
        "Quasi-harmonic approximation",
        headline,
        warnings=(f"Imaginary modes at some volumes, down to {-lowest:.2f}i THz.",) if lowest < -0.05 else (),
        pictures=(*picture_of(result, "Thermal expansion"), ("Free energies", result.plot_free_energies)),
        tables=(Table(columns, rows, "Against temperature"),),
        notes=(f"Per primitive cell, at {result.pressure:g} GPa; expansion is that of the volume, γ is Grüneisen's.",),
    )


KNOWN: dict[str, tuple[type[Result], Callable[[Any], Summary]]] = {
    "eos": (EOS, eos),
    "elastic": (Elastic, elastic),
    "phonons": (Phonons, phonons),
    "bands": (Bands, bands),
    "dos": (DensityOfStates, dos),
    "thermal": (Thermal, thermal),
    "imaginary": (ImaginaryModes, imaginary),
    "gruneisen": (Gruneisen, gruneisen),
    "quasi-harmonic": (QuasiHarmonic, quasi_harmonic),
}
