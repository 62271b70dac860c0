"""DeePMD-kit's ``input.json``, single- and multi-task, as settings of a training.

What changes a training and is not implemented is refused by its path; what only concerns messages, files and speed of
DeePMD-kit is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..option_values import number, short, table
from .deepmd_model import check_section, frozen_parts, head_of_section, multi_task, only, real, refuse, whole
from .loss import LossConfig, Prefactor
from .sampling import BatchSize, parse_batch_size
from .schedules import LearningRateConfig
from .settings import DEFAULT_HEAD, DataConfig, HeadConfig, OptimizerConfig, OutputConfig, TrainingConfig

_STEPS = ("numb_steps", "stop_batch", "num_step", "num_steps", "numb_step")
_TRAINING = frozenset(
    "training_data validation_data data_dict model_prob seed disp_file disp_freq save_ckpt save_freq max_ckpt_keep "
    "gradient_max_norm enable_ema ema_decay tensorboard tensorboard_log_dir opt_type adam_beta1 adam_beta2 "
    "weight_decay warmup_steps save_dir change_bias_after_training".split()
) | {*_STEPS}
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
    refuse(training, "training", change_bias_after_training=False)
    if table(data.get("validating", {}), "validating").get("full_validation", False):
        raise ValueError("validating.full_validation is not supported; validation errors are in the log anyway")
    model = table(data.get("model"), "model")
    sections, sharing = multi_task(model) if "model_dict" in model else ({DEFAULT_HEAD: dict(model)}, ())
    for head, section in sections.items():
        check_section(section, "model" if head == DEFAULT_HEAD else f"model.model_dict.{head}")
    return TrainingConfig(
        heads=_heads(data, training, sections),
        steps=_steps(training),
        sharing=sharing,
        learning_rate=_learning_rate(data, training),
        optimizer=_optimizer(data, training),
        freeze=frozen_parts(sections),
        seed=whole(training, "seed", 0, "training"),
        output=_output(training),
    )


def _heads(
    data: Mapping[str, Any], training: Mapping[str, Any], sections: Mapping[str, dict[str, Any]]
) -> dict[str, HeadConfig]:
    if list(sections) == [DEFAULT_HEAD]:
        if "data_dict" in training or "loss_dict" in data:
            raise ValueError("training.data_dict and loss_dict belong to a multi-task model (model.model_dict)")
        loss = _loss(table(data.get("loss", {}), "loss"), "loss")
        return {DEFAULT_HEAD: head_of_section(sections[DEFAULT_HEAD], "model", _data(training, "training"), loss)}
    data_dict = table(training.get("data_dict"), "training.data_dict")
    losses = table(data.get("loss_dict", {}), "loss_dict")
    probabilities = table(training.get("model_prob", {}), "training.model_prob")
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
            _data(entry, path),
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


def _data(data: Mapping[str, Any], path: str) -> DataConfig:
    known = {"systems", "batch_size", "auto_prob", "auto_prob_style", "sys_probs", "sys_weights", "rglob_patterns"}
    train, where = table(data.get("training_data"), f"{path}.training_data"), f"{path}.training_data"
    only(train, known | {"min_pair_dist"}, where)
    refuse(train, where, min_pair_dist=0)
    valid, where_valid = table(data.get("validation_data") or {"systems": []}, ""), f"{path}.validation_data"
    only(valid, known | {"numb_btch", "numb_batch"}, where_valid)
    patterns = train.get("rglob_patterns") or [None]
    if len(patterns) > 1:
        raise ValueError(f"{where}.rglob_patterns: one pattern is supported, found {len(patterns)}")
    return DataConfig(
        train=_systems(train, where),
        valid=_systems(valid, where_valid),
        batch=_batch(train, where),
        valid_batch=_batch(valid, where_valid),
        valid_batches=whole(valid, "numb_btch", whole(valid, "numb_batch", 1, where_valid), where_valid),
        system_weights=_system_weights(train, where),
        pattern=patterns[0],
    )


def _systems(data: Mapping[str, Any], path: str) -> tuple[str, ...]:
    systems = data.get("systems")
    found = [systems] if isinstance(systems, str) else systems
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise ValueError(f"{path}.systems should be a list of paths, found {short(systems)}")
    return tuple(found)


def _batch(data: Mapping[str, Any], path: str) -> BatchSize:
    size = data.get("batch_size", "auto")
    if isinstance(size, list):
        if len(set(size)) != 1:
            raise ValueError(f"{path}.batch_size: different sizes for systems are not supported; use auto:N")
        size = size[0]
    return parse_batch_size(size, f"{path}.batch_size")


def _system_weights(data: Mapping[str, Any], path: str) -> Any:
    weights = data.get("sys_probs", data.get("sys_weights"))
    if weights is not None:
        return tuple((n, n + 1, number(w, f"{path}.sys_probs[{n}]", least=0)) for n, w in enumerate(weights))
    style = str(data.get("auto_prob", data.get("auto_prob_style", "prob_sys_size")))
    kind, _, blocks = style.partition(";")
    if style == "prob_uniform":
        return "equal"
    if kind != "prob_sys_size":
        raise ValueError(
            f"{path}.auto_prob {short(style)} is not supported; supported: prob_uniform, prob_sys_size[;…]"
        )
    try:
        parts = [block.split(":") for block in blocks.split(";") if block]
        return tuple((int(a), int(b), float(weight)) for a, b, weight in parts) or "frames"
    except ValueError:
        raise ValueError(f"{path}.auto_prob {short(style)}: blocks are START:END:WEIGHT") from None


def _loss(data: Mapping[str, Any], path: str) -> LossConfig:
    names = {f"{side}_pref_{quantity}" for side in ("start", "limit") for quantity in (*_LOSS, "h", "gf")}
    others = {"type", "loss_func", "use_huber", "huber_delta", "relative_f", "f_use_norm", "intensive_ener_virial"}
    only(data, names | others | {"enable_atom_ener_coeff", "numb_generalized_coord", "use_default_pf"}, path)
    neutral = dict.fromkeys(("start_pref_h", "limit_pref_h", "start_pref_gf", "limit_pref_gf"), 0)
    refuse(data, path, type="ener", enable_atom_ener_coeff=False, numb_generalized_coord=0, **neutral)
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
    found = [whole(training, key, 0, "training") for key in _STEPS if key in training]
    if not found:
        raise ValueError("training.numb_steps is missing")
    return found[0]


def _learning_rate(data: Mapping[str, Any], training: Mapping[str, Any]) -> LearningRateConfig:
    rate, path = table(data.get("learning_rate", {"start_lr": 1e-3}), "learning_rate"), "learning_rate"
    common = {"type", "start_lr", "stop_lr", "stop_lr_ratio", "warmup_steps", "warmup_ratio", "warmup_start_factor"}
    own = {"exp": {"decay_steps", "decay_rate", "smooth"}, "cosine": set(), "wsd": {"decay_phase_ratio", "decay_type"}}
    kind = rate.get("type", "exp")
    if kind not in own:
        raise ValueError(f"{path}.type {short(kind)} is not supported; supported: {', '.join(own)}")
    only(rate, common | own[kind] | {"scale_by_worker"}, path)
    start = real(rate, "start_lr", 1e-3, path)
    by_ratio = rate.get("stop_lr_ratio") is not None
    stop = start * real(rate, "stop_lr_ratio", 0.0, path) if by_ratio else real(rate, "stop_lr", 1e-5, path)
    warmup = whole(rate, "warmup_steps", whole(training, "warmup_steps", 0, "training"), path)
    if rate.get("warmup_ratio") is not None:
        warmup = int(real(rate, "warmup_ratio", 0.0, path) * _steps(training))
    return LearningRateConfig(
        schedule=kind,
        start=start,
        stop=stop,
        decay_steps=whole(rate, "decay_steps", 5000, path),
        decay_rate=None if rate.get("decay_rate") is None else real(rate, "decay_rate", 1.0, path),
        smooth=bool(rate.get("smooth", False)),
        decay_part=real(rate, "decay_phase_ratio", 0.1, path),
        decay=rate.get("decay_type", "inverse_linear"),
        warmup=warmup,
        warmup_start=real(rate, "warmup_start_factor", 0.0, path),
    )


def _optimizer(data: Mapping[str, Any], training: Mapping[str, Any]) -> OptimizerConfig:
    section = table(data.get("optimizer", {}), "optimizer")
    only(section, {"type", "adam_beta1", "adam_beta2", "weight_decay"}, "optimizer")
    path, kind = ("optimizer.type", section.get("type")) if section else ("training.opt_type", training.get("opt_type"))
    if kind not in (None, "Adam", "AdamW"):
        raise ValueError(f"{path} {short(kind)} is not supported; supported: Adam, AdamW")
    options, where = {**training, **section}, "optimizer" if section else "training"
    return OptimizerConfig(
        type="adamw" if kind == "AdamW" else "adam",
        betas=(real(options, "adam_beta1", 0.9, where), real(options, "adam_beta2", 0.999, where)),
        weight_decay=real(options, "weight_decay", 0.001 if kind == "AdamW" else 0.0, where),
        clip=real(training, "gradient_max_norm", 0.0, "training") or None,
        ema=real(training, "ema_decay", 0.999, "training") if training.get("enable_ema", False) else None,
    )


def _output(training: Mapping[str, Any]) -> OutputConfig:
    every = whole(training, "disp_freq", 1000, "training")
    return OutputConfig(
        checkpoint=str(Path(training.get("save_dir") or ".") / f"{training.get('save_ckpt', 'model.ckpt')}.pt"),
        save_every=whole(training, "save_freq", 1000, "training"),
        keep=whole(training, "max_ckpt_keep", 5, "training"),
        log=str(training.get("disp_file", "lcurve.out")),
        log_every=every,
        validate_every=every,
        tensorboard=str(training.get("tensorboard_log_dir", "log")) if training.get("tensorboard", False) else None,
    )
