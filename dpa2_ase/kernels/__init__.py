"""Fast twins of reference modules, and how a potential is put together from them.

A twin has the `forward` of the module it stands in for, and two constructors' worth of manners:
``obstacle(reference)`` says in a user's words why it cannot stand in for an instance (``None``: it can), and
``from_reference(reference, dtype)`` makes it, with weights folded and tables computed in the reference's precision,
which is float64. Twins have first derivatives only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, Literal, get_args

import torch
from torch import nn

from ..model import Potential
from ..nn.descriptors import DPA2
from ..topology import Topology

Mode = Literal["auto", "reference", "torch", "kernels"]
MODES: tuple[str, ...] = get_args(Mode)

# name of a reference class -> where its twin lives; for "kernels" the first that has no obstacle is taken
TORCH_TWINS = {
    "SeAtten": "se_atten.TabulatedSeAtten",
    "ThreeBody": "three_body.TabulatedThreeBody",
    "Repformer": "repformer.FusedRepformer",
    "NeighborAttention": "attention.FusedNeighborAttention",
    "Fitting": "fitting.EagerFitting",
}
COMPILED_TWINS = {
    "SeAtten": "cpu.se_atten.CompiledSeAtten",
    "ThreeBody": "cpu.three_body.CompiledThreeBody",
    "Repformer": "cpu.repformer.CompiledRepformer",
    "NeighborAttention": "cpu.attention.CompiledNeighborAttention",
    "Fitting": "cpu.dense.CompiledFitting",
    "Dense": "cpu.dense.CompiledDense",
}


@dataclass(frozen=True)
class Engine:
    """What computes a potential: the path chosen, and what every block of the model runs on."""

    mode: str  # "reference", "torch" or "kernels"
    reason: str  # why this path
    fast: dict[str, str] = field(default_factory=dict)  # name of a module -> its twin, as in the tables above
    slow: dict[str, str] = field(default_factory=dict)  # name of a module -> why it has none

    @property
    def paths(self) -> dict[str, str]:
        """Name of a module with a twin -> ``"torch"`` or ``"kernels"``."""
        return {name: "kernels" if twin in COMPILED_TWINS.values() else "torch" for name, twin in self.fast.items()}

    def __str__(self) -> str:
        lines = [f"{self.mode}: {self.reason}"]
        lines += [f"{name}: {twin}" for name, twin in self.fast.items()]
        lines += [f"{name}: reference, {reason}" for name, reason in self.slow.items()]
        return "\n".join(lines)


class AcceleratedPotential(Potential):
    """A potential with twins in it: the same numbers, once differentiable. Made by `accelerate`.

    Twins hold addresses and tables, so it is copied and pickled as what it was made from.
    """

    engine: Engine

    def __init__(self, source: Potential, dtype: torch.dtype | None, engine: Engine) -> None:
        nn.Module.__init__(self)
        copied = sharing_copy(source)
        if dtype is not None:
            copied.set_precision(dtype)
        self.config, self.model, self.engine = copied.config, copied.model, engine
        self._made_from = (source, engine.mode, dtype, engine.reason)

    def computing(self) -> AbstractContextManager[None]:
        """Surrounds an evaluation: PyTorch and the compiled kernels do not compete for the same cores.

        Where parts of the model are left to PyTorch, it keeps its threads.
        """
        if self.engine.slow or {*self.engine.paths.values()} != {"kernels"}:
            return nullcontext()
        from .cpu.library import borrowed_threads

        return borrowed_threads()

    def __reduce__(self) -> tuple[Any, ...]:
        return accelerate, self._made_from


def choose_mode(mode: str, device: torch.device) -> tuple[str, str]:
    """The path that `mode` means on `device`, and why.

    Raises
    ------
    ValueError
        For an unknown mode, and for compiled kernels where there are none.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    if mode in ("reference", "torch"):
        return mode, "asked for"
    usable, why = compiled_for(device)
    if mode == "kernels" and not usable:
        raise ValueError(
            f"mode 'kernels' is not available: {why}; mode='torch' runs everywhere. The kernels are compiled when the "
            "package is installed: install a C++ compiler, then run pip install --force-reinstall --no-deps dpa2-ase"
        )
    if mode == "kernels":
        return mode, "asked for"
    return ("kernels", f"the fastest here ({why})") if usable else ("torch", why)


def compiled_for(device: torch.device) -> tuple[bool, str]:
    """Whether the compiled kernels can work on `device`, and why (not)."""
    if device.type != "cpu":
        return False, f"the compiled kernels are for the CPU, not for {device.type}"
    from .cpu import available

    return available()


def accelerate(
    potential: Potential, mode: str, dtype: torch.dtype | None = None, reason: str = "asked for"
) -> AcceleratedPotential:
    """A fast copy of `potential` that shares its tensors wherever they have the same precision.

    Parameters
    ----------
    potential
        A reference potential in the precision of its file, on its device; stays as it is.
    mode
        ``"reference"``, ``"torch"`` or ``"kernels"``; see `choose_mode`.
    dtype
        Precision of all nets of the copy; ``None`` keeps the model's own.
    reason
        Why this mode, for the description in ``engine``.
    """
    if isinstance(potential, AcceleratedPotential):
        raise ValueError("this potential is an accelerated one already; start from the one it was made of")
    engine = Engine(mode, reason)
    fast = AcceleratedPotential(potential, dtype, engine)
    if mode != "reference":
        exact = sharing_copy(potential).set_precision(torch.float64)
        for name, module in _replaceable(exact, engine, mode):
            own_dtype = next(potential.get_submodule(name).parameters()).dtype
            found = find_twin(module, [COMPILED_TWINS, TORCH_TWINS] if mode == "kernels" else [TORCH_TWINS])
            if isinstance(found, str):
                if found:  # an empty reason: nothing worth a twin
                    engine.slow[name] = found
                continue
            engine.fast[name], twin = found
            parent, _, own_name = name.rpartition(".")
            setattr(fast.get_submodule(parent), own_name, twin.from_reference(module, dtype or own_dtype))
    if mode == "kernels":
        _join_blocks(fast)
    fast.requires_grad_(False)
    return fast


def topology_maker(mode: str, potential: Potential) -> Callable[..., Topology]:
    """What joins neighbor lists to a topology for a `potential` in a `mode`, as `Topology.of`."""
    if mode != "kernels":
        return Topology.of
    from .cpu.topology import CompiledTopology

    return partial(CompiledTopology.for_blocks_of, potential.neighbor_limits)


def sharing_copy(potential: Potential) -> Potential:
    """A copy with modules and parameters of its own, whose tensors are views of the original's and not trained."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in potential.parameters()}
    memo |= {id(buffer): buffer for buffer in potential.buffers()}
    return copy.deepcopy(potential, memo)


def _replaceable(potential: Potential, engine: Engine, mode: str) -> Iterator[tuple[str, nn.Module]]:
    """Modules of classes that have twins, outermost first; not those inside a module that got one."""
    classes = TORCH_TWINS | (COMPILED_TWINS if mode == "kernels" else {})
    for name, module in potential.named_modules():
        inside = any(name.startswith(f"{done}.") for done in engine.fast)
        if type(module).__name__ in classes and not inside:
            yield name, module


def _join_blocks(potential: Potential) -> None:
    """Let descriptors run their compiled blocks as one."""
    from .cpu.descriptor import CompiledDPA2

    for name, module in list(potential.named_modules()):
        if type(module) is DPA2 and CompiledDPA2.obstacle(module) is None:
            parent, _, own_name = name.rpartition(".")
            setattr(potential.get_submodule(parent), own_name, CompiledDPA2(module))


def find_twin(reference: nn.Module, tables: Sequence[Mapping[str, str]]) -> tuple[str, Any] | str:
    """Name and class of the first twin in `tables` that can stand in for a module, or why there is none."""
    obstacle = "there is no twin of its class"
    for table in tables:
        path = table.get(type(reference).__name__)
        if path is None:
            continue
        module, _, name = path.rpartition(".")
        try:
            twin = getattr(import_module(f".{module}", __name__), name)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{module}":
                raise
            continue
        obstacle = twin.obstacle(reference)
        if obstacle is None:
            return path, twin
    return obstacle
