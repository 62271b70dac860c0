# %% [markdown]
# # Does the model know the periodic table?
#
# A model that was trained on energies and forces has a vector for every atom. The authors of DPA-2 looked at these
# vectors (npj Comput. Mater. 10, 293 (2024), Fig. 4) and found the periodic table: atoms of an element together, groups
# beside each other, hydrogen in two places, Cu, Ag and Au near Li, Zn and Cd near Ca and Sr, and environments apart.
# Here the same questions are put to the bundled model, as numbers and not only as pictures, and every verdict is
# computed. Takes two or three minutes:
#
#     OMP_NUM_THREADS=2 python tutorials/maps_periodic_table.py [--model FILE] [--layer repinit] [--types]
#
# Needs `pip install "dpa2-ase[maps]"`.

# %%
from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.io import read
from setting import FAST, OUTPUT, picture
from surroundings import QUESTIONS, by_structure, company, means_of, same_bonds, surroundings

from dpa2_ase import DPA2Calculator, heads
from dpa2_ase.bundled import bundled_model
from dpa2_ase.maps import Layer, analysis, clusters, column, describe, html, make_map, pictures, project, sources
from dpa2_ase.maps.elements import group, group_color, numbers_of
from dpa2_ase.maps.layers import LAYERS
from dpa2_ase.maps.prototypes import surface
from dpa2_ase.maps.selection import select_farthest, uncovered
from dpa2_ase.workflows import plots

parser = argparse.ArgumentParser()
parser.add_argument("--model", default=str(bundled_model()))
parser.add_argument("--layer", choices=LAYERS, default="final", help="which representation is mapped")
parser.add_argument("--types", action="store_true", help="with the type embedding behind it")
parser.add_argument("--points", type=int, default=400 if FAST else 5000, help="most atoms on the map")
given = parser.parse_args()
started = time.process_time()
layer, names = Layer(given.layer, types=given.types), [*heads(given.model)]
calc = DPA2Calculator(given.model, head=names[0])  # which head does not matter: they share the vectors
trained = {s for info in heads(given.model).values() for s in (info.observed or info.elements)}
print(f"{len(trained)} elements, heads: {', '.join(names)}")

# %% [markdown]
# ## Structures
#
# `data/environments.extxyz.gz` has a few small frames of most data sets that the bundled model learned from, and frames
# that were held out; `data/README.md` says more. Water comes from the tutorial on training. `describe` takes any stream
# of structures (`DataSets(["a.extxyz", "folder"])` for files), keeps the vectors on disk, and needs as much memory for
# twenty thousand structures as for one thousand. A dozen crystals are put aside for the end.

# %%
HERE = Path(__file__).parent
frames = read(HERE.parent / "data" / "environments.extxyz.gz", ":")
water = [*sources.DataSets([f"water={HERE / 'training' / 'water' / 'train'}"])][::8]
for atoms in water:
    atoms.info["head"] = "water-pbe0"
frames = [a for a in frames + water if {*a.symbols} <= trained]
if FAST:
    frames = [a for a in frames if len(a) <= 64]
    frames = frames[:: max(sum(map(len, frames)) // 1500, 1)]
crystals = [i for i, a in enumerate(frames) if a.pbc.all() and len(a) <= 64]
aside = [frames[i] for i in crystals[:: max(len(crystals) // 12, 1)][:12]]
structures = [a for a in frames if not any(a is other for other in aside)]
warnings.filterwarnings("ignore", message=".* have more than .* neighbors within")  # of compressed frames; no harm here
environments = describe(structures, calc, layer=layer, columns=[column("head", calc), column("data_set", calc)])
print(
    f"{len(structures)} structures, {len(environments)} atoms, layer {layer}, vectors of {environments.width} numbers"
)

# %% [markdown]
# ## The map of atoms
#
# t-SNE keeps neighbors together; distances between clusters, their sizes and the axes mean nothing. The page shows the
# structure of every point that is clicked, without network. All numbers below are measured in the full space.

# %%
points = make_map(environments, "tsne", points=given.points)
picture(pictures.draw_map(points, "element"), "periodic-table-map")
picture(pictures.draw_map(points, "head"), "periodic-table-heads")
page = html.write_html(
    OUTPUT / "periodic-table-map.html", points, sources.pick(structures, points.structures), title="Atoms in the data"
)
print("page:", page)

# %% [markdown]
# ## The map of elements
#
# One point for every element, the mean of its atoms, in the color of its group; lanthanides are squares, actinides
# diamonds. Large frames should not count more than small ones, and the atoms of one crystal are alike by symmetry: so
# wherever elements are compared, the atoms of an element in a structure are one vector, their mean.

# %%
MARKERS = {"Ln": "s", "An": "D"}
mixed, kinds = by_structure(environments)
apart = analysis.element_distances(mixed, kinds)
means = np.stack([mixed[kinds == atomic_numbers[symbol]].mean(0) for symbol in apart.symbols])
method = "tsne" if len(means) > 30 else "pca"
laid = project(means, method, perplexity=8 if method == "tsne" else None).coordinates
(ax,) = plots.subplots(1, 1, (6.4, 5.4))
for symbol, (x, y) in zip(apart.symbols, laid, strict=True):
    family = group(atomic_numbers[symbol])
    ax.scatter(x, y, s=230, color=group_color(family), alpha=0.5, linewidths=0, marker=MARKERS.get(family, "o"))
    ax.text(x, y, symbol, fontsize=8, ha="center", va="center")
ax.set(title="one point per element; colors are groups", xticks=[], yticks=[])
ax.spines[:].set_visible(False)
ax.grid(False)
picture(ax, "periodic-table-elements")

# %% [markdown]
# ## Elements and groups
#
# Purity is the share of a vector's five nearest (the nearest, of few) that are of its own element, beside what shuffled
# labels give. By group, those of the same element would make everything look good, so neighbors of other elements alone
# are counted there, and chance deals the groups out to the elements anew. The type embedding tells elements apart
# whatever surrounds them; what is found without it comes from the surroundings and from how the model treats them.

# %%
of_layer = {}
for other in dict.fromkeys([layer, Layer("repinit"), Layer("final"), Layer("final", types=True)]):
    described = environments if other == layer else describe(structures, calc, layer=other)
    of_layer[other] = summary = analysis.summary(*by_structure(described), k=5 if len(kinds) > 200 else 1)
    print(f"\nlayer {other}:")
    for name, value in summary.items():
        print(f"  {name:38} {value if isinstance(value, analysis.Score) else f'{value:.3f}'}")
by_element, by_group = (of_layer[layer][f"purity by {name}"] for name in ("element", "group, other elements only"))

# %% [markdown]
# ## What was published, asked of this model
#
# A rank of 0 means nearer than all other transition metals, 1 farther, 0.5 is chance. A question about elements that
# the model does not have, or has too few of to tell it from chance, stays open.

# %%
verdicts: dict[str, str] = {}


def verdict(finding: str, value: float | None, holds: bool, how: str) -> None:
    """Note whether a finding holds, and print it."""
    verdicts[finding] = word = "cannot be asked" if value is None else "holds" if holds else "does not hold"
    print(f"{finding:46} {word:16} {how}")


def ranks(near: list[str], to: list[str], among: list[str]) -> float | None:
    """Mean rank of elements `near` to elements `to` among others; None without any of them."""
    near, to, among = ([s for s in group if s in apart.symbols] for group in (near, to, among))
    if not near or not to or not {*among} - {*near}:
        return None
    rest = [s for s in among if s not in near]
    return float(np.mean([apart.rank(symbol, target, rest) for symbol in near for target in to]))


transition = chemical_symbols[21:31] + chemical_symbols[39:49] + chemical_symbols[72:81]
coinage, zinc = (
    ranks([*a], [*b], transition) for a, b in ((("Cu", "Ag", "Au"), ("Li",)), (("Zn", "Cd"), ("Ca", "Sr")))
)
verdict("an element is together", by_element.value, by_element.sigmas > 5, f"purity {by_element}")
known = by_group.value if by_group.n >= 20 else None  # two of few elements are neighbors by chance, too
verdict("a group is together", known, by_group.sigmas > 2, f"purity {by_group}, among {by_group.n} elements")
for finding, rank in (("Cu, Ag, Au are near Li", coinage), ("Zn, Cd are near Ca, Sr", zinc)):
    how = "" if rank is None else f"rank {rank:.2f} among transition metals"
    verdict(finding, rank, rank is not None and rank < 0.25, how)
for symbol in ("Li", "Ca", "Sr", "Cu", "Ag", "Zn", "Cd"):
    if symbol in apart.symbols:
        print(f"  nearest to {symbol:2}: {' '.join(s for s, _ in apart.nearest(symbol)[:8])}")

# %% [markdown]
# ## Hydrogen
#
# One vector for those hydrogen atoms of a structure whose nearest neighbors are of one element; two clusters of these
# by 2-means, and how many metals are among the nearest atoms of other elements of each. Two clusters can be made of
# anything; it is a split if they are more than a few strange atoms, well apart (a silhouette above 0.25), and the
# published ones: hydrogen of molecules in one, of solids in the other (agreement 1 is perfect, 0.5 is chance). Water's
# was found with that of solids.

# %%
around = surroundings(structures)
vectors, first = means_of(environments.vectors(), environments.structure, environments.numbers, around.near)
numbers, head_of, near = environments.numbers[first], environments.label("head")[first], around.near[first]
of_molecules = np.isin(head_of, ["molecules-pbe", "molecules-wb97x", "electrolyte-pbe"])
hydrogen = numbers == 1
if hydrogen.sum() >= 20 and len({*of_molecules[hydrogen]}) == 2:
    found = clusters.split(vectors, numbers, 1, classes=of_molecules)
    is_split = found.silhouette > 0.25 and (found.agreement or 0) > 0.8
    verdict("hydrogen splits in two", found.silhouette, is_split, str(found))
    for side in (0, 1):
        print(f"  most often beside: {Counter(near[hydrogen][found.cluster == side].tolist()).most_common(6)}")
    of_water = head_of[hydrogen] == "water-pbe0"
    share = float((found.cluster[of_water] == 1).mean()) if is_split and of_water.any() else None
    verdict("hydrogen of water is like that of solids", share, (share or 0) > 0.5, f"{share or 0:.0%} of it")
else:
    verdict("hydrogen splits in two", None, False, "no hydrogen of two kinds")
    verdict("hydrogen of water is like that of solids", None, False, "no hydrogen of two kinds")

# %% [markdown]
# ## Environments
#
# Atoms of one element, by the element of their nearest neighbor: are the five nearest atoms of other compounds of the
# same kind? All compounds count alike, and chance deals the kinds out to them anew. Besides, metal atoms of a slab with
# an adsorbate against the same slab without: the nearer the adsorbate, the less like any atom of the clean slab (−1 is
# a perfect gradient).

# %%
WORDS = {"S": ("P", "Si, Ge, Sn"), "C": ("C, H, N, O", "metals")}
compound = np.array([atoms.get_chemical_formula() for atoms in structures])[environments.structure]
for symbol, kinds in QUESTIONS.items():
    one, another = WORDS.get(symbol, ("metals", "others"))
    own = environments.elements == symbol
    score = company(environments.vectors(own), around.near[own], compound[own], kinds)
    apart_by = score is not None and score.sigmas > 3 and score.value > 0.8
    how = "too few compounds" if score is None else f"same kind {score}"
    verdict(f"{symbol} beside {one}, and beside {another}: apart", score and score.value, apart_by, how)

# %%
metal = next((s for s in ("Al", "Cu", "Ni", "Pt") if s in trained), None)
adsorbate = next((s for s in ("O", "H", "C", "Si") if s in trained), None)
slope = None
if metal and adsorbate:
    slabs = [surface(metal, None, (4, 4, 4)), surface(metal, adsorbate, (4, 4, 4))]
    slab = describe(slabs, calc, layer=layer, columns=[column(f"distance:{adsorbate}", calc)])
    is_metal_atom, is_clean = slab.numbers == numbers_of([metal])[0], slab.structure == 0
    distance = slab.label(f"distance:{adsorbate}")
    far = is_metal_atom & ~is_clean
    slope = analysis.gradient(slab.vectors(far), slab.vectors(is_clean), distance[far])
verdict("a gradient towards an adsorbate", slope, (slope or 0) < -0.5, f"{adsorbate} on {metal}: {slope}")

# %% [markdown]
# ## Functionals
#
# Heads share the descriptor, and labels never enter it: two heads give the same vectors to the last bit. That is how
# such a model is made. What training could still have done is to pull apart the environments of data sets of different
# functionals. So atoms of one molecule (ωB97X) are asked for the nearest ones in others (PBE): do these have the same
# bonds, and as often as those of two molecules of one functional? `skill` is 0 for atoms drawn at random, 1 for a
# perfect answer.

# %%
difference = 0.0
if len(names) > 1:
    ends = [DPA2Calculator(given.model, head=name) for name in (names[0], names[-1])]
    few = structures[:: max(len(structures) // 20, 1)]
    difference = analysis.same_environments(*(describe(few, end, layer=layer).vectors() for end in ends))
    print(f"largest difference between heads {names[0]} and {names[-1]}: {difference}")
of_set = environments.label("data_set")
molecules = ("mol_3bpa_wb97x", "mol_acac_pbe", "mol_ethanol_methanol_pbe")
skills: dict[str, float] = {}
if {*molecules} <= {*of_set}:
    rows_of = {name: of_set == name for name in molecules}
    some = np.any([*rows_of.values()], axis=0)
    wb97x, acac, alcohols = (mask[some] for mask in rows_of.values())
    for name, (first, second) in {"two functionals": (wb97x, acac | alcohols), "one": (acac, alcohols)}.items():
        share, chance = same_bonds(environments.vectors(some), around.bonds[some], first, second)
        skills[name] = (share - chance) / (1 - chance)
        print(f"{name:16} {share:.3f} of the nearest have the same bonds, by chance {chance:.3f}")
    across, within = skills.values()
    how = f"skill {across:.2f} across functionals, {within:.2f} within one"
    verdict("the functional of the labels does not matter", across, across > max(0.5, 0.8 * within), how)
else:
    verdict("the functional of the labels does not matter", None, False, "no molecules of two functionals")

# %% [markdown]
# ## New structures, and what to label next
#
# Points of other structures are put on the same map, which does not move. `uncovered` asks whether an atom is farther
# from what is known than known atoms are from each other, and the farthest points cover a data set with few structures;
# `dpa2 select` does both from the shell.

# %%
dense = [atoms.copy() for atoms in aside]
for atoms in dense:
    atoms.set_cell(atoms.cell.array * 0.8, scale_atoms=True)
squeezed, usual = (describe(chosen, calc, layer=layer) for chosen in (dense, aside))
outside = uncovered(squeezed, environments).mean(), uncovered(usual, environments).mean()
placed = make_map(squeezed, onto=points.projection)
print(f"outside of what is known: {outside[0]:.0%} of squeezed crystals, {outside[1]:.0%} of those put aside")
chosen = select_farthest(environments, 10)
print(f"ten structures that cover most: {[structures[i].get_chemical_formula() for i in chosen.chosen]}")
minutes = (time.process_time() - started) / 60

# %% [markdown]
# ## In short

# %%
for word in ("holds", "does not hold", "cannot be asked"):
    found = [finding for finding, answer in verdicts.items() if answer == word]
    print(f"{word}: {'; '.join(found) or 'nothing'}")
print(f"CHECK element = {by_element.value:.3f} {by_element.baseline:.3f} purity, chance")
print(f"CHECK group = {by_group.value:.3f} {by_group.baseline:.3f} purity, chance")
print(f"CHECK heads = {difference:.6f} of the spread")
print(f"CHECK skill = {' '.join(f'{value:.3f}' for value in skills.values())} across functionals, within one")
print(f"CHECK gradient = {0.0 if slope is None else slope:.3f} rank correlation")
print(f"CHECK outside = {outside[0]:.3f} {outside[1]:.3f}")
for word, name in (("holds", "holding"), ("does not hold", "failing"), ("cannot be asked", "open")):
    print(f"CHECK {name} = {sum(answer == word for answer in verdicts.values())} findings")
print(f"CHECK minutes = {minutes:.2f} min of processor time")
