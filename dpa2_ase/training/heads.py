"""The model that is trained: one potential per head, with parts that several heads share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..config import AnyModelConfig, DPA2Config, ModelConfig, UnsupportedModelError
from ..model import Potential
from ..nn.atomic_models import StandardModel
from ..nn.descriptors import DPA2
from ..nn.repformer import Combine
from ..parsing import parse_model

# what heads have in common at level 0 of a shared descriptor; DeePMD-kit leaves `type_to_node` to each head
_SHARED_BLOCKS = ("type_embedding", "repinit", "three_body", "to_node", "repformer", "se_atten")
_SHARED_STATISTICS = ("fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std")


@dataclass(frozen=True)
class Sharing:
    """A part that heads have in common; level 0 shares all of it, level 1 (descriptors) the type embedding alone."""

    part: Literal["descriptor", "fitting_net"]
    levels: Mapping[str, int]  # of every head that takes part


class Heads(nn.Module):
    """Potentials by name.

    Parameters
    ----------
    potentials
        Energy models of a descriptor and a fitting net.
    sharing
        Parts to share; all heads get the modules of the first head of the lowest level.

    Raises
    ------
    UnsupportedModelError
        For models that are no descriptor with a fitting net of energies.
    ValueError
        When parts to share differ in their configuration.
    """

    def __init__(self, potentials: Mapping[str, Potential], sharing: Sequence[Sharing] = ()) -> None:
        super().__init__()
        self.names = tuple(potentials)
        self.potentials = nn.ModuleList(potentials.values())
        self.sharing = tuple(sharing)
        for name, potential in potentials.items():
            if not isinstance(potential.model, StandardModel) or potential.kind != "ener":
                raise UnsupportedModelError(
                    f"head {name!r}: only energy models of a descriptor and a fitting net can be trained"
                )
        for shared in sharing:
            self._share(shared)

    def __getitem__(self, name: str) -> Potential:
        potential = self.potentials[self.names.index(name)]
        assert isinstance(potential, Potential)
        return potential

    def items(self) -> Iterator[tuple[str, Potential]]:
        """Names and potentials."""
        return ((name, self[name]) for name in self.names)

    def model(self, name: str) -> StandardModel:
        """The atomic model of a head."""
        model = self[name].model
        assert isinstance(model, StandardModel)
        return model

    def config(self, name: str) -> ModelConfig:
        """The configuration of a head."""
        return self.model(name).config

    def _share(self, shared: Sharing) -> None:
        order = sorted(shared.levels, key=lambda name: shared.levels[name])
        source = self.model(order[0])
        for name in order[1:]:
            target, level = self.model(name), shared.levels[name]
            ours = source.config.descriptor if shared.part == "descriptor" else source.config.fitting_net
            theirs = target.config.descriptor if shared.part == "descriptor" else target.config.fitting_net
            if ours != theirs or source.config.type_map != target.config.type_map:
                raise ValueError(f"heads {order[0]!r} and {name!r} cannot share a {shared.part}: they differ in it")
            if shared.part == "fitting_net":
                target.fitting.net = source.fitting.net
                for buffer in _SHARED_STATISTICS:
                    setattr(target.fitting, buffer, getattr(source.fitting, buffer))
                continue
            for block in _SHARED_BLOCKS if level == 0 else ("type_embedding",):
                if hasattr(source.descriptor, block):
                    setattr(target.descriptor, block, getattr(source.descriptor, block))

    def shared_descriptors(self) -> list[list[str]]:
        """Heads grouped by whose statistics of the environment are the same tensors."""
        groups: dict[int, list[str]] = {}
        for name in self.names:
            descriptor = self.model(name).descriptor
            block = descriptor.repinit if isinstance(descriptor, DPA2) else descriptor.se_atten
            groups.setdefault(id(block), []).append(name)
        return list(groups.values())


def random_potential(section: Mapping[str, Any], path: str, seed: int) -> Potential:
    """A model to train from scratch: weights as DeePMD-kit draws them, from `seed`.

    Parameters
    ----------
    section
        Model section of DeePMD-kit.
    path
        Where the section stands, for messages.
    """
    config = parse_model(section, path)
    _check_order(config, path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        potential = Potential(config)
        repformer = section.get("descriptor", {}).get("repformer", {})
        size = float(repformer.get("update_residual", 0.001))
        constant = repformer.get("update_residual_init", "norm") == "const"
        for module in potential.modules():
            if isinstance(module, Combine):
                _reset_scales(module.scales, size, constant=constant)
            elif isinstance(module, DPA2) and module.to_node is not None:
                with torch.no_grad():  # the one layer DeePMD-kit draws by Glorot's rule
                    module.to_node.weight.mul_(math.sqrt(2))
    return potential


def _check_order(config: AnyModelConfig, path: str) -> None:
    """Refuse a model that DeePMD-kit would not read when it is trained."""
    descriptor = getattr(config, "descriptor", None)
    if isinstance(descriptor, DPA2Config):
        outer, inner = descriptor.repinit, descriptor.repformer
        for key, one, other in (("rcut", outer.rcut, inner.rcut), ("nsel", outer.nsel, inner.nsel)):
            if one <= other:
                raise ValueError(
                    f"{path}.descriptor.repinit.{key} is {one} and that of repformer {other}: DeePMD-kit reads no such "
                    f"model; give repinit.{key} a larger number"
                )


def _reset_scales(scales: Sequence[Tensor] | nn.ParameterList, size: float, *, constant: bool) -> None:
    with torch.no_grad():
        for scale in scales:
            if constant:
                scale.fill_(size)
            else:
                scale.normal_(0.0, size)


def number_heads(heads: Heads) -> None:
    """Give every head its one-hot case embedding, in the alphabetical order of names, where the nets have one."""
    for number, name in enumerate(sorted(heads.names)):
        embedding = heads.model(name).fitting.case_embd
        if len(embedding):
            if number >= len(embedding):
                raise ValueError(f"dim_case_embd = {len(embedding)} is too small for {len(heads.names)} heads")
            embedding.zero_()[number] = 1.0


def parameter_name(name: str) -> str:
    """Name of a parameter within its head: ``descriptor.repformer.layers.0...``, as parts of a model are given."""
    return name.split(".model.", 1)[1]


def is_part(name: str, part: str) -> bool:
    """Whether a parameter, by its name in `Heads`, belongs to a part of a model such as ``descriptor.repinit``."""
    return f"{parameter_name(name)}.".startswith(f"{part}.")


def check_parts(heads: Heads, parts: Iterable[str]) -> None:
    """Refuse parts that no parameter belongs to.

    Raises
    ------
    ValueError
        With the parts there are.
    """
    names = [name for name, _ in heads.named_parameters()]
    for part in parts:
        if not any(is_part(name, part) for name in names):
            known = sorted({".".join(parameter_name(name).split(".")[:2]) for name in names})
            raise ValueError(f"no parameter begins with {part!r}; parts of this model are {known}")


def trainable_parameters(heads: Heads, frozen: Sequence[str]) -> dict[str, nn.Parameter]:
    """Parameters by name, each once, with gradients switched on; off for those of the parts that are `frozen`."""
    check_parts(heads, frozen)
    chosen = {}
    for name, parameter in heads.named_parameters():
        parameter.requires_grad_(not any(is_part(name, part) for part in frozen))
        if parameter.requires_grad:
            chosen[name] = parameter
    if not chosen:
        raise ValueError(f"nothing is left to train: {list(frozen)} freezes every parameter")
    return chosen
