"""Tables and a plot from the file that ``compare.py`` writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Results = dict[str, Any]

FORCE_LIMIT = 1e-8  # relative, float64: far above rounding and tables, far below any error of a formula
COLORS = {"kernels": "#0b6e4f", "torch": "#2a7fb8", "DeePMD-kit": "#c8553d"}
LINE_HEIGHT = 10  # points, between the names of lines
STYLES = {"float64": "-", "float32": "--"}


def is_deepmd(name: str) -> bool:
    """Whether a program's name is one of DeePMD-kit's."""
    return name.startswith("deepmd")


def best_deepmd(programs: Results) -> float | None:
    """The best median of DeePMD-kit's formats, in seconds."""
    medians = [p["median"] for name, p in programs.items() if is_deepmd(name) and "median" in p]
    return min(medians, default=None)


def wrong_numbers(results: Results) -> list[str]:
    """Programs of ours whose float64 forces differ from the first program's by more than `FORCE_LIMIT`."""
    return [
        f"{key}, {name}: forces differ by {program['force_error']:.1e} from {program['compared_with']}"
        for key, record in results.get("calls", {}).items()
        for name, program in record["programs"].items()
        if not is_deepmd(name) and program["dtype"] == "float64" and not program.get("force_error", 0.0) <= FORCE_LIMIT
    ]


def count_comparisons(results: Results) -> int:
    """How many float64 results of ours were compared with DeePMD-kit's."""
    return sum(
        is_deepmd(program.get("compared_with", ""))
        for record in results.get("calls", {}).values()
        for name, program in record["programs"].items()
        if not is_deepmd(name) and program["dtype"] == "float64"
    )


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _header(*names: str) -> list[str]:
    return [_row(*names), _row("---", "---", *["---:"] * (len(names) - 2))]


def _ratio(ours: float, peer: float | None, name: str) -> str:
    return "" if peer is None or is_deepmd(name) else f"{peer / ours:.1f}×"


def _calls(results: Results) -> Iterator[str]:
    names = (
        "model, atoms;program;ms/atom, median;minimum;faster than DeePMD-kit;memory MB;MB/atom;of GEMM rate;overhead"
    )
    yield from _header(*names.split(";"), "ΔF")
    for key, record in results["calls"].items():
        n_atoms, peer = record["n_atoms"], best_deepmd(record["programs"])
        for name, program in record["programs"].items():
            title = key.replace("/", ", ")
            if "median" not in program:
                yield _row(title, name, f"– ({program.get('error', 'no answer')[:60]})", *[""] * 7)
                continue
            per_atom = 1000 / n_atoms
            memory = program["memory_mb"]
            share = program.get("overhead", {}).get("share")
            yield _row(
                title,
                name,
                f"{program['median'] * per_atom:.3f}",
                f"{program['minimum'] * per_atom:.3f}",
                _ratio(program["median"], peer, name),
                f"{memory:.0f}",
                f"{memory / n_atoms:.2f}",
                f"{100 * program['fraction']:.0f} %" if "fraction" in program else "",
                "" if share is None else f"{100 * share:.1f} %",
                f"{program['force_error']:.0e}",
            )


def _others(results: Results, part: str) -> Iterator[str]:
    yield from _header("model", "program", "s, median", "minimum", "faster than DeePMD-kit")
    for key, record in results[part].items():
        peer = best_deepmd(record["programs"])
        for name, program in record["programs"].items():
            if "median" in program:
                yield _row(
                    key,
                    name,
                    f"{program['median']:.2f}",
                    f"{program['minimum']:.2f}",
                    _ratio(program["median"], peer, name),
                )
            else:
                yield _row(key, name, f"– ({program.get('error', 'no answer')[:60]})", "", "")


def markdown(results: Results) -> str:
    """All results as Markdown: a line on the machine, then one table per kind of measurement."""
    meta = results["meta"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(meta["versions"].items()))
    rates = [record["gemm_gflops"] for record in results.get("calls", {}).values()]
    best = {dtype: max(rate[dtype] for rate in rates) for dtype in (rates[0] if rates else {})}
    gemm = "; ".join(f"matrix products {rate:.0f} GFLOP/s in {dtype}" for dtype, rate in best.items())
    lines = [
        f"{meta['hardware']['cpu']}, {meta['settings']['threads']} of {meta['hardware']['cores']} cores"
        f"{', ' + meta['hardware']['gpu'] if meta['hardware'].get('gpu') else ''}; {gemm}; {versions}; {meta['date']}.",
        "",
    ]
    if results.get("calls"):
        lines += [*_calls(results), ""]
    for part in ("batch", "start"):
        if results.get(part):
            lines += [f"{meta['titles'][part]}:", "", *_others(results, part), ""]
    return "\n".join(lines)


def plot(results: Results, target: Path, models: list[str] | None = None) -> None:
    """Time per atom (above) and memory (below) against the number of atoms, one column per model.

    Of DeePMD-kit the format with the best time is drawn at each size, and its memory; of ours the two fast modes.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    curves = _curves(results)
    chosen = models or list(curves)
    figure, axes = plt.subplots(
        2, len(chosen), figsize=(1.2 + 4.3 * len(chosen), 7.2), sharex="col", sharey="row", squeeze=False
    )
    panels = []
    for column, model in enumerate(chosen):
        axes[0, column].set_title(model)
        axes[1, column].set_xlabel("number of atoms")
        for row in range(2):
            lines = {name: [(p[0], p[1 + row]) for p in points] for name, points in curves[model].items()}
            panels.append((axes[row, column], lines))
            _draw(*panels[-1])
    axes[0, 0].set_ylabel("time per call and atom (ms)")
    axes[1, 0].set_ylabel("memory above the idle process (MB)")
    meta = results["meta"]
    figure.suptitle(
        f"Energy, forces and stress per ASE call: {meta['hardware']['cpu']}, {meta['settings']['threads']} threads",
        fontsize=10,
    )
    figure.tight_layout()
    for panel in panels:
        _name_lines(*panel)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def _curves(results: Results) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """Points (atoms, ms/atom, MB) by model and program."""
    curves: dict[str, dict[str, list[tuple[float, float, float]]]] = defaultdict(lambda: defaultdict(list))
    for key, record in results["calls"].items():
        model, n_atoms = key.split("/")[0], record["n_atoms"]
        best = best_deepmd(record["programs"])
        for name, program in record["programs"].items():
            is_slower = is_deepmd(name) and program.get("median") != best
            if "median" not in program or is_slower or name.startswith("reference"):
                continue
            label = "DeePMD-kit float64" if is_deepmd(name) else name.replace("-", " ")
            point = (n_atoms, 1000 * program["median"] / n_atoms, max(program["memory_mb"], 1.0))
            curves[model][label].append(point)
    return {m: {label: sorted(points) for label, points in lines.items()} for m, lines in curves.items()}


def _draw(axis: Any, lines: dict[str, list[tuple[float, float]]]) -> None:
    """Lines on logarithmic axes, with room at the right for their names."""
    axis.set(xscale="log", yscale="log")
    sizes = sorted({point[0] for points in lines.values() for point in points})
    axis.set_xlim(sizes[0] / 1.6, sizes[-1] * 25)
    axis.set_xticks(sizes, [f"{size:.0f}" for size in sizes])
    axis.xaxis.minorticks_off()
    axis.yaxis.set_major_formatter("{x:g}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(which="major", alpha=0.3)
    for label, points in lines.items():
        axis.plot(*zip(*points, strict=True), STYLES[label.split()[1]], color=_color(label), marker="o", markersize=4)


def _name_lines(axis: Any, lines: dict[str, list[tuple[float, float]]]) -> None:
    """Write the name of every line at its right end, at a distance from the name below."""
    lowest = -1e9
    for label, points in sorted(lines.items(), key=lambda line: line[1][-1][1]):
        end = axis.transData.transform(points[-1])[1]
        lowest = max(end, lowest + LINE_HEIGHT * axis.figure.dpi / 72)
        offset = (7, (lowest - end) * 72 / axis.figure.dpi)
        style = {"fontsize": 8, "va": "center", "color": _color(label)}
        axis.annotate(label, points[-1], xytext=offset, textcoords="offset points", **style)


def _color(label: str) -> str:
    return COLORS[label.split(maxsplit=1)[0]]
