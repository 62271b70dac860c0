"""Compare this package with DeePMD-kit's ASE calculator: time, memory and numbers, side by side in one run.

    python compare.py run RESULTS.json --models FOLDER --deepmd-python PYTHON   (see --help for the rest)
    python compare.py markdown RESULTS.json
    python compare.py plot RESULTS.json PICTURE.png

``run`` adds to RESULTS.json what is not in it yet, so that it can be stopped and started again. It ends with an error
if forces of ours differ from DeePMD-kit's: a time for wrong numbers is worth nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measurements import Record, Settings, count_work, measure_batch, measure_calls, measure_start
from peers import Program
from report import count_comparisons, is_deepmd, markdown, plot, wrong_numbers
from structures import structure

MODELS = ["dpa2-small", "dpa2-medium", "dpa2-large", "dpa2-compressible", "dpa1-noattn", "dpa1-attn"]
SIZES = [21, 192, 1536, 12288]
OURS = [f"{mode}-{dtype}" for mode in ("kernels", "torch", "reference") for dtype in ("float64", "float32")]
FORMATS = [".pt", ".pth", ".pt2"]
QUICK = {
    "rounds": 1,
    "warmup": 1,
    "block_seconds": 0.01,
    "gemm_size": 64,
    "batch": 3,
    "starts": 1,
    "pause": 0.0,
    "limit_seconds": 120.0,
}
TITLES = {
    "batch": "{batch} clusters of 9 to 30 atoms, energy and forces: ours in one `evaluate`, DeePMD-kit one by one",
    "start": "From a new process to the first energy of the bundled model",
}


def our_programs(names: list[str], model: str | None, device: str) -> list[Program]:
    """This package's modes."""
    found = []
    for name in names:
        mode, dtype = name.split("-")
        load = {"program": "dpa2_ase", "model": model, "device": device, "dtype": dtype, "mode": mode}
        found.append(Program(name, sys.executable, dtype, load, True))
    return found


def deepmd_programs(python: str | None, folder: Path, model: str, formats: list[str], device: str) -> list[Program]:
    """DeePMD-kit with every file of the model there is."""
    files = [(suffix, folder / f"{model}{suffix}") for suffix in formats]
    return [
        Program(
            f"deepmd{suffix}", python, "float64", {"program": "deepmd", "model": str(file), "device": device}, False
        )
        for suffix, file in files
        if python and file.exists()
    ]


class Results:
    """The file of results: written after every measurement, never measured twice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: Record = json.loads(path.read_text()) if path.exists() else {}

    def start(self, settings: Settings) -> None:
        """Say what and where is measured; raises ValueError if the file is of another machine or setting."""
        meta: Record = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "hardware": hardware(),
            "settings": dataclasses.asdict(settings),
            "titles": {name: title.format(batch=settings.batch) for name, title in TITLES.items()},
        }
        old = self.data.get("meta", meta)
        same = ("threads", "device")
        there, here = ([m["hardware"], *(m["settings"][key] for key in same)] for m in (old, meta))
        if there != here:
            raise ValueError(f"{self.path} was measured on {there}, this is {here}; choose a new file")
        self.data["meta"] = {"versions": {}} | old | meta

    def add(self, part: str, key: str, programs: list[Program], measure: Callable[[], Record], retry: bool) -> None:
        """Measure unless the file has all `programs` (with `retry`: unless all of them succeeded)."""
        kept = self.data.setdefault(part, {}).get(key, {"programs": {}})["programs"]
        done = {name for name, program in kept.items() if not (retry and "error" in program)}
        if done >= {program.name for program in programs}:
            return
        print(f"{part}: {key}: {', '.join(program.name for program in programs)}", flush=True)
        record = measure()
        for name, program in record["programs"].items():
            self._note_versions(name, program.pop("versions", {}))
            if "error" in program:
                print(f"  {name} failed: {program['error']}", flush=True)
        self.data[part][key] = record
        self.save()

    def _note_versions(self, name: str, versions: dict[str, str]) -> None:
        if is_deepmd(name) and "torch" in versions:
            versions["torch (of DeePMD-kit)"] = versions.pop("torch")
        self.data["meta"]["versions"] |= versions

    def save(self) -> None:
        """Replace the file as a whole."""
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps(self.data, indent=1) + "\n")
        os.replace(draft, self.path)


def hardware() -> dict[str, Any]:
    """The machine, in words."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "instructions": torch.backends.cpu.get_cpu_capability(), "gpu": gpu}


def run(arguments: argparse.Namespace) -> int:
    """Measure what is asked for and not there yet; returns the exit status."""
    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(Settings) if hasattr(arguments, f.name)}
    settings = Settings(**given | (QUICK if arguments.quick else {}))
    results = Results(arguments.results)
    results.start(settings)
    for part, measure in {"calls": run_calls, "batch": run_batch, "start": run_start}.items():
        if part in arguments.parts:
            measure(arguments, settings, results)
    if arguments.markdown:
        arguments.markdown.write_text(markdown(results.data))
    wrong = wrong_numbers(results.data)
    print(f"float64 forces compared with DeePMD-kit's: {count_comparisons(results.data)}, different: {len(wrong)}")
    print("\n".join(wrong), end="\n" if wrong else "", flush=True)
    return 1 if wrong else 0


def _programs(arguments: argparse.Namespace, model: str, n_atoms: int) -> list[Program]:
    names = [n for n in arguments.ours if not n.startswith("reference") or n_atoms <= arguments.reference_max_atoms]
    peers = []
    if n_atoms <= arguments.peer_max_atoms:
        peers = deepmd_programs(arguments.deepmd_python, arguments.models, model, arguments.formats, arguments.device)
    return peers + our_programs(names, str(arguments.models / f"{model}.pt"), arguments.device)


def run_calls(arguments: argparse.Namespace, settings: Settings, results: Results) -> None:
    """All models and sizes."""
    from dpa2_ase import read_checkpoint

    for model in arguments.only:
        config = read_checkpoint(arguments.models / f"{model}.pt").config
        for n_atoms in arguments.sizes:
            programs = _programs(arguments, model, n_atoms)

            def measure(programs: list[Program] = programs, n_atoms: int = n_atoms, config: Any = config) -> Record:
                record = measure_calls(programs, n_atoms, settings)
                count_work(config, structure(n_atoms), record)
                return record

            results.add("calls", f"{model}/{n_atoms}", programs, measure, arguments.retry)


def run_batch(arguments: argparse.Namespace, settings: Settings, results: Results) -> None:
    """Many small structures, with the models asked for."""
    for model in arguments.only:
        programs = _programs(arguments, model, 30)
        results.add("batch", model, programs, lambda: measure_batch(programs, settings), arguments.retry)  # noqa: B023


def run_start(arguments: argparse.Namespace, settings: Settings, results: Results) -> None:
    """The bundled model in new processes, and DeePMD-kit with the same file."""
    from dpa2_ase.bundled import bundled_model

    path = bundled_model()
    peers = deepmd_programs(arguments.deepmd_python, path.parent, path.stem, [path.suffix], arguments.device)
    programs = peers + our_programs(arguments.ours, None, arguments.device)
    for program in programs:
        program.load["head"] = "metals-pbe"  # that knows copper best
    results.add("start", path.stem, programs, lambda: measure_start(programs, settings), arguments.retry)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True)
    add = commands.add_parser("run", help="measure").add_argument
    add("results", type=Path)
    add("--models", type=Path, required=True, help="folder written by make_models.py")
    add("--deepmd-python", help="python of a DeePMD-kit installation; without it, ours alone")
    add("--only", nargs="+", default=MODELS, help="names of models")
    add("--sizes", nargs="+", type=int, default=SIZES, help="numbers of atoms: up to 30 a cluster, else the liquid")
    add("--ours", nargs="+", choices=OURS, default=OURS)
    add("--formats", nargs="*", choices=FORMATS, default=FORMATS, help="files DeePMD-kit is given")
    add("--parts", nargs="+", choices=["calls", "batch", "start"], default=["calls", "batch", "start"])
    add("--peer-max-atoms", type=int, default=1536, help="DeePMD-kit is left out beyond")
    add("--reference-max-atoms", type=int, default=192, help="our reference mode is left out beyond")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    for field in ("threads", "rounds", "block_seconds", "limit_seconds", "keep_free"):
        default = getattr(Settings(), field)
        add(f"--{field.replace('_', '-')}", type=type(default), default=default)
    add("--retry", action="store_true", help="measure again where a program failed")
    add("--quick", action="store_true", help="one short round, to see whether everything runs")
    add("--markdown", type=Path, help="write the tables here as well")
    table = commands.add_parser("markdown", help="print tables")
    table.add_argument("results", type=Path)
    picture = commands.add_parser("plot", help="draw time and memory against size")
    picture.add_argument("results", type=Path)
    picture.add_argument("picture", type=Path)
    picture.add_argument("--only", nargs="+", help="names of models")
    return top


def main() -> int:
    """Run one command."""
    arguments = parser().parse_args()
    if arguments.command == "run":
        return run(arguments)
    results = json.loads(arguments.results.read_text())
    if arguments.command == "markdown":
        print(markdown(results))
    else:
        plot(results, arguments.picture, arguments.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
