"""Write a potential as one of DeePMD-kit's backend-neutral documents: ``.dp`` (HDF5) or ``.yaml``.

``dp convert-backend`` turns them into every other format of DeePMD-kit, so that its engines (LAMMPS, GROMACS, i-PI …)
run what was trained here. Nodes are those of documents by DeePMD-kit 3.2; `documents` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from .. import __version__
from ..hdf5 import new_hdf5
from ..model import Potential
from . import heads, load_potential, read_checkpoint
from .document_nodes import Node, document_tree
from .writing import HeadNotes, replacing, section_of, write_checkpoint

SUFFIXES = (".dp", ".yaml", ".yml")


def write_document(path: str | Path, potential: Potential, notes: HeadNotes | None = None) -> None:
    """Write one head as ``.dp`` or ``.yaml``, by the suffix; the file is complete or not there.

    Raises
    ------
    UnsupportedModelError
        For anything but an energy model of a descriptor with a fitting net.
    ValueError
        For another suffix.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path.name}: documents have one of the suffixes {', '.join(SUFFIXES)}")
    tree: Node = {"software": "dpa2_ase", "version": __version__, "backend": "PyTorch"}
    tree |= {"model": document_tree(potential), "model_def_script": section_of(potential, notes), "@variables": {}}
    with replacing(path) as temporary:
        if path.suffix == ".dp":
            _write_hdf5(temporary, tree)
        else:
            text = yaml.dump(_with_arrays(tree, _inline), Dumper=_dumper(), sort_keys=False, width=120)
            temporary.write_text(text, encoding="utf-8")


def convert_model(source: str | Path, target: str | Path, head: str | None = None) -> None:
    """Write a model file in another format: all heads as ``.pt``, one head as ``.dp`` or ``.yaml``.

    Parameters
    ----------
    head
        For documents: the head of a model that has several.
    """
    source, target = Path(source), Path(target)
    if target.exists():
        raise FileExistsError(f"{target} exists; nothing is overwritten, choose another name")
    known = heads(source)
    notes = {name: HeadNotes(observed=info.observed or (), aliases=info.aliases) for name, info in known.items()}
    if target.suffix != ".pt":
        checkpoint = read_checkpoint(source, head)
        write_document(target, load_potential(checkpoint), notes[checkpoint.head])
    elif head is not None:
        raise ValueError(f"{target.name}: a checkpoint gets all heads; leave the choice of {head!r} to who reads it")
    else:
        write_checkpoint(target, {name: load_potential(source, name) for name in known}, notes=notes)


def _dumper() -> Any:
    """PyYAML's fast safe dumper without aliases: equal lists are written twice."""
    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return type("Dumper", (base,), {"ignore_aliases": lambda *_: True})


def _write_hdf5(path: Path, tree: Node) -> None:
    with new_hdf5(path) as file:
        count = 0

        def stored(array: Tensor) -> str:
            nonlocal count
            name = f"variable_{count:04d}"
            file.create_dataset(name, data=array.numpy())
            count += 1
            return f"/{name}"

        file.attrs["json"] = json.dumps(_with_arrays(tree, stored), separators=(",", ":"))


def _inline(array: Tensor) -> Node:
    kind = str(array.dtype).removeprefix("torch.")
    return {"@class": "np.ndarray", "@is_variable": True, "@version": 1, "dtype": kind, "value": array.tolist()}


def _with_arrays(node: Any, put: Callable[[Tensor], Any]) -> Any:
    """A copy of the tree with `put` of every tensor."""
    if isinstance(node, Tensor):
        return put(node)
    if isinstance(node, Mapping):
        return {key: _with_arrays(value, put) for key, value in node.items()}
    return [_with_arrays(value, put) for value in node] if isinstance(node, list | tuple) else node
