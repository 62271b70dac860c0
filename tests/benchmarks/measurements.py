"""What is measured: calls side by side, batches, and the start."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from peers import Peer, PeerError, Program
from useful_work import useful_flop

from dpa2_ase.config import ModelConfig

REBUILD_EVERY = 20  # steps; in water at 300 K with 0.5 fs the fastest hydrogen crosses half of a 0.5 Å skin in 15 to 30
MAX_CALLS = 50  # in one block

Record = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How long and how often."""

    threads: int = 2
    device: str = "cpu"
    rounds: int = 5
    warmup: int = 2
    block_seconds: float = 2.0
    limit_seconds: float = 600.0
    keep_free: float = 2.0  # GiB
    gemm_size: int = 1024
    batch: int = 256
    starts: int = 3
    pause: float = 0.3  # s, until the idle threads of the program before have gone to sleep

    def open(self, program: Program) -> Peer:
        """Start a program."""
        return Peer(program, self.threads, self.limit_seconds, self.keep_free)


def measure_calls(programs: Sequence[Program], n_atoms: int, settings: Settings) -> Record:
    """Energy, forces and stress per ASE call for one model and structure, all programs in turn, block by block.

    The rate of matrix products is measured as one more program of the same rounds. A program that fails leaves the
    rounds; its record says why.
    """
    records: dict[str, Record] = {program.name: {"dtype": program.dtype} for program in programs}
    products: Record = {"rates": {}}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        peers = [(stack.enter_context(settings.open(p)), records[p.name]) for p in programs]
        machine = stack.enter_context(settings.open(Program("products", sys.executable, "", {}, False)))
        for peer, record in peers:
            _measure(peer, record, _prepare, n_atoms, Path(folder), settings)
        for number in range(settings.rounds):
            for peer, record in peers:
                _measure(peer, record, _block, number, record, pause=settings.pause)
            _measure(machine, products, _products, products["rates"], settings, pause=settings.pause)
        for peer, record in peers:
            if peer.program.is_ours:
                _measure(peer, record, _overhead, settings)
        compare_numbers(programs, records, Path(folder))
    return {"n_atoms": n_atoms, "gemm_gflops": products["rates"], "programs": records}


def _measure(peer: Peer, record: Record, measure: Callable[..., Record], *arguments: Any, pause: float = 0.0) -> None:
    """Add what `measure` says of a program to its record, or the reason why it failed; then it is not asked again."""
    if "error" in record:
        return
    time.sleep(pause)
    try:
        record.update(measure(peer, *arguments))
    except PeerError as error:
        record["error"] = str(error)


def _products(peer: Peer, rates: dict[str, float], settings: Settings) -> Record:
    found = peer.ask("gemm", size=settings.gemm_size, repeats=10, threads=settings.threads, device=settings.device)
    return {"rates": {dtype: max(rate, rates.get(dtype, 0.0)) for dtype, rate in found.items()}}


def _prepare(peer: Peer, n_atoms: int, folder: Path, settings: Settings) -> Record:
    """Load, evaluate the common structure, warm up, and choose the length of a block."""
    loaded = peer.ask("load", threads=settings.threads, **peer.program.load)
    peer.ask("take", n_atoms=n_atoms)
    peer.ask("numbers", path=str(folder / f"{peer.program.name}.npz"))
    last = peer.ask("block", calls=settings.warmup, seed=0)["seconds"][-1]
    calls = int(np.clip(round(settings.block_seconds / last), 1, MAX_CALLS))
    return loaded | {"calls_per_block": calls, "seconds": []}


def _block(peer: Peer, number: int, record: Record) -> Record:
    block = peer.ask("block", calls=record["calls_per_block"], seed=1 + number)
    return _summary(record["seconds"] + block["seconds"]) | {"memory_mb": block["memory_mb"]}


def _overhead(peer: Peer, settings: Settings) -> Record:
    """Share of a step of molecular dynamics that is not the network, with a search every `REBUILD_EVERY` steps."""
    found = peer.ask("profile", calls=3 if settings.rounds > 1 else 1, seed=1000)
    step = found["whole"] + found["search"] / REBUILD_EVERY
    return {"overhead": found | {"share": (step - found["network"]) / step}}


def compare_numbers(programs: Sequence[Program], records: dict[str, Record], folder: Path) -> None:
    """Write each program's deviation from the first that answered: of forces, relative; of the energy, eV/atom."""
    answers = {}
    for program in programs:
        path = folder / f"{program.name}.npz"
        if path.exists():
            with np.load(path) as file:
                answers[program.name] = dict(file)
    if not answers:
        return
    first, truth = next(iter(answers.items()))
    for name, answer in answers.items():
        difference = np.abs(answer["forces"] - truth["forces"]).max() / np.abs(truth["forces"]).max()
        energy = abs(float(answer["energy"] - truth["energy"])) / len(truth["forces"])
        records[name] |= {"compared_with": first, "force_error": float(difference), "energy_error": energy}


def count_work(config: ModelConfig, atoms: Atoms, record: Record) -> None:
    """Add the useful operations per atom, and for every program the share of the machine's rate it achieves."""
    parts = useful_flop(config, atoms)
    total = sum(parts.values())
    record["useful_mflop_per_atom"] = {name: value / 1e6 for name, value in parts.items()} | {"total": total / 1e6}
    for program in record["programs"].values():
        if "median" in program and program["dtype"] in record["gemm_gflops"]:
            rate = 1e-9 * total * record["n_atoms"] / program["median"]
            program["fraction"] = rate / record["gemm_gflops"][program["dtype"]]


def measure_batch(programs: Sequence[Program], settings: Settings) -> Record:
    """Many small structures: ours in one `evaluate`, DeePMD-kit one by one; after one pass to warm up."""
    records: dict[str, Record] = {program.name: {"dtype": program.dtype} for program in programs}
    with ExitStack() as stack:
        peers = [(stack.enter_context(settings.open(p)), records[p.name]) for p in programs]
        for peer, record in peers:
            _measure(peer, record, _first_batch, settings)
        for _ in range(max(2, settings.rounds)):
            for peer, record in peers:
                _measure(peer, record, _batch, record, settings, pause=settings.pause)
    return {"count": settings.batch, "programs": records}


def _first_batch(peer: Peer, settings: Settings) -> Record:
    peer.ask("load", threads=settings.threads, **peer.program.load)
    found = peer.ask("batch", count=settings.batch, together=peer.program.is_ours)
    return {"n_atoms": found["n_atoms"], "seconds": []}


def _batch(peer: Peer, record: Record, settings: Settings) -> Record:
    found = peer.ask("batch", count=settings.batch, together=peer.program.is_ours)
    return _summary([*record["seconds"], found["seconds"]])


def _summary(seconds: list[float]) -> Record:
    return {"seconds": seconds, "median": statistics.median(seconds), "minimum": min(seconds)}


def measure_start(programs: Sequence[Program], settings: Settings) -> Record:
    """From a new process to the first energy: interpreter, imports, loading, one cell of copper."""
    records: dict[str, Record] = {program.name: {"dtype": program.dtype, "seconds": []} for program in programs}
    for _ in range(settings.starts):
        for program in programs:
            begin = time.perf_counter()
            with settings.open(program) as peer:
                _measure(peer, records[program.name], _start, begin, records[program.name], settings)
    return {"programs": records}


def _start(peer: Peer, begin: float, record: Record, settings: Settings) -> Record:
    peer.ask("load", threads=settings.threads, **peer.program.load)
    peer.ask("first")
    return _summary([*record["seconds"], time.perf_counter() - begin])
