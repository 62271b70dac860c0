"""DeePMD-kit's ``input.json``, single- and multi-task, as settings of a training.

What changes a training and is not implemented is refused by its path; what only concerns messages, files and speed of
DeePMD-kit is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..option_values import number, short, table
from .configuration import DEFAULT_HEAD, HeadConfig, OptimizerConfig, OutputConfig, TrainingConfig
from .deepmd_data import data_of_section
from .deepmd_model import check_section, frozen_parts, head_of_section, multi_task, only, real, refuse, whole
from .deepmd_validating import full_validations
from .loss import LossConfig, Prefactor
from .schedules import LearningRateConfig

_STEPS = ("numb_steps", "stop_batch", "num_step", "num_steps", "numb_step")
_EPOCHS = ("numb_epoch", "num_epochs", "num_epoch", "numb_epochs")
_TRAINING = frozenset(
    "training_data validation_data data_dict model_prob seed disp_file disp_freq save_ckpt save_freq max_ckpt_keep "
    "ckpt_keep_ratio gradient_max_norm enable_ema ema_decay tensorboard tensorboard_log_dir opt_type adam_beta1 "
    "adam_beta2 weight_decay warmup_steps save_dir change_bias_after_training acc_freq num_epoch_dict".split()
) | {*_STEPS, *_EPOCHS}
_LOSS = {"e": "energy", "f": "forces", "v": "virial", "ae": "atomic_energies", "pf": "weighted_forces"}
_DEFAULTS = {"e": (0.02, 1.0), "f": (1000.0, 1.0)}


def settings_of_input(data: Mapping[str, Any]) -> TrainingConfig:
    """The settings of an input of DeePMD-kit.

    Raises
    ------
    ValueError
        For keys that are not known or not supported, and wrong values.
    """
    only(data, {"model", "learning_rate", "loss", "loss_dict", "training", "optimizer", "validating"}, "")
    training = table(data.get("training"), "training")
    only(training, _TRAINING, "training")
    refuse(training, "training", acc_freq=1)
    model = table(data.get("model"), "model")
    sections, sharing = multi_task(model) if "model_dict" in model else ({DEFAULT_HEAD: dict(model)}, ())
    for head, section in sections.items():
        check_section(section, "model" if head == DEFAULT_HEAD else f"model.model_dict.{head}")
    epochs, heads = _epochs(training, list(sections)), _heads(data, training, sections)
    return TrainingConfig(
        heads=heads,
        steps=0 if epochs else _steps(training),
        epochs=epochs,
        sharing=tuple(replace(s, levels={h: s.levels[h] for h in s.levels if h in heads}) for s in sharing),
        learning_rate=_learning_rate(data, training),
        optimizer=_optimizer(data, training),
        freeze=frozen_parts(sections),
        change_bias=bool(training.get("change_bias_after_training", False)),
        seed=whole(training, "seed", 0, "training"),
        output=_output(training),
        validations=full_validations(data, heads),
    )


def _heads(
    data: Mapping[str, Any], training: Mapping[str, Any], sections: Mapping[str, dict[str, Any]]
) -> dict[str, HeadConfig]:
    if list(sections) == [DEFAULT_HEAD]:
        given = [key for key in ("data_dict", "model_prob", "num_epoch_dict") if training.get(key)]
        if given or "loss_dict" in data:
            key = f"training.{given[0]}" if given else "loss_dict"
            raise ValueError(f"{key} belongs to a multi-task model (model.model_dict)")
        loss = _loss(table(data.get("loss", {}), "loss"), "loss")
        return {
            DEFAULT_HEAD: head_of_section(sections[DEFAULT_HEAD], "model", data_of_section(training, "training"), loss)
        }
    data_dict = table(training.get("data_dict"), "training.data_dict")
    losses = table(data.get("loss_dict", {}), "loss_dict")
    probabilities = table(training.get("model_prob", {}), "training.model_prob")
    if training.get("num_epoch_dict"):
        probabilities = dict.fromkeys(sections, 1.0)  # follow from the epochs
    unknown = sorted({*data_dict, *losses, *probabilities} - sections.keys())
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not one of the heads {sorted(sections)} of model.model_dict")
    heads = {}
    for head, section in sections.items():
        path = f"training.data_dict.{head}"
        entry = table(data_dict.get(head), path)
        only(entry, {"training_data", "validation_data"}, path)
        heads[head] = head_of_section(
            section,
            f"model.model_dict.{head}",
            data_of_section(entry, path),
            _loss(table(losses.get(head, {}), f"loss_dict.{head}"), f"loss_dict.{head}"),
            _probability(head, probabilities, table(entry["training_data"], path)),
        )
    return {head: config for head, config in heads.items() if config.probability > 0}


def _probability(head: str, probabilities: Mapping[str, Any], data: Mapping[str, Any]) -> float:
    """What is given for a head; where nothing is given for any, the number of its systems."""
    if head in probabilities:
        return number(probabilities[head], f"training.model_prob.{head}", least=0)
    if probabilities:
        raise ValueError(f"training.model_prob.{head} is missing; 0 leaves a head out")
    if isinstance(data["systems"], str):
        raise ValueError("training.model_prob is missing, and training_data.systems does not say how many there are")
    return float(len(data["systems"]))


def _loss(data: Mapping[str, Any], path: str) -> LossConfig:
    names = {f"{side}_pref_{quantity}" for side in ("start", "limit") for quantity in (*_LOSS, "h", "gf")}
    others = {"type", "loss_func", "use_huber", "huber_delta", "relative_f", "f_use_norm", "intensive_ener_virial"}
    only(data, names | others | {"enable_atom_ener_coeff", "numb_generalized_coord", "use_default_pf"}, path)
    neutral = dict.fromkeys(("start_pref_h", "limit_pref_h", "start_pref_gf", "limit_pref_gf"), 0)
    refuse({**data, "type": "ener"} if data.get("type") == "ener_hess" else data, path, type="ener")
    refuse(data, path, enable_atom_ener_coeff=False, numb_generalized_coord=0, **neutral)
    prefactors = {}
    for quantity, name in _LOSS.items():
        start, limit = _DEFAULTS.get(quantity, (0.0, 0.0))
        start = real(data, f"start_pref_{quantity}", start, path)
        prefactors[name] = Prefactor(start, real(data, f"limit_pref_{quantity}", limit, path))
    if data.get("loss_func", "mse") not in ("mse", "mae"):
        raise ValueError(f"{path}.loss_func should be mse or mae, found {short(data['loss_func'])}")
    delta, relative = data.get("huber_delta", 0.01), data.get("relative_f")
    deltas = delta if isinstance(delta, list) else [delta]
    return LossConfig(
        **prefactors,
        function="huber" if data.get("use_huber", False) else data.get("loss_func", "mse"),
        huber_delta=tuple(number(d, f"{path}.huber_delta", least=0) for d in deltas),
        relative_force=None if relative is None else number(relative, f"{path}.relative_f"),
        force_norm=bool(data.get("f_use_norm", False)),
        intensive=bool(data.get("intensive_ener_virial", False)),
        default_force_weight=1.0 if data.get("use_default_pf", False) else None,
    )


def _steps(training: Mapping[str, Any]) -> int:
    found = [whole(training, key, 0, "training") for key in _STEPS if training.get(key) is not None]
    if not found:
        raise ValueError("training.numb_steps is missing; training.numb_epoch is the other way to say how long")
    return found[0]


def _epochs(training: Mapping[str, Any], heads: list[str]) -> dict[str, float]:
    """Epochs of every head; empty where a number of steps is given."""
    single = [key for key in _EPOCHS if training.get(key) is not None]
    several = table(training.get("num_epoch_dict") or {}, "training.num_epoch_dict")
    if not single and not several:
        return {}
    path = f"training.{single[0]}" if single else "training.num_epoch_dict"
    others = [key for key in (*_STEPS, "model_prob") if training.get(key)]
    if others:
        raise ValueError(f"{path} and training.{others[0]} exclude each other; remove one")
    if single and heads != [DEFAULT_HEAD]:
        raise ValueError(f"{path} belongs to a training of one head; give training.num_epoch_dict")
    found = {DEFAULT_HEAD: training[single[0]]} if single else several
    if set(found) != set(heads):
        raise ValueError(f"{path} should have one number for each of the heads {sorted(heads)}, found {sorted(found)}")
    epochs = {head: number(found[head], path if single else f"{path}.{head}") for head in heads}
    if min(epochs.values()) <= 0:
        raise ValueError(f"{path} should be above zero, found {short(found)}")
    return epochs


def _learning_rate(data: Mapping[str, Any], training: Mapping[str, Any]) -> LearningRateConfig:
    rate, path = table(data.get("learning_rate", {"start_lr": 1e-3}), "learning_rate"), "learning_rate"
    common = {"type", "start_lr", "stop_lr", "stop_lr_ratio", "warmup_steps", "warmup_ratio", "warmup_start_factor"}
    own = {"exp": {"decay_steps", "decay_rate", "smooth"}, "cosine": set(), "wsd": {"decay_phase_ratio", "decay_type"}}
    kind = rate.get("type", "exp")
    if kind not in own:
        raise ValueError(f"{path}.type {short(kind)} is not supported; supported: {', '.join(own)}")
    only(rate, common | own[kind] | {"scale_by_worker"}, path)
    start = real(rate, "start_lr", 1e-3, path)
    _either(rate, "stop_lr", "stop_lr_ratio")
    _either(rate, "warmup_steps", "warmup_ratio")
    by_ratio = rate.get("stop_lr_ratio") is not None
    stop = start * real(rate, "stop_lr_ratio", 0.0, path) if by_ratio else real(rate, "stop_lr", 5e-8, path)
    return LearningRateConfig(
        schedule=kind,
        start=start,
        stop=stop,
        decay_steps=whole(rate, "decay_steps", 5000, path),
        decay_rate=None if rate.get("decay_rate") is None else real(rate, "decay_rate", 1.0, path),
        smooth=bool(rate.get("smooth", False)),
        decay_part=real(rate, "decay_phase_ratio", 0.1, path),
        decay=rate.get("decay_type", "inverse_linear"),
        warmup=whole(rate, "warmup_steps", whole(training, "warmup_steps", 0, "training"), path),
        warmup_part=None if rate.get("warmup_ratio") is None else real(rate, "warmup_ratio", 0.0, path),
        warmup_start=real(rate, "warmup_start_factor", 0.0, path),
    )


def _either(rate: Mapping[str, Any], first: str, second: str) -> None:
    if rate.get(first) and rate.get(second) is not None:
        raise ValueError(f"learning_rate.{first} and learning_rate.{second} exclude each other; remove one")


def _optimizer(data: Mapping[str, Any], training: Mapping[str, Any]) -> OptimizerConfig:
    section = table(data.get("optimizer", {}), "optimizer")
    path, kind = ("optimizer.type", section.get("type")) if section else ("training.opt_type", training.get("opt_type"))
    if kind not in (None, "Adam", "AdamW"):
        hint = "; this package's own optimizer for matrices, muon, is an option of its YAML settings"
        raise ValueError(
            f"{path} {short(kind)} is not supported; supported: Adam, AdamW{hint if 'Muon' in str(kind) else ''}"
        )
    only(section, {"type", "adam_beta1", "adam_beta2", "weight_decay"}, "optimizer")
    options, where = {**training, **section}, "optimizer" if section else "training"
    return OptimizerConfig(
        type="adamw" if kind == "AdamW" else "adam",
        betas=(real(options, "adam_beta1", 0.9, where), real(options, "adam_beta2", 0.999, where)),
        weight_decay=real(options, "weight_decay", 0.001 if kind == "AdamW" else 0.0, where),
        clip=real(training, "gradient_max_norm", 0.0, "training") or None,
        ema=real(training, "ema_decay", 0.999, "training") if training.get("enable_ema", False) else None,
    )


def _output(training: Mapping[str, Any]) -> OutputConfig:
    every, save_every = (whole(training, key, 1000, "training") for key in ("disp_freq", "save_freq"))
    return OutputConfig(
        checkpoint=str(Path(training.get("save_dir") or ".") / f"{training.get('save_ckpt', 'model.ckpt')}.pt"),
        save_every=save_every,
        keep=_kept(training, save_every),
        log=str(training.get("disp_file", "lcurve.out")),
        log_every=every,
        validate_every=every,
        tensorboard=str(training.get("tensorboard_log_dir", "log")) if training.get("tensorboard", False) else None,
    )


def _kept(training: Mapping[str, Any], save_every: int) -> int:
    """Numbered copies to keep; a part of those of the whole training where its steps are known."""
    ratio = training.get("ckpt_keep_ratio")
    if ratio is None or not any(training.get(key) for key in _STEPS):
        return whole(training, "max_ckpt_keep", 5, "training")
    part = number(ratio, "training.ckpt_keep_ratio", least=0)
    return math.ceil(part * math.ceil(_steps(training) / max(save_every, 1)))
