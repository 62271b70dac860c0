"""How the numbers came about: command, model, settings, versions, times, works to cite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .citations import calculators_of, reference
from .markup import Html, element, join
from .page import code
from .tables import cell_text, definitions

SHOWN = {"calculator", "calculators", "models", "settings", "versions", "date"}


@dataclass(frozen=True)
class Origin:
    """What made a part of the report; `provenance` as `dpa2_ase.workflows.results.provenance_of` gives it."""

    heading: str  # of the part
    provenance: Mapping[str, Any]

    @property
    def calculators(self) -> list[Mapping[str, Any]]:
        """All calculators and their parts."""
        return list(calculators_of(self.provenance))

    @property
    def settings(self) -> list[tuple[str, Any]]:
        """Names and values."""
        return _flat(self.provenance.get("settings") or {})

    @property
    def others(self) -> list[tuple[str, Any]]:
        """What else is known, such as the machine."""
        return _flat({key: value for key, value in self.provenance.items() if key not in SHOWN})


def run(origins: Sequence[Origin], timings: Mapping[str, float]) -> Html:
    """Everything that is needed to do it again; what several parts share stands once."""
    groups = [("Calculator", _calculator(calculator)) for calculator in _distinct_calculators(origins)]
    groups += _distinct_settings(origins)
    groups += [("Run", pairs) for pairs in _distinct(origin.others for origin in origins)]
    versions: dict[str, Any] = {}
    for origin in origins:
        known = origin.provenance.get("versions") or {}
        versions |= {name.replace("_", "-"): value for name, value in known.items() if value}
    groups.append(("Versions", list(versions.items())))
    total = [("total", sum(timings.values()))] if len(timings) > 1 else []
    groups.append(("Wall time", [(name, duration(seconds)) for name, seconds in [*timings.items(), *total]]))
    blocks = [element("div", element("h3", title), definitions(pairs)) for title, pairs in groups if pairs]
    return element("div", *blocks, class_="groups") if blocks else Html("")


def _distinct_settings(origins: Sequence[Origin]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Settings of all parts, without those that are among settings shown before."""
    shown: list[Origin] = []
    for origin in origins:
        if origin.settings and not any(set(origin.settings) <= set(before.settings) for before in shown):
            shown.append(origin)
    several = len(shown) > 1
    titles = [f"Settings: {origin.heading}" if several and origin.heading else "Settings" for origin in shown]
    return [(title, origin.settings) for title, origin in zip(titles, shown, strict=True)]


def facts(origins: Sequence[Origin]) -> list[str]:
    """Models, heads and date in a few words."""
    found = []
    for calculator in _distinct_calculators(origins):
        source = calculator.get("source") or {}
        if source.get("model"):
            head = f", head {source['head']}" if source.get("head") else ""
            found.append(f"{Path(str(source['model'])).name}{head}")
        elif calculator.get("class") and not calculator.get("parts"):
            found.append(str(calculator["class"]).rpartition(".")[2])
    dates = [str(origin.provenance["date"]) for origin in origins if "date" in origin.provenance]
    return [*found, *(date.replace("T", " ").replace("+00:00", " UTC") for date in dates[-1:])]


def _distinct(items: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def _distinct_calculators(origins: Sequence[Origin]) -> list[Mapping[str, Any]]:
    """All calculators and their parts, each once, with what else is known of their models."""
    models = _distinct(dict(model) for origin in origins for model in origin.provenance.get("models") or ())
    found: list[Mapping[str, Any]] = []
    for part in _distinct(part for origin in origins for part in origin.calculators):
        source = part.get("source") or {}
        known = next((model for model in models if _is_same_model(model, source)), source)
        found.append({**part, "source": {**known, **source}})
    sources = [part["source"] for part in found]
    return found + [{"source": model} for model in models if not any(_is_same_model(model, one) for one in sources)]


def _is_same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one.get("sha256")) and all(one.get(key) == other.get(key) for key in ("sha256", "head"))


def citations(entries: Sequence[str]) -> Html:
    """Links to all works, and BibTeX to be copied."""
    works = [element("li", reference(entry)) for entry in entries]
    return join([element("ul", *works, class_="works"), code("\n\n".join(entries), "bibtex")])


def _calculator(calculator: Mapping[str, Any]) -> list[tuple[str, Any]]:
    pairs: dict[str, Any] = {}
    source = dict(calculator.get("source") or {})
    model = source.pop("model", None)
    if model:
        pairs["model"] = Path(str(model)).name  # where it lies is nobody's business
        digest = source.pop("sha256", None)
        pairs |= {"sha256": element("code", digest)} if digest else {}
    if calculator.get("class"):
        pairs["class"] = calculator["class"]
    for key, value in [*source.items(), *(calculator.get("parameters") or {}).items()]:
        if value is not None:
            pairs.setdefault(_spoken(key), value)
    return list(pairs.items())


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{_spoken(key)} ")
        elif value is not None:
            pairs.append((prefix + _spoken(key), cell_text(value)))
    return pairs


def _spoken(key: object) -> str:
    return str(key).replace("_", " ")


def duration(seconds: float) -> str:
    """A time as one says it."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
