"""What to show of simulations and of what is read from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from ase.io import iread

from ..workflows.analysis import RDF, Profile
from ..workflows.md_files import COLUMNS, TRAJECTORY
from ..workflows.md_result import Simulation
from ..workflows.motion import Diffusion, VibrationalSpectrum
from ..workflows.results import Result
from ..workflows.spectra import Infrared, Raman
from .summaries import MAX_FRAMES, Quantity, Row, Summary, Table, View, picture_of
from .tables import Number

LATTICE = {"volume": "volume", "density": "density"} | dict(zip("abc", "abc", strict=True))
LATTICE |= {"alpha": "α", "beta": "β", "gamma": "γ"}
UNITS = {"A": "Å", "A3": "Å³", "g_per_cm3": "g/cm³", "degree": "°"}


def md(result: Simulation) -> Summary:
    """Averages with errors, and frames."""
    averages: list[Row] = []
    for name, unit in COLUMNS.items():
        if name in ("step", "time") or np.isnan(result.thermo[name]).all():
            continue
        if name in LATTICE and not result.ensemble.has_barostat:
            continue
        mean, error = result.average(name)
        label = LATTICE.get(name, name.replace("_", " "))
        averages.append((label, Number(mean, None, error), UNITS.get(unit, unit)))
    time = result.thermo["time"]
    temperature, spread = result.average("temperature")
    headline = (
        Quantity("Simulated time", Number(float(time[-1]) / 1000, 3), "ps"),
        Quantity("Mean temperature", Number(temperature, None, spread), "K"),
        Quantity("Drift of the conserved energy", Number(1000 * result.drift(), 3), "meV/atom/ps"),
        Quantity("Steps", Number(result.steps)),
    )
    return Summary(
        "Molecular dynamics",
        headline,
        pictures=picture_of(result, "Against time"),
        tables=(Table(("quantity", "mean", "unit"), averages, "Averages"),),
        structures=(_trajectory(result),),
        notes=(
            f"Ensemble {result.ensemble.name}, time step {result.ensemble.timestep:g} fs. Averages leave out the first "
            "fifth; errors are those of correlated data.",
        ),
    )


def _trajectory(result: Simulation) -> View:
    """Frames to choose from; of a long trajectory in a file, only those that can be shown are read."""
    every = int((result.provenance.get("settings") or {}).get("frame_interval") or 0)
    total = result.steps // every + 1 if every else 0
    if result.folder is not None and total > MAX_FRAMES:
        frames = list(iread(result.folder / TRAJECTORY, index=f"::{math.ceil(total / MAX_FRAMES)}"))
    else:
        frames = result.frames() or [result.atoms]
        total = len(frames)
    timed = len(frames) > 1 and all("time" in atoms.info for atoms in frames)
    labels = [f"{atoms.info['time'] / 1000:.3f} ps" for atoms in frames] if timed else []
    return View("Trajectory", frames, labels, total=total)


def rdf(result: RDF) -> Summary:
    """Position and height of the first peak."""
    top = int(result.g.argmax())
    pair = "all atoms" if result.pair is None else "–".join(result.pair)
    headline = (
        Quantity("Highest peak at", Number(float(result.r[top]), 3), "Å"),
        Quantity("Its height", Number(float(result.g[top]), 2)),
    )
    rows = [
        (Number(float(r), 3), Number(float(g), 4), Number(float(n), 3))
        for r, g, n in zip(result.r, result.g, result.coordination, strict=True)
        if n > 0
    ]
    return Summary(
        f"Radial distribution, {pair}",
        headline,
        pictures=picture_of(result, f"Radial distribution function, {pair}"),
        tables=(Table(("distance (Å)", "g(r)", "neighbors up to there"), rows),),
        notes=(f"Averaged over {result.frames} frames.",),
    )


def density(result: Profile) -> Summary:
    """The profile with errors."""
    rows = [
        (Number(float(z), 3), Number(float(value), None, float(error)) if error > 0 else Number(float(value), 4))
        for z, value, error in zip(result.z, result.density, result.error, strict=True)
    ]
    title = f"Density along {'abc'[result.axis]}"
    return Summary(title, pictures=picture_of(result, title), tables=(Table(("height (Å)", "density (g/cm³)"), rows),))


def diffusion(result: Diffusion) -> Summary:
    """Coefficients by element."""
    rows = [(symbol, Number(1e5 * value, None, 1e5 * error)) for symbol, (value, error) in result.coefficient.items()]
    return Summary(
        "Diffusion",
        tuple(Quantity(f"D of {symbol}", number, "10⁻⁵ cm²/s") for symbol, number in rows[:4]),
        pictures=picture_of(result, "Mean squared displacement"),
        tables=(Table(("element", "D (10⁻⁵ cm²/s)"), list(rows)),),
        notes=(f"Lines fitted from {result.fit[0]:.3g} to {result.fit[1]:.3g} ps.",),
    )


def vdos(result: VibrationalSpectrum) -> Summary:
    """Mean and highest frequency."""
    top = float(result.frequency[result.dos.argmax()])
    return Summary(
        "Vibrational density of states",
        (Quantity("Highest peak at", Number(top, 2), "THz"),),
        pictures=picture_of(result, "Vibrational density of states"),
        notes=(f"From velocities over lags up to {result.time[-1]:.3g} ps.",),
    )


def infrared(result: Infrared) -> Summary:
    """Where it absorbs."""
    return _spectrum("Infrared spectrum", result, result.frequency, result.intensity)


def raman(result: Raman) -> Summary:
    """Where it scatters unpolarized light."""
    return _spectrum("Raman spectrum", result, result.frequency, result.unpolarized)


def _spectrum(title: str, result: Result, frequency: np.ndarray, intensity: np.ndarray) -> Summary:
    """Local maxima of a spectrum above a twentieth of the highest."""
    middle = intensity[1:-1]
    peaks = 1 + np.flatnonzero((middle > intensity[:-2]) & (middle >= intensity[2:]) & (20 * middle > middle.max()))
    rows: list[Row] = [
        (Number(float(frequency[k]), 1), Number(float(intensity[k] / intensity[peaks].max()), 3)) for k in peaks
    ]
    table = Table(("wavenumber (1/cm)", "height, highest = 1"), rows, "Peaks")
    return Summary(title, pictures=picture_of(result, title), tables=(table,))


KNOWN: dict[str, tuple[type[Result], Callable[[Any], Summary]]] = {
    "md": (Simulation, md),
    "rdf": (RDF, rdf),
    "density": (Profile, density),
    "diffusion": (Diffusion, diffusion),
    "vdos": (VibrationalSpectrum, vdos),
    "infrared": (Infrared, infrared),
    "raman": (Raman, raman),
}
