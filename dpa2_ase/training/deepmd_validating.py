"""Full validation as the section ``validating`` of DeePMD-kit's ``input.json`` asks for it.

Errors over all frames of ``validation_data`` every so many steps, beside those of the log, and copies of the best
models by one of them, under DeePMD-kit's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..option_values import integer, number, short, table
from .best import BestConfig, Metric
from .configuration import DEFAULT_HEAD, HeadConfig
from .deepmd_model import only

_KNOWN = frozenset(
    "full_validation ema_full_validation validation_freq save_best save_best_dir max_best_ckpt validation_metric "
    "full_val_file full_val_start compiled_infer tf32_infer amp_infer".split()
)
_LABELS = {"E": "energy", "F": "forces", "V": "virial"}
_METRICS = {
    f"{letter}:{kind.upper()}": f"{name}_{kind}" for letter, name in _LABELS.items() for kind in ("mae", "rmse")
}


def full_validations(data: Mapping[str, Any], heads: Mapping[str, HeadConfig]) -> tuple[BestConfig, ...]:
    """The full validations that an input asks for: of the parameters, of their running means, or none.

    Parameters
    ----------
    data
        The whole input.
    heads
        What was made of it.

    Raises
    ------
    ValueError
        For keys that are not known or not supported, wrong values, and what contradicts the rest of the input.
    """
    section = table(data.get("validating", {}), "validating")
    only(section, _KNOWN, "validating")
    wanted = [key for key in ("full_validation", "ema_full_validation") if _flag(section, key)]
    start = number(section.get("full_val_start", 0.5), "validating.full_val_start", least=0)
    if not wanted or start == 1:  # so DeePMD-kit spells that there is none
        return ()
    training = table(data["training"], "training")
    _check_rest(training, heads, wanted)
    metric = _metric(section, heads[DEFAULT_HEAD])
    every = integer(section.get("validation_freq", 5000), "validating.validation_freq", least=1)
    count = integer(section.get("max_best_ckpt", 1), "validating.max_best_ckpt", least=1)
    folder = Path(str(section.get("save_best_dir") or Path(str(training.get("save_ckpt", "model.ckpt"))).parent))
    log = Path(str(section.get("full_val_file", "val.log")))
    saves = _flag(section, "save_best", default=True)
    found = []
    for key in wanted:
        mean = key == "ema_full_validation"
        suffix = "_ema" if mean else ""
        found.append(
            BestConfig(
                file=str(folder / f"best{suffix}.ckpt-{{step}}.t-{{rank}}.pt") if saves else None,
                metric=metric,
                count=count,
                every=every,
                start=start,
                log=str(log.with_name(f"{log.stem}{suffix}{log.suffix}")),
                mean=mean,
                place="validating.validation_metric",
            )
        )
    return tuple(found)


def _flag(section: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    value = section.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"validating.{key} should be true or false, found {short(value)}")
    return value


def _check_rest(training: Mapping[str, Any], heads: Mapping[str, HeadConfig], wanted: list[str]) -> None:
    """Refuse full validation of several heads, of no frames, and of running means that are not kept."""
    if set(heads) != {DEFAULT_HEAD}:
        raise ValueError(
            f"validating.{wanted[0]} belongs to a training of one head; output.best of the YAML settings takes several"
        )
    if not heads[DEFAULT_HEAD].data.valid:
        raise ValueError(f"training.validation_data is missing; validating.{wanted[0]} computes errors of its frames")
    if "ema_full_validation" in wanted and not training.get("enable_ema", False):
        raise ValueError("validating.ema_full_validation needs training.enable_ema: true; set it or remove the former")


def _metric(section: Mapping[str, Any], head: HeadConfig) -> Metric:
    """The name of the error here; of a quantity the loss has a prefactor for."""
    path, value = "validating.validation_metric", section.get("validation_metric", "E:MAE")
    found = _METRICS.get(value.upper()) if isinstance(value, str) else None
    if found is None:
        hint = "; V, the virial per atom, is the nearest to the stress" if str(value).upper().startswith("S:") else ""
        raise ValueError(f"{path} {short(value)} is not supported; supported: {', '.join(_METRICS)}{hint}")
    label = found.partition("_")[0]
    prefactor = getattr(head.loss, label)
    if prefactor.start == prefactor.limit == 0:
        names = " and ".join(f"loss.{side}_pref_{label[0]}" for side in ("start", "limit"))
        raise ValueError(f"{path} is {value}, and {names} are zero: choose an error of what is trained")
    return cast("Metric", found)
