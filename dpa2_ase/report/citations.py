"""Works that a run made use of, as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any
from unicodedata import normalize

from .markup import Html, element, join

OURS = ("dpa2", "dpa1", "deepmd-kit", "matscipy")
PHONONS = ("phonopy", "phonopy-first-principles", "spglib")
BY_RESULT = {
    "phonons": (*PHONONS, "seekpath"),
    "bands": (*PHONONS, "seekpath"),
    "gruneisen": (*PHONONS, "seekpath"),
    "dos": PHONONS,
    "thermal": PHONONS,
    "quasi-harmonic": PHONONS,
    "dimer": ("dimer",),
    "elastic": ("hill", "elastic-stability"),
    "surface": ("surface-energies",),
}
# values of settings, whatever their name, that stand for a published method
BY_SETTING = {
    "optimizer": {"fire": "fire", "fire2": "fire2", "lbfgs": "lbfgs", "precon-lbfgs": "precon"},
    "method": {"improvedtangent": "neb-improved-tangent"},
    "interpolation": {"idpp": "idpp"},
    "climb": {"True": "neb-climbing-image"},
    "symmetry": {"True": "spglib"},
    "form": {"birchmurnaghan": "birch", "birch": "birch", "murnaghan": "murnaghan", "vinet": "vinet"},
    "eos": {"birch_murnaghan": "birch", "murnaghan": "murnaghan", "vinet": "vinet"},
}


@cache
def bibliography() -> dict[str, str]:
    """All entries by their keys."""
    text = resources.files(__package__).joinpath("assets/citations.bib").read_text(encoding="utf-8")
    entries = [entry.strip() for entry in re.split(r"^(?=@)", text, flags=re.MULTILINE) if entry.strip()]
    return {re.split(r"[{,]", entry, maxsplit=2)[1]: entry for entry in entries}


def used(kinds: Iterable[str], runs: Iterable[Mapping[str, Any]]) -> list[str]:
    """BibTeX entries of what was made use of: first the programs and the model, then methods.

    Parameters
    ----------
    kinds
        Names of the results.
    runs
        Their provenances, see `dpa2_ase.workflows.results.provenance_of`.
    """
    keys = {"ase"}
    for kind in kinds:
        keys.update(BY_RESULT.get(kind, ()))
    for provenance in runs:
        keys.update(of_run(provenance))
    return [entry for key, entry in bibliography().items() if key in keys]


def reference(entry: str) -> Html:
    """Authors, title and a link, to read."""
    found = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, flags=re.MULTILINE))
    names = [name.partition(",")[0] for name in found["author"].split(" and ")]
    authors = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    link = element("a", found["doi"], href=f"https://doi.org/{found['doi']}", rel="noreferrer")
    where = f"{found['journal']} {found['volume']}, {found['pages'].partition('--')[0]} ({found['year']})"
    return join([f"{_plain(authors)}, {_plain(found['title'])}, ", element("cite", where), ", ", link])


def _plain(text: str) -> str:
    """Text without the marks of LaTeX that the bibliography has."""
    marks = {"'": "\u0301", "`": "\u0300", '"': "\u0308", "c": "\u0327"}
    text = re.sub(r"\{\\(['`\"c])\{?(\w)\}?\}", lambda found: found[2] + marks[found[1]], text)
    text = text.replace(r"{\o}", "ø").replace(r"{\l}", "ł").replace(r"{\ss}", "ß")
    return normalize("NFC", text.replace("---", "—").replace("--", "–").replace("{", "").replace("}", ""))


def of_run(provenance: Mapping[str, Any]) -> list[str]:
    """Keys of what calculators and settings stand for."""
    keys = [*OURS] if provenance.get("models") else []
    for calculator in calculators_of(provenance):
        kind = str(calculator.get("class", ""))
        if kind.startswith("dpa2_ase."):
            keys += OURS
        if re.search(r"d3\b|dftd3", f"{kind} {calculator.get('name', '')}", flags=re.IGNORECASE):
            keys += ("d3", "d3-damping")
    for name, value in _settings(provenance.get("settings") or {}):
        found = BY_SETTING.get(name, {}).get(str(value).lower() if isinstance(value, str) else str(value))
        keys += [found] if found else []
        if name in ("ensemble", "name"):
            keys += _of_ensemble(str(value))
    return keys


def calculators_of(provenance: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All calculators of a run and their parts, as `dpa2_ase.workflows.results.describe_calculator` tells them."""
    waiting = [provenance.get("calculator"), *(provenance.get("calculators") or {}).values()]
    while waiting:
        calculator = waiting.pop(0)
        if calculator:
            yield calculator
            waiting = [*(calculator.get("parts") or ()), *waiting]


def _settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _settings(value)
        else:
            yield name, value


def _of_ensemble(name: str) -> list[str]:
    if name.startswith("npt"):
        return ["constant-pressure", "nose-hoover-chains"]
    return {"nvt-bussi": ["stochastic-velocity-rescaling"], "nvt-nose-hoover": ["nose-hoover-chains"]}.get(name, [])
