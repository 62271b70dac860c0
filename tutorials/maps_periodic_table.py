# %% [markdown]
# # Does the model know the periodic table?
#
# A model that was trained on energies and forces has a vector for every atom. The authors of DPA-2 looked at these
# vectors (npj Comput. Mater. 10, 293 (2024), Fig. 4) and found the periodic table: atoms of an element together, groups
# beside each other, hydrogen in two places, Cu, Ag and Au near Li, Zn and Cd near Ca and Sr. Here the same questions
# are put to the bundled model, as numbers and not only as pictures. Structures are built on the way; no data are
# needed. Takes a few minutes:
#
#     OMP_NUM_THREADS=2 python tutorials/maps_periodic_table.py
#
# Needs `pip install "dpa2-ase[maps]"`.

# %%
from __future__ import annotations

import time
import warnings

import numpy as np
from ase.data import chemical_symbols
from setting import FAST, OUTPUT, picture

from dpa2_ase import DPA2Calculator, heads
from dpa2_ase.bundled import bundled_model
from dpa2_ase.maps import Layer, analysis, column, describe, html, make_map, pictures, sources
from dpa2_ase.maps.elements import numbers_of
from dpa2_ase.maps.prototypes import prototypes, surface
from dpa2_ase.maps.selection import select_farthest, uncovered

started = time.perf_counter()
file = bundled_model()
names = [*heads(file)]
calc = DPA2Calculator(file, head=names[0])  # which head does not matter: they share the vectors
trained = {s for info in heads(file).values() for s in (info.observed or info.elements)}
elements = [symbol for symbol in chemical_symbols if symbol in trained]
print(f"{len(elements)} elements, heads: {', '.join(names)}")

# %% [markdown]
# ## Structures
#
# Every element as a rattled fcc, bcc, simple cubic and diamond crystal, in binary compounds with a few others, in
# molecules and on surfaces, as far as the model knows what these are made of. `describe` takes any stream of structures
# (`DataSets(["a.extxyz", "folder"])` for files), keeps the vectors on disk, and needs as much memory for twenty
# thousand structures as for one thousand. Some of these crystals are denser than any real one; that the model drops
# their farthest neighbors does no harm here, and its warning is left out.

# %%
warnings.filterwarnings("ignore", message=".* have more than .* neighbors within")
copies = 1 if FAST or len(elements) > 30 else 3
structures = [*prototypes(elements, copies=copies, partners=2 if FAST else 4)]
environments = describe(structures, calc, columns=[column("kind", calc)])
print(f"{len(structures)} structures, {len(environments)} atoms, vectors of {environments.width} numbers")

# %% [markdown]
# ## The map
#
# t-SNE keeps neighbors together; distances between clusters, their sizes and the axes mean nothing. The page shows the
# structure of every point that is clicked, without network. All numbers below are measured in the full space.

# %%
points = make_map(environments, "tsne", points=400 if FAST else 5000)
picture(pictures.draw_map(points, "element"), "periodic-table-map")
picture(pictures.draw_map(points, "kind"), "periodic-table-kinds")
page = html.write_html(
    OUTPUT / "periodic-table-map.html", points, sources.pick(structures, points.structures), title="Atoms of prototypes"
)
print("page:", page)

# %% [markdown]
# ## Elements and groups
#
# Purity is the share of an atom's ten nearest that are of its own element, beside what shuffled labels give. By group,
# atoms of the same element would make everything look good, so neighbors of other elements alone are counted there,
# and chance deals the groups out to the elements anew. The type embedding tells elements apart whatever surrounds
# them; what is found without it comes from the surroundings and from how the model treats them.

# %%
rows = points.rows
of_layer = {}
for layer in (Layer("repinit"), Layer("initial"), Layer("final"), Layer("final", types=True)):
    described = environments if layer == Layer() else describe(structures, calc, layer=layer)
    of_layer[str(layer)] = numbers = analysis.summary(described.vectors(rows), described.numbers[rows])
    print(f"\nlayer {layer}:")
    for name, value in numbers.items():
        print(f"  {name:38} {value if isinstance(value, analysis.Score) else f'{value:.3f}'}")
vectors, numbers = points.vectors(), environments.numbers[rows]
final = of_layer["final"]
by_element, by_group = final["purity by element"], final["purity by group, other elements only"]

# %% [markdown]
# ## What was published, asked of this model
#
# A rank of 0 means nearer than all others, 1 farther, 0.5 is chance. A question about elements that the model does not
# have, or has too few of to tell it from chance, stays open.

# %%
apart = analysis.element_distances(vectors, numbers)
verdicts: dict[str, str] = {}


def verdict(finding: str, value: float | None, holds: bool, how: str) -> None:
    """Note whether a finding holds, and print it."""
    word = "cannot be asked" if value is None else "holds" if holds else "does not hold"
    verdicts[finding] = word
    print(f"{finding:46} {word:16} {how}")


def ranks(near: list[str], to: list[str], among: list[str]) -> float | None:
    """Mean rank of elements `near` to elements `to` among others; None without any of them."""
    near, to, among = ([s for s in group if s in apart.symbols] for group in (near, to, among))
    if not near or not to or not {*among} - {*near}:
        return None
    return float(
        np.mean([apart.rank(symbol, target, [s for s in among if s not in near]) for symbol in near for target in to])
    )


transition = chemical_symbols[21:31] + chemical_symbols[39:49] + chemical_symbols[72:81]
coinage = ranks(["Cu", "Ag", "Au"], ["Li"], transition)
zinc = ranks(["Zn", "Cd"], ["Ca", "Sr"], transition)
verdict("atoms of one element are together", by_element.value, by_element.sigmas > 5, f"purity {by_element}")
known = by_group.value if by_group.n >= 20 else None  # two of few elements are neighbors by chance, too
verdict("groups are together", known, by_group.sigmas > 2, f"purity {by_group}, among {by_group.n} elements")
verdict("Cu, Ag, Au nearer to Li than other metals", coinage, (coinage or 0) < 0.4, f"rank {coinage}")
verdict("Zn, Cd nearer to Ca, Sr than other metals", zinc, (zinc or 0) < 0.4, f"rank {zinc}")

# %% [markdown]
# Hydrogen: two clusters by 2-means, and how many metals are among the nearest atoms of other elements of each. Two
# clusters can be made of anything; it is a split if they are well apart (a silhouette above 0.25) and live in different
# company.

# %%
hydrogen = numbers == 1
if hydrogen.sum() >= 20:
    found = analysis.split(vectors, numbers, 1, classes=points.label("kind") == "molecule")
    low, high = found.metal_neighbors
    verdict("hydrogen splits in two", found.silhouette, found.silhouette > 0.25 and high - low > 0.3, str(found))
else:
    verdict("hydrogen splits in two", None, False, "no hydrogen")

# %% [markdown]
# ## Environments
#
# Metal atoms of a slab with an atom adsorbed on it, against the same slab without: the nearer the adsorbate, the less
# like any atom of the clean slab. Spearman's rank correlation is −1 for a perfect gradient.

# %%
metal = next((s for s in ("Al", "Cu", "Ni", "Pt") if s in elements), None)
adsorbate = next((s for s in ("O", "H", "C", "Si") if s in elements), None)
slope = None
if metal and adsorbate:
    slabs = [surface(metal, None, (4, 4, 4)), surface(metal, adsorbate, (4, 4, 4))]
    slab = describe(slabs, calc, columns=[column(f"distance:{adsorbate}", calc)])
    is_metal_atom, is_clean = slab.numbers == numbers_of([metal])[0], slab.structure == 0
    distance = slab.label(f"distance:{adsorbate}")
    far = is_metal_atom & ~is_clean
    slope = analysis.gradient(slab.vectors(far), slab.vectors(is_clean), distance[far])
verdict("a gradient towards an adsorbate", slope, (slope or 0) < -0.5, f"{adsorbate} on {metal}: {slope}")

# %% [markdown]
# ## Two functionals
#
# Heads share the descriptor, and labels never enter it: two heads give the same vectors to the last bit. That the map
# is insensitive to the functional of the labels is how such a model is made, not a finding. What can be measured is
# whether two sets of structures cover the same environments, whatever they are labelled with: 1 is a perfect mixture,
# 0 is none.

# %%
difference = 0.0
if len(names) > 1:
    other = DPA2Calculator(file, head=names[-1])
    few = structures[:: max(len(structures) // 50, 1)]
    difference = analysis.same_environments(describe(few, calc).vectors(), describe(few, other).vectors())
    print(f"largest difference between heads {names[0]} and {names[-1]}: {difference}")
else:
    print("this file has one head")
again = describe(prototypes(elements, copies=copies, partners=2 if FAST else 4, seed=1), calc)
mixed = analysis.overlap(vectors, again.vectors(np.arange(0, len(again), max(len(again) // len(rows), 1))))
kinds = points.label("kind")
separate = analysis.overlap(vectors[kinds == "element"], vectors[kinds == "compound"])
print(f"overlap of two data sets drawn alike: {mixed}\noverlap of elements and compounds:    {separate}")

# %% [markdown]
# ## New structures, and what to label next
#
# Points of other structures are put on the same map, which does not move. `uncovered` asks whether an atom is farther
# from what is known than known atoms are from each other, and the farthest points cover a data set with few structures;
# `dpa2 select` does both from the shell.

# %%
dense = [atoms.copy() for atoms in structures[:6]]
for atoms in dense:
    atoms.set_cell(atoms.cell.array * 0.8, scale_atoms=True)
squeezed, usual = describe(dense, calc), describe([atoms.copy() for atoms in structures[6:12]], calc)
outside = uncovered(squeezed, environments).mean(), uncovered(usual, environments).mean()
placed = make_map(squeezed, onto=points.projection)
print(f"outside of what is known: {outside[0]:.0%} of squeezed crystals, {outside[1]:.0%} of known ones")
chosen = select_farthest(environments, 10)
print(f"ten structures that cover most: {[structures[i].get_chemical_formula() for i in chosen.chosen]}")
minutes = (time.perf_counter() - started) / 60

# %%
print(f"CHECK element = {by_element.value:.3f} {by_element.baseline:.3f} purity, chance")
print(f"CHECK group = {by_group.value:.3f} {by_group.baseline:.3f} purity, chance")
print(f"CHECK heads = {difference:.6f} of the spread")
print(f"CHECK overlap = {mixed.value:.3f} {separate.value:.3f}")
print(f"CHECK gradient = {0.0 if slope is None else slope:.3f} rank correlation")
print(f"CHECK outside = {outside[0]:.3f} {outside[1]:.3f}")
print(f"CHECK open = {sum(word == 'cannot be asked' for word in verdicts.values())} questions")
print(f"CHECK minutes = {minutes:.2f} min")
