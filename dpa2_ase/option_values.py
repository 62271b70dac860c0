"""Check the value of one option of a model file: its type, its range, its place among known choices.

Everything a file says passes here before it is used. All functions raise ValueError, or UnsupportedModelError for
what is not implemented, with the option's `path` in the message.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from .config import Precision, TypePairs, UnsupportedModelError

FITTINGS = ("ener", "dos", "property", "dipole", "polar")
PRECISIONS: dict[str, Precision] = {
    "default": "float64",
    "float64": "float64",
    "double": "float64",
    "float32": "float32",
    "single": "float32",
}
CHOICES = {
    "tebd_input_mode": ("concat", "strip"),
    "update_style": ("res_avg", "res_incr", "res_residual"),
    "type": FITTINGS,
}
ACTIVATIONS = frozenset("tanh relu relu6 softplus sigmoid silu gelu gelu_tf linear none".split())
_COUNTS = frozenset(
    "axis_neuron tebd_dim three_body_sel nlayers g1_dim g2_dim attn1_hidden attn1_nhead attn2_hidden attn2_nhead "
    "numb_dos task_dim".split()
)  # at least one
_COUNTS_OR_ZERO = frozenset("attn attn_layer lmax numb_fparam numb_aparam dim_case_embd".split())
_RADII = frozenset("rcut rcut_smth three_body_rcut three_body_rcut_smth".split())
_NUMBERS = frozenset("env_protection scaling_factor temperature ln_eps".split())
_OPTIONAL = frozenset("temperature default_fparam scale".split())
# no real model comes near; bounds what is built before shapes are compared with the tensors of the file
TOO_LARGE = 1_000_000
TOO_MANY_LAYERS = 256
TOO_MANY_TYPES = 1_000
TOO_FAR = 1_000.0  # Å


def short(value: object) -> str:
    """A value of a file as it may stand in a message: of bounded length, whatever it is."""
    try:
        return reprlib.repr(value)[:200]
    except ValueError:  # integers of thousands of digits have no text
        return f"a {type(value).__name__}"


def convert(name: str, value: Any, path: str) -> Any:  # noqa: PLR0911, PLR0912  # one line for each kind of option
    """The value of option `name`, in the type of its field."""
    if name in ("repinit", "repformer") or (value is None and name in _OPTIONAL):
        return value
    if name in CHOICES:
        return choice(value, CHOICES[name], path)
    if name == "precision":
        return PRECISIONS[choice(value, tuple(PRECISIONS), path)]
    if name == "activation_function":
        return activation(value, path)
    if name in ("sel", "nsel"):
        return sel(value, path)
    if name in ("nlayers", "attn_layer"):
        return integer(value, path, least=int(name == "nlayers"), most=TOO_MANY_LAYERS)
    if name in _COUNTS or name in _COUNTS_OR_ZERO:
        return integer(value, path, least=int(name in _COUNTS))
    if name in ("neuron", "three_body_neuron"):
        if not isinstance(value, list | tuple) or not 0 < len(value) <= TOO_MANY_LAYERS:
            raise ValueError(f"{path} should be a list of layer widths, found {short(value)}")
        return tuple(integer(v, path, least=1) for v in value)
    if name in _RADII:
        return number(value, path, most=TOO_FAR)
    if name in _NUMBERS:
        return number(value, path, least=0 if name in ("ln_eps", "env_protection") else -math.inf)
    if name == "exclude_types":
        return type_pairs(value, path)
    if name == "atom_ener":
        return atom_energies(value, path)
    if name in ("default_fparam", "scale"):
        return numbers(value, path) if isinstance(value, list | tuple) else number(value, path)
    if name == "property_name":
        return str(value)[:100]
    if not isinstance(value, bool):
        raise ValueError(f"{path} should be true or false, found {short(value)}")
    return value


def table(value: Any, path: str) -> Mapping[str, Any]:
    """A table of options with text as keys."""
    if value is None:
        raise ValueError(f"{path} is missing")
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{path} should be a table of options, found {short(value)}")
    return value


def choice(value: Any, choices: tuple[str, ...], path: str) -> str:
    """One of a few names."""
    if value not in choices:
        raise UnsupportedModelError(f"{path} {short(value)} is not supported; supported: {', '.join(choices)}")
    return value


def activation(value: Any, path: str) -> str:
    """The name of an activation function, see `dpa2_ase.nn.layers.activation_function`."""
    if value is None:
        return "none"
    name, _, threshold = value.lower().partition(":") if isinstance(value, str) else ("?", "", "")
    known = name in ACTIVATIONS and not threshold
    if name in ("silut", "custom_silu"):
        known = not threshold or _is_decimal(threshold)
    if not known:
        raise UnsupportedModelError(
            f"{path} {short(value)} is not supported; supported: {', '.join(sorted(ACTIVATIONS))}, silut, silut:T"
        )
    return value


def _is_decimal(text: str) -> bool:
    try:
        return abs(float(text)) < 1e3
    except ValueError:
        return False


def integer(value: Any, path: str, *, least: int = 0, most: int = TOO_LARGE) -> int:
    """An integer between two bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{path} should be an integer from {least} to {most}, found {short(value)}")
    return value


def number(value: Any, path: str, *, least: float = -math.inf, most: float = 1e300) -> float:
    """A finite number between two bounds."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not max(least, -1e300) <= value <= most:  # refuses NaN and infinities, too
        raise ValueError(f"{path} should be a number{' from 0' * (least == 0)}, found {short(value)}")
    return float(value)


def numbers(value: Any, path: str) -> tuple[float, ...]:
    """A list of finite numbers."""
    return tuple(number(v, path) for v in value)


def atom_energies(value: Any, path: str) -> tuple[Any, ...]:
    """A number, a list of numbers or nothing per type."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ValueError(f"{path} should be a list with a number or null per type, found {short(value)}")
    return tuple(
        entry if entry is None else numbers(entry, path) if isinstance(entry, list | tuple) else number(entry, path)
        for entry in value
    )


def sel(value: Any, path: str) -> int:
    """A list length, summed over types where one is given per type."""
    if isinstance(value, str):
        raise ValueError(
            f"{path} is {short(value)}: the file holds an input, not a trained model (sel is not resolved)"
        )
    parts = value if isinstance(value, list | tuple) else [value]
    return integer(sum(integer(v, path) for v in parts), path, least=1)


def types(value: Any, path: str) -> tuple[int, ...]:
    """Type indices; nothing stands for none."""
    if not isinstance(value, list | tuple | None):
        raise ValueError(f"{path} should be a list of type indices, found {short(value)}")
    return tuple(integer(v, path, most=TOO_MANY_TYPES) for v in value or ())


def type_pairs(value: Any, path: str) -> TypePairs:
    """Pairs of type indices; nothing stands for none."""
    if not isinstance(value, list | tuple | None):
        raise ValueError(f"{path} should be a list of pairs of type indices, found {short(value)}")
    pairs = []
    for pair in value or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"{path} should be a list of pairs of type indices, found the entry {short(pair)}")
        pairs.append((integer(pair[0], path, most=TOO_MANY_TYPES), integer(pair[1], path, most=TOO_MANY_TYPES)))
    return tuple(pairs)


def type_map(data: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """The element names of a model."""
    found = data.get("type_map")
    entries = found if isinstance(found, list | tuple) else ()
    names = [entry for entry in entries if isinstance(entry, str)]
    if not names or not len(entries) == len(names) == len(set(names)) <= TOO_MANY_TYPES:
        raise ValueError(f"{path}.type_map should be a list of different element names, found {short(found)}")
    return tuple(names)
