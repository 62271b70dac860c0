"""What to show of vacancies, other point defects and surfaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..workflows.defects import Defects
from ..workflows.results import Result
from ..workflows.surface import Surface
from ..workflows.vacancy import Vacancies
from .summaries import Quantity, Row, Summary, Table, View, picture_of
from .tables import Number


def vacancy(result: Vacancies) -> Summary:
    """Formation energies."""
    rows: list[Row] = [
        (site.symbol, site.index, site.multiplicity, Number(site.unrelaxed, 4), Number(site.formation_energy, 4))
        for site in result.sites
    ]
    headline = tuple(
        Quantity(f"Vacancy of {site.symbol} ({site.index})", Number(site.formation_energy, 4), "eV")
        for site in result.sites[:4]
    )
    columns = ("element", "atom", "equal sites", "unrelaxed (eV)", "formation energy (eV)")
    return Summary(
        "Vacancies",
        headline,
        pictures=picture_of(result, "Formation energies"),
        tables=(
            Table(columns, rows, "Sites"),
            _reservoirs(result.chemical_potentials),
        ),
        structures=tuple(
            View(f"Without {site.symbol} ({site.index})", [atoms])
            for site, atoms in zip(result.sites, result.defects, strict=True)
        ),
        notes=(f"The crystal was repeated {' × '.join(map(str, result.repeats))} times.",),
    )


def surface(result: Surface) -> Summary:
    """Surface energy against thickness."""
    rows = [
        (int(layers), Number(float(unrelaxed), 4), Number(float(energy), 4))
        for layers, unrelaxed, energy in zip(result.layers, result.unrelaxed, result.energies, strict=True)
    ]
    miller = " ".join(map(str, result.miller))
    headline = (
        Quantity(f"Surface energy ({miller})", Number(result.energy, 4), "J/m²"),
        Quantity("By a line through all slabs", Number(result.fitted, 4), "J/m²"),
        Quantity("Area", Number(result.area, 3), "Å²"),
    )
    return Summary(
        f"Surface ({miller})",
        headline,
        pictures=picture_of(result, "Surface energy against thickness"),
        tables=(Table(("layers", "unrelaxed (J/m²)", "final (J/m²)"), rows, "Slabs"),),
        structures=(View("Thickest slab", [result.slab]),),
    )


def defects(result: Defects) -> Summary:
    """Formation energies of substitutions and interstitials."""
    rows: list[Row] = [
        (
            str(site), ", ".join(f"{x:.3f}" for x in site.place), site.multiplicity,
            Number(site.unrelaxed, 4), Number(site.formation_energy, 4),
        )
        for site in result.sites
    ]  # fmt: skip
    columns = ("defect", "place", "equal places", "unrelaxed (eV)", "formation energy (eV)")
    return Summary(
        "Point defects",
        tuple(Quantity(f"Defect {site}", Number(site.formation_energy, 4), "eV") for site in result.sites[:4]),
        pictures=picture_of(result, "Formation energies"),
        tables=(Table(columns, rows, "Sites"), _reservoirs(result.chemical_potentials)),
        structures=tuple(View(f"With {site}", [atoms]) for site, atoms in zip(result.sites, result.cells, strict=True)),
        notes=(
            f"The crystal was repeated {' × '.join(map(str, result.repeats))} times; "
            "places are in units of its vectors.",
        ),
    )


def _reservoirs(potentials: dict[str, float]) -> Table:
    rows: list[Row] = [(symbol, Number(value, 6)) for symbol, value in potentials.items()]
    return Table(("element", "chemical potential (eV)"), rows, "Reservoirs")


KNOWN: dict[str, tuple[type[Result], Callable[[Any], Summary]]] = {
    "vacancy": (Vacancies, vacancy),
    "defects": (Defects, defects),
    "surface": (Surface, surface),
}
