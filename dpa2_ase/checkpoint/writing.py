"""Write potentials as a DeePMD-kit training checkpoint (``.pt``), which ``dp --pt`` freezes, tests and fine-tunes.

Names and shapes are those of files by DeePMD-kit 3.2: statistics once per slot of the neighbor list, nets stored under
two names, empty tensors where a table of a compressed model would be.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import DPA1Config, DPA2Config, FittingConfig, ModelConfig, UnsupportedModelError
from ..model import Potential
from ..nn.atomic_models import StandardModel
from ..nn.tables import QuinticTable
from .names import NAMES

DEFAULT_HEAD = "Default"
_FITTING_KEYS = {
    "dos": ("numb_dos",),
    "property": ("property_name", "task_dim", "intensive", "distinguish_types"),
    "polar": ("fit_diag", "shift_diag", "scale"),
    "dipole": ("r_differentiable", "c_differentiable"),
}
_DOUBLE = ("out_bias", "out_std", "bias_atom_e")  # kept in float64 whatever the precision of the nets


@dataclass(frozen=True)
class HeadNotes:
    """What a file says of a head beside its numbers."""

    observed: Sequence[str] = ()  # elements of the training data
    aliases: Sequence[str] = ()
    info: Mapping[str, Any] | None = None


def write_checkpoint(  # noqa: PLR0913  # what a file says
    path: str | Path,
    heads: Mapping[str, Potential],
    *,
    step: int = 0,
    learning_rate: float = 0.0,
    notes: Mapping[str, HeadNotes] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write one or many heads; the file is complete or not there.

    Parameters
    ----------
    heads
        Potentials by name. A single one called ``Default`` makes a single-task file, everything else a multi-task one.
        Tensors that heads share are stored once.
    step, learning_rate
        Where the training stands.
    notes
        Elements seen and other names, by head.
    extra
        Tables of tensors and plain values to store beside the model, under keys of their own.

    Raises
    ------
    UnsupportedModelError
        For models that are more than a descriptor with a fitting net, and for compressed ones.
    OSError
        If the disk is full.
    """
    single = list(heads) == [DEFAULT_HEAD]
    sections = {name: section_of(p, (notes or {}).get(name)) for name, p in heads.items()}
    state: OrderedDict[str, Any] = OrderedDict()
    known: dict[tuple[Any, ...], Tensor] = {}
    for head, potential in heads.items():
        for name, tensor in tensors_of(potential, known):
            state[f"model.{head}.{name}"] = tensor
    state["_extra_state"] = {
        "model_params": sections[DEFAULT_HEAD] if single else {"shared_dict": {}, "model_dict": sections},
        "train_infos": {"lr": float(learning_rate), "step": int(step)},
    }
    with replacing(Path(path)) as temporary:
        # DeePMD-kit's --init-model looks for an optimizer, and does not use it
        try:
            torch.save({"model": state, "optimizer": {}, **(extra or {})}, temporary)
        except RuntimeError as error:  # of torch's own writer
            raise OSError(f"{path} cannot be written; is the disk full? ({str(error).splitlines()[0]})") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when all went well."""
    if not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"no folder {path.resolve().parent} to write {path.name} to")
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.resolve().parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _pattern() -> tuple[re.Pattern[str], dict[str, str]]:
    """One expression for all our pieces of names; a final dot is looked at and left for the next piece."""
    table = {ours.removesuffix("."): theirs.removesuffix(".") for theirs, ours in NAMES}
    pieces = [re.escape(o.removesuffix(".")) + (r"(?=\.)" if o.endswith(".") else r"$") for _, o in NAMES]
    pieces.sort(key=len, reverse=True)
    return re.compile(
        "|".join(rf"(?:{'' if piece[0] == chr(92) else r'(?<![a-z_])'}{piece})" for piece in pieces)
    ), table


_OURS, _THEIRS = _pattern()


def their_name(name: str) -> str:
    """DeePMD-kit's name of our parameter `name`, without ``atomic_model.``."""
    return _OURS.sub(lambda match: _THEIRS[match[0]], name)


def tensors_of(
    potential: Potential, known: dict[tuple[Any, ...], Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Tensors by DeePMD-kit's names, on the CPU; `known` holds those already made for another head."""
    known = {} if known is None else known
    model = standard_model(potential)
    yield "min_nbor_dist", torch.tensor(-1.0, dtype=torch.float64)
    lengths = _list_lengths(model.config)
    for name, tensor in model.state_dict().items():
        if not tensor.numel():
            continue
        made = _stored(name, tensor, lengths)
        stored = known.setdefault((_fingerprint(made), made.dtype, tuple(made.shape), name.rsplit(".", 1)[-1]), made)
        theirs = f"atomic_model.{their_name(name)}"
        yield theirs, stored
        if ".networks." in theirs:
            yield theirs.replace(".networks.", "._networks."), stored
    nothing = torch.zeros(0, dtype=getattr(torch, model.config.descriptor.precision))
    for block in lengths:
        if block != "repformer":
            prefix = f"atomic_model.descriptor.{their_name(f'{block}.x').removesuffix('.x')}"
            for empty in ("type_embd_data", "compress_info.0", "compress_data.0"):
                yield f"{prefix}.{empty}", nothing
    default = model.config.fitting_net.default_fparam
    if default is not None and model.config.fitting_net.numb_fparam:
        yield "atomic_model.fitting_net.default_fparam_tensor", model.fitting.fparam_avg.new_tensor(default).cpu()


def _fingerprint(tensor: Tensor) -> bytes:
    """Tells tensors apart by their numbers: heads share what is equal, also where each was read on its own."""
    return hashlib.sha256(tensor.numpy().tobytes()).digest()


def _stored(name: str, tensor: Tensor, lengths: Mapping[str, int]) -> Tensor:
    copy = tensor.detach().to("cpu", copy=True).contiguous()
    leaf = name.rsplit(".", 1)[-1]
    if leaf in _DOUBLE:
        copy = copy.double()
    if leaf in ("out_bias", "out_std"):
        return copy[None]
    if name.endswith((".environment.mean", ".environment.std")):
        block = name.split(".")[1]
        return copy[:, None].repeat(1, lengths[block], 1)
    return copy


def _list_lengths(config: ModelConfig) -> dict[str, int]:
    """Slots of the neighbor list of every block."""
    descriptor = config.descriptor
    if isinstance(descriptor, DPA1Config):
        return {"se_atten": descriptor.sel}
    lengths = {"repinit": descriptor.repinit.nsel, "repformer": descriptor.repformer.nsel}
    return lengths | ({"three_body": descriptor.three_body.nsel} if descriptor.three_body else {})


def standard_model(potential: Potential) -> StandardModel:
    """The descriptor with a fitting net a file can hold.

    Raises
    ------
    UnsupportedModelError
        For everything else, and for compressed models.
    """
    if not isinstance(potential.model, StandardModel):
        raise UnsupportedModelError(
            f"a {type(potential.model).__name__} cannot be written, only a single deep potential"
        )
    if any(isinstance(module, QuinticTable) for module in potential.modules()):
        raise UnsupportedModelError("a compressed model cannot be written; take the model it was made from")
    return potential.model


def section_of(potential: Potential, notes: HeadNotes | None = None) -> dict[str, Any]:
    """The configuration as DeePMD-kit stores it: every option explicit."""
    notes = notes or HeadNotes()
    model = standard_model(potential)
    config = model.config
    return {
        "type_map": list(config.type_map),
        "descriptor": _descriptor_section(model),
        "fitting_net": _fitting_section(config.fitting_net),
        "pair_exclude_types": [list(pair) for pair in config.pair_exclude_types],
        "atom_exclude_types": list(config.atom_exclude_types),
        "data_stat_nbatch": 10,
        "data_stat_protect": 0.01,
        "data_bias_nsample": 10,
        "preset_out_bias": None,
        "type": "standard",
        "model_branch_alias": list(notes.aliases),
        "info": dict(notes.info or {}) | ({"observed_type": list(notes.observed)} if notes.observed else {}),
    }


def _descriptor_section(model: StandardModel) -> dict[str, Any]:
    config = model.config.descriptor
    state = model.state_dict()

    def mean_is_zero(block: str) -> bool:
        return not bool(state[f"descriptor.{block}.environment.mean"].any())

    section = _plain(asdict(config)) | {"trainable": True, "seed": None}
    if isinstance(config, DPA2Config):
        section["repinit"]["set_davg_zero"] = mean_is_zero("repinit")
        section["repformer"] |= {"set_davg_zero": mean_is_zero("repformer"), "trainable_ln": True}
        return {"type": "dpa2", **section}
    return {
        "type": "dpa1",
        **section,
        "set_davg_zero": mean_is_zero("se_atten"),
        "attn_mask": False,
        "trainable_ln": True,
    }


def _fitting_section(config: FittingConfig) -> dict[str, Any]:
    of_others = {key for kind, keys in _FITTING_KEYS.items() if kind != config.type for key in keys}
    section = {key: value for key, value in _plain(asdict(config)).items() if key not in of_others}
    if config.type != "ener":
        section.pop("atom_ener")
    if section.get("scale", 0) is None:
        section.pop("scale")
    return section | {"trainable": True, "seed": None}


def _plain(value: Any) -> Any:
    """Tuples as lists, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
