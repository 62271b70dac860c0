"""A map with its structures beside it as one HTML file that needs no network.

The viewer is chemiscope (https://chemiscope.org, BSD-3-Clause); its script is taken from the installed package and
written into the page.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from ..checkpoint.writing import replacing
from .elements import GROUPS, groups_of, period
from .tables import columns

if TYPE_CHECKING:
    from .atom_map import AtomMap

SCRIPT = Path("sphinx") / "static" / "chemiscope.min.js"
ENVIRONMENT = 4.0  # Å around an atom that are highlighted

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body {{ margin: 0; font-family: system-ui, sans-serif; color: #222; background: #fff; }}
header {{ padding: 0.6rem 1rem 0; }}
#meta {{ display: none; }}
h1 {{ font-size: 1.1rem; margin: 0; }}
header p {{ margin: 0.2rem 0 0; font-size: 0.85rem; color: #555; }}
#warning {{ display: none; margin: 0.5rem 1rem; padding: 0.5rem; border: 1px solid #c80; background: #fff6e0; }}
#columns {{ display: flex; flex-wrap: wrap; height: calc(100vh - 5.5rem); min-height: 520px; }}
#columns > div {{ flex: 1 1 420px; display: flex; flex-direction: column; min-width: 0; padding: 0.5rem; }}
#map, #structure {{ flex: 1; min-height: 380px; position: relative; }}
</style>
</head>
<body>
<header><h1>{title}</h1><p>{subtitle}</p></header>
<div id="warning" role="alert"></div>
<main id="columns">
<div><div id="meta"></div><div id="map"></div></div>
<div><div id="structure"></div><div id="info"></div></div>
</main>
<script>{script}</script>
<script type="application/json" id="data">{data}</script>
<script>
const place = {{ meta: "meta", map: "map", structure: "structure", info: "info" }};
const dataset = JSON.parse(document.getElementById("data").textContent, (_, v) => (v === null ? NaN : v));
const warnings = new Chemiscope.Warnings();
function tell(message) {{
  const box = document.getElementById("warning");
  box.textContent = message;
  box.style.display = "block";
}}
// elements, say: they are shown, and colored by other properties
warnings.addHandler((message) => /not be interpreted as categor/.test(message) || tell(message));
window.addEventListener("load", () => setTimeout(() => {{
  Chemiscope.DefaultVisualizer.load(place, dataset, warnings)
    .then((viewer) => {{ window.viewer = viewer; document.body.dataset.ready = "yes"; }})
    .catch((error) => tell("The map cannot be shown: " + error));
}}));
</script>
</body>
</html>
"""


def write_html(
    path: str | Path,
    atom_map: AtomMap,
    structures: Mapping[int, Atoms],
    *,
    by: str = "element",
    title: str = "Atomic environments",
) -> Path:
    """Write a page with the map, colored by a label, and the structure of the point that is clicked.

    Parameters
    ----------
    path
        The file.
    atom_map
        The points.
    structures
        Those the points belong to, by number; see `sources.pick`.
    by
        Label to begin with; the reader can choose any other. Text is colored in alphabetical order.
    title
        Heading.

    Raises
    ------
    ModuleNotFoundError
        Without chemiscope.
    """
    data = dataset(atom_map, structures, by=by, title=title)
    text = PAGE.format(
        title=html.escape(title),
        subtitle=html.escape(_subtitle(atom_map)),
        script=viewer().replace("</script", r"<\/script"),
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("</", r"<\/"),
    )
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def dataset(atom_map: AtomMap, structures: Mapping[int, Atoms], *, by: str, title: str) -> dict[str, Any]:
    """What chemiscope shows, in its JSON format (https://chemiscope.org/docs/input.html); nan is null."""
    shown = np.unique(atom_map.structures)
    if atom_map.per == "atom":  # chemiscope takes environments structure by structure
        order = np.lexsort((atom_map.atoms, atom_map.structures))
    else:
        order = np.argsort(atom_map.structures, kind="stable")
    target, properties = atom_map.per, {}
    for name, values in _properties(atom_map).items():
        properties[name] = {"target": target, "values": _listed(values[order])}
    data: dict[str, Any] = {
        "meta": {"name": title, "description": _subtitle(atom_map)},
        "structures": [_structure(structures[int(number)]) for number in shown],
        "properties": properties,
        "settings": _settings(atom_map, by, periodic=any(atoms.pbc.any() for atoms in structures.values())),
    }
    if target == "atom":
        owner = np.searchsorted(shown, atom_map.structures[order])
        data["environments"] = [
            {"structure": int(s), "center": int(a), "cutoff": ENVIRONMENT}
            for s, a in zip(owner, atom_map.atoms[order], strict=True)
        ]
    return data


def _subtitle(atom_map: AtomMap) -> str:
    env = atom_map.environments
    what = "atoms" if atom_map.per == "atom" else "structures (mean over their atoms)"
    total = len(env) if atom_map.per == "atom" else env.n_structures
    shown = f"{len(atom_map)} of {total} {what}" if len(atom_map) < total else f"{total} {what}"
    note = "" if atom_map.projection.method == "pca" else "; distances between clusters mean nothing"
    return f"{shown}, layer {env.layer}, {' and '.join(atom_map.axes)}{note}"


def _properties(atom_map: AtomMap) -> dict[str, np.ndarray]:
    """Labels as chemiscope can use them: text for reading, numbers for coloring."""
    found: dict[str, np.ndarray] = {}
    for name, values in columns(atom_map).items():
        shown = {"x": atom_map.axes[0], "y": atom_map.axes[1]}.get(name, name.replace("_", " "))
        found[shown] = values
        if values.dtype.kind == "U" and name not in ("element", "group"):
            found[f"{shown} (number)"] = np.unique(values, return_inverse=True)[1]
    if atom_map.numbers is not None:
        found["atomic number"] = atom_map.numbers
        column = np.array([GROUPS.index(g) + 1 for g in groups_of(atom_map.numbers)])
        found["group.period"] = column + np.array([period(int(z)) for z in atom_map.numbers]) / 10
    return found


def _settings(atom_map: AtomMap, by: str, *, periodic: bool) -> dict[str, Any]:
    names = _properties(atom_map)
    by = by.replace("_", " ")
    color = {"element": "group.period", "group": "group.period"}.get(by, by)
    color = f"{by} (number)" if f"{by} (number)" in names else color
    shown: dict[str, Any] = {"property": color if color in names else "", "palette": "viridis"}
    if color == "group.period":  # a circle of colors, which should not close
        shown |= {"palette": "hsv (periodic)", "min": 1.0, "max": 1.15 * len(GROUPS)}
    return {
        "target": atom_map.per,
        "map": {
            "x": {"property": atom_map.axes[0]},
            "y": {"property": atom_map.axes[1]},
            "color": shown,
            "size": {"factor": 35},
            "markerOutline": False,
        },
        "structure": [{"unitCell": periodic, "environments": {"activated": True, "cutoff": ENVIRONMENT}}],
    }


def _structure(atoms: Atoms) -> dict[str, Any]:
    x, y, z = np.round(atoms.positions.T, 4).tolist()
    found: dict[str, Any] = {"size": len(atoms), "names": atoms.get_chemical_symbols(), "x": x, "y": y, "z": z}
    if atoms.pbc.any() and abs(np.linalg.det(atoms.cell.array)) > 1e-6:
        found["cell"] = np.round(atoms.cell.array, 4).ravel().tolist()
    return found


def _listed(values: np.ndarray) -> list[Any]:
    if values.dtype.kind == "U":
        return [str(v) for v in values]
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.astype(float)]


def viewer() -> str:
    """The script of chemiscope; raises ModuleNotFoundError, which says what to install, where it is missing."""
    spec = find_spec("chemiscope")  # not imported: it would bring its notebook machinery along
    places = [] if spec is None else [Path(place) / SCRIPT for place in spec.submodule_search_locations or []]
    for place in places:
        if place.is_file():
            return place.read_text(encoding="utf-8")
    if spec is None:
        raise ModuleNotFoundError('interactive maps need chemiscope; install it with: pip install "dpa2-ase[maps]"')
    raise ModuleNotFoundError(f"the installed chemiscope has no {SCRIPT}; run: pip install -U chemiscope")
