"""Backend-neutral documents: ``.dp`` (HDF5), ``.yaml``, and the JSON inside ``.pte`` and ``.pt2`` archives.

All hold one tree of nodes; arrays sit under keys ``@variables``. The tree is turned into a configuration section and
tensors with the names of a training checkpoint, so that everything after it is shared.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import UnsupportedModelError
from ..hdf5 import hdf5_module, open_hdf5
from ..option_values import short
from .archive import MAX_RATIO, SMALL, read_entry
from .errors import CheckpointError
from .raw import MAX_DEPTH, RawFile, RawModel, plain

Node = dict[str, Any]
_KINDS = ("float64", "float32", "float16", "int64", "int32", "bool", "uint8", "int8")


def read_hdf5(path: Path) -> RawFile:
    """A ``.dp`` file."""
    try:
        opened = open_hdf5(path)
    except ModuleNotFoundError as error:
        raise CheckpointError(str(error)) from error
    with opened as file:
        if "json" not in file.attrs or file.attrs.get_id("json").shape != ():
            raise CheckpointError("an HDF5 file without the attribute 'json': not a model")
        budget = max(SMALL, MAX_RATIO * path.stat().st_size)

        def fetch(reference: str) -> Tensor:
            nonlocal budget
            dataset = _own_dataset(file, reference)
            size = max(dataset.size, math.prod(dataset.chunks or ())) * dataset.dtype.itemsize
            budget -= size
            if dataset.dtype.name not in _KINDS or budget < 0:
                raise CheckpointError(f"the array {reference} is not numeric or larger than the file can hold")
            return torch.from_numpy(np.asarray(dataset[()], dtype=dataset.dtype.newbyteorder("=")))

        return _read_document(json.loads(file.attrs["json"]), fetch, "DeePMD-kit serialized model (.dp, HDF5)")


def _own_dataset(file: Any, reference: str) -> Any:
    """A dataset whose numbers are in this very file: HDF5 can also point to other files, or to nothing."""
    h5py = hdf5_module()
    name = reference.removeprefix("/")
    link = file.get(name, getlink=True) if name and "/" not in name and not name.startswith(".") else None
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset):
        raise CheckpointError(f"the array {reference} is missing; copy or download the file again")
    if dataset.external or dataset.is_virtual or (dataset.size and not dataset.id.get_storage_size()):
        raise CheckpointError(f"the array {reference} has no numbers in this file")
    return dataset


def read_yaml(path: Path) -> RawFile:
    """A ``.yaml`` file, read with the safe loader, without aliases and deep nesting: both can exhaust the machine."""
    import yaml  # no other format needs it

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = path.read_bytes()
    depth = 0
    for event in yaml.parse(content, Loader=loader):
        if isinstance(event, yaml.AliasEvent):
            raise CheckpointError("YAML aliases do not belong in a model file")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise CheckpointError("this YAML file is nested deeper than any model")
    tree = yaml.load(content, Loader=loader)  # the safe one
    return _read_document(tree, None, "DeePMD-kit serialized model (.yaml)")


def read_exported(archive: zipfile.ZipFile) -> RawFile:
    """A ``.pte`` or ``.pt2`` archive: the compiled program is left alone, the weights stand beside it as JSON."""
    name = next(n for n in archive.namelist() if n.endswith("extra/model.json"))
    return _read_document(
        json.loads(read_entry(archive, archive.getinfo(name))), None, "DeePMD-kit exported archive (.pte, .pt2)"
    )


def _read_document(tree: Any, fetch: Any, kind: str) -> RawFile:
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise CheckpointError("no model in this document")
    tensors: dict[str, Tensor] = {}
    params = _model(tree["model"], "", _Arrays(fetch, tensors))
    writer = " ".join(str(tree[key]) for key in ("software", "version") if tree.get(key)) or None
    return RawFile(kind, {"Default": RawModel(plain(params), tensors)}, writer)


class _Arrays:
    """Collects the arrays of a document under the names of a training checkpoint."""

    def __init__(self, fetch: Any, tensors: dict[str, Tensor]) -> None:
        self.fetch, self.tensors = fetch, tensors

    def take(self, node: Node, name: str, **keys: str) -> None:
        """Store ``node["@variables"][theirs]`` as ``name + ours`` for each ``theirs=ours`` that is present."""
        variables = {**node, **(node.get("@variables") or {})}
        for theirs, ours in keys.items():
            value = self.array(variables.get(theirs))
            if value is not None:
                self.tensors[name + ours] = value

    def array(self, value: Any) -> Tensor | None:
        """A tensor from a reference, an inline array, or nothing."""
        if value is None:
            return None
        if isinstance(value, str) and self.fetch is not None:
            return self.fetch(value)
        if isinstance(value, Mapping) and value.get("@class") == "np.ndarray":
            if value.get("dtype") not in _KINDS:
                raise CheckpointError(f"array type {short(value.get('dtype'))} is not supported")
            return torch.from_numpy(np.asarray(value["value"], dtype=value["dtype"]))
        raise CheckpointError(f"expected an array in the document, found {type(value).__name__}")


# the newest version of every kind of node that is understood
_VERSIONS = {
    "Model": 3,
    "Descriptor": 4,
    "Fitting": 6,
    "NetworkCollection": 1,
    "RepformerLayer": 2,
    "TypeEmbedNet": 2,
    "NeighborGatedAttention": 1,
}


def _class(node: Any, name: str, path: str) -> Node:
    """`node`, which has to be of the class `name` in a version we know."""
    if not isinstance(node, dict):
        raise CheckpointError(f"{path}: expected a {name}, found {short(node)}")
    kind, version = node.get("@class", name), node.get("@version", 1)
    if kind != name:
        raise UnsupportedModelError(f"{path}: @class {short(kind)} is not supported, expected {name}")
    if not isinstance(version, int) or not 1 <= version <= _VERSIONS[name]:
        raise UnsupportedModelError(
            f"{path}: @version {short(version)} of {name} is not supported; known: 1 to {_VERSIONS[name]}; "
            "upgrade this package or use the .pt file of the model"
        )
    return node


def _model(node: Node, prefix: str, arrays: _Arrays) -> Node:
    kind = node.get("type", "standard")
    if kind not in ("standard", "zbl", "linear"):
        raise UnsupportedModelError(f"model.type {short(kind)} is not supported; supported: standard, zbl, linear")
    node = _class(node, "Model", "model")
    arrays.take(node, f"{prefix}atomic_model.", out_bias="out_bias", out_std="out_std")
    common = {k: node[k] for k in ("type_map", "pair_exclude_types", "atom_exclude_types") if k in node}
    if kind == "standard":
        return common | _standard(node, f"{prefix}atomic_model.", arrays)
    parts = [_part(part, f"{prefix}atomic_model.models.{index}.", arrays) for index, part in enumerate(node["models"])]
    if kind == "linear":
        return common | {"type": "linear_ener", "models": parts, "weights": node.get("weights", "mean")}
    switch = {k: node[k] for k in ("sw_rmin", "sw_rmax")}
    alpha = float(node.get("smin_alpha", 0.1))
    if alpha != 0.1:
        raise UnsupportedModelError(f"model.smin_alpha {alpha} is not supported; DeePMD-kit trains with 0.1")
    return parts[0] | common | switch | {"use_srtab": "table in the file"}


def _part(node: Node, prefix: str, arrays: _Arrays) -> Node:
    """A sub-model: its tensors carry no ``atomic_model.`` of their own."""
    kind = node.get("type", "standard")
    if kind not in ("standard", "pairtab"):
        raise UnsupportedModelError(f"{prefix}type {short(kind)} is not supported; supported: standard, pairtab")
    arrays.take(node, prefix, out_bias="out_bias", out_std="out_std")
    common = {k: node[k] for k in ("type_map", "pair_exclude_types", "atom_exclude_types") if k in node}
    if kind == "pairtab":
        arrays.take(node.get("tab") or {}, prefix, tab_info="tab_info", tab_data="tab_data")
        info, data = arrays.tensors[f"{prefix}tab_info"], arrays.tensors[f"{prefix}tab_data"]
        arrays.tensors[f"{prefix}tab_data"] = data.reshape(int(info[3]), int(info[3]), int(info[2]), 4)
        return common | {"type": "pairtab", "rcut": node["rcut"], "sel": node["sel"]}
    return common | _standard(node, prefix, arrays)


def _standard(node: Node, prefix: str, arrays: _Arrays) -> Node:
    descriptor = node.get("descriptor")
    kind = descriptor.get("type") if isinstance(descriptor, dict) else None
    readers = {"dpa1": _dpa1, "se_atten": _dpa1, "dpa2": _dpa2}
    if kind not in readers:
        return {"descriptor": {"type": kind}, "fitting_net": {}}  # refused by name when the configuration is parsed
    return {
        "descriptor": readers[kind](_class(descriptor, "Descriptor", "descriptor"), prefix, arrays),
        "fitting_net": _fitting(node.get("fitting"), prefix, arrays),
    }


def _options(node: Node, *drop: str) -> Node:
    """The plain options of a node: everything that is neither structure nor array."""
    return {
        k: v for k, v in node.items() if not k.startswith("@") and k not in drop and not (isinstance(v, dict) and v)
    }


def _layer(node: Node, name: str, arrays: _Arrays) -> None:
    arrays.take(node, name, w=".matrix", b=".bias", idt=".idt")


def _net(node: Node | None, name: str, arrays: _Arrays) -> None:
    for index, layer in enumerate((node or {}).get("layers", ())):
        _layer(layer, f"{name}.layers.{index}", arrays)


def _collection(node: Node | None, name: str, arrays: _Arrays) -> None:
    networks = _class(node, "NetworkCollection", name).get("networks") or () if node else ()
    if len(networks) > 1:
        raise CheckpointError("nets that differ between types are not supported")
    for net in networks:
        _net(net, f"{name}.networks.0", arrays)


def _block(node: Node, name: str, arrays: _Arrays) -> None:
    """Embedding nets, statistics and tables of one descriptor block."""
    _collection(node.get("embeddings"), f"{name}.filter_layers", arrays)
    _collection(node.get("embeddings_strip"), f"{name}.filter_layers_strip", arrays)
    arrays.take(node, f"{name}.", davg="mean", dstd="stddev")
    compressed = (node.get("compress") or {}).get("@variables") or {}
    if node.get("geo_compress") and compressed:
        for key in ("compress_data", "compress_info"):
            value = arrays.array(compressed[key][0])
            if value is not None:
                arrays.tensors[f"{name}.{key}.0"] = value


def _type_embedding(node: Node, name: str, arrays: _Arrays) -> None:
    embedding = _class(node["type_embedding"], "TypeEmbedNet", "descriptor.type_embedding")
    _net(embedding.get("embedding"), f"{name}.type_embedding.embedding.embedding_net", arrays)


def _dpa1(node: Node, prefix: str, arrays: _Arrays) -> Node:
    name = f"{prefix}descriptor"
    _type_embedding(node, name, arrays)
    _block(node, f"{name}.se_atten", arrays)
    arrays.take(node, f"{name}.se_atten.", degree_gain_raw="adam_degree_gain_raw")
    attention = _class(node.get("attention_layers") or {}, "NeighborGatedAttention", "descriptor.attention_layers")
    for index, layer in enumerate(attention.get("attention_layers", ())):
        where = f"{name}.se_atten.dpa1_attention.attention_layers.{index}"
        _layer(layer["attention_layer"]["in_proj"], f"{where}.attention_layer.in_proj", arrays)
        _layer(layer["attention_layer"]["out_proj"], f"{where}.attention_layer.out_proj", arrays)
        _layer(layer["attn_layer_norm"], f"{where}.attn_layer_norm", arrays)
    options = _options(node, "geo_compress")
    return {"use_tebd_bias": True, **options}  # older documents lack the key and have the bias


def _dpa2(node: Node, prefix: str, arrays: _Arrays) -> Node:
    name = f"{prefix}descriptor"
    _type_embedding(node, name, arrays)
    for key in ("g1_shape_tranform", "tebd_transform"):
        if isinstance(node.get(key), dict):
            _layer(node[key], f"{name}.{key}", arrays)
    _block(node["repinit_variable"], f"{name}.repinit", arrays)
    if node.get("repinit_three_body_variable"):
        _block(node["repinit_three_body_variable"], f"{name}.repinit_three_body", arrays)
    variables = node["repformers_variable"]
    _block(variables, f"{name}.repformers", arrays)
    _layer(variables["g2_embd"], f"{name}.repformers.g2_embd", arrays)
    for index, layer in enumerate(variables["repformer_layers"]):
        _repformer_layer(layer, f"{name}.repformers.layers.{index}", arrays)
    repformer = dict(node["repformer_args"])
    if node.get("@version", 1) < 3:
        repformer |= dict.fromkeys(("use_sqrt_nnei", "g1_out_conv", "g1_out_mlp"), False)
    options = _options(node)
    return {"use_tebd_bias": True, **options, "repinit": dict(node["repinit_args"]), "repformer": repformer}


def _repformer_layer(node: Node, name: str, arrays: _Arrays) -> None:
    node = _class(node, "RepformerLayer", name)
    for key in ("linear1", "linear2", "proj_g1g2", "proj_g1g1g2", "attn2_lm", "g1_self_mlp"):
        if isinstance(node.get(key), dict):
            _layer(node[key], f"{name}.{key}", arrays)
    for key, part in _inner(node):
        _layer(part, f"{name}.{key}", arrays)
    variables = {**node, **(node.get("@variables") or {})}
    for key in ("g1_residual", "g2_residual", "h2_residual"):
        for index, value in enumerate(variables.get(key) or ()):
            array = arrays.array(value)
            if array is not None:
                arrays.tensors[f"{name}.{key}.{index}"] = array


def _inner(node: Node) -> Iterator[tuple[str, Node]]:
    for key in ("attn2g_map", "attn2_mh_apply", "attn2_ev_apply", "loc_attn"):
        for sub in ("mapqk", "mapq", "mapkv", "mapv", "head_map"):
            part = (node.get(key) or {}).get(sub)
            if isinstance(part, dict):
                yield f"{key}.{sub}", part


def _fitting(node: Any, prefix: str, arrays: _Arrays) -> Node:
    node = _class(node, "Fitting", "fitting")
    _collection(node.get("nets"), f"{prefix}fitting_net.filter_layers", arrays)
    names = ("bias_atom_e", "case_embd", "fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std")
    arrays.take(node, f"{prefix}fitting_net.", **{name: name for name in names})
    options = _options(node)
    size = options.pop("dim_out", None)
    if size is not None:
        options.setdefault("numb_dos" if options.get("type") == "dos" else "task_dim", size)
    if options.get("type") == "property":
        options = {"distinguish_types": False, "property_name": options.get("var_name", "property")} | options
    scale = arrays.array((node.get("@variables") or {}).get("scale"))
    if scale is not None:
        options["scale"] = scale.flatten().tolist()
    return options
