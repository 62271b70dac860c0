"""Start, continue or fine-tune a training from a settings file; what the commands call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from ..config import AnyModelConfig
from .configuration import TrainingConfig
from .distributed import join_processes, leave_processes
from .epochs import with_steps
from .head_data import HeadData, read_data
from .neighbor_counts import config_of_head, with_counted_neighbors
from .settings import read_settings
from .setup import finetuned_heads, load_heads, new_heads, prepare_finetuned, prepare_new, with_model
from .state import read_state
from .trainer import Trainer

Start = Literal["new", "restart", "init-model", "finetune"]


def make_trainer(  # noqa: PLR0913  # what can be chosen
    config: TrainingConfig,
    *,
    start: Start = "new",
    model: str | Path | None = None,
    head: str | None = None,
    data: Mapping[str, HeadData] | None = None,
    device: str = "cpu",
) -> Trainer:
    """A trainer ready to run.

    Parameters
    ----------
    start, model
        ``new``: random weights. ``restart``: continue the training stored in `model`, bit for bit. ``init-model``:
        weights and statistics of `model`, a new training. ``finetune``: weights of head `head` of a pretrained `model`,
        its configuration, and energy biases fitted to the data.
    data
        Frames by head, instead of those the settings name.
    """
    if (start == "new") != (model is None):
        raise ValueError(f"start {start!r} and the model {model} do not go together")
    if start == "new":
        models: Mapping[str, AnyModelConfig] = {name: config_of_head(head) for name, head in config.heads.items()}
    else:
        heads = finetuned_heads(config, str(model), head) if start == "finetune" else load_heads(config, str(model))
        models = {name: potential.config for name, potential in heads.items()}
    if data is None:
        data = {name: read_data(h.data, models[name]) for name, h in config.heads.items()}
    config = with_steps(config, data)
    if start == "new":
        config = with_counted_neighbors(config, data)
        heads = new_heads(config)
        prepare_new(config, heads, data)
    elif start == "finetune":
        config = with_model(config, heads)
        prepare_finetuned(heads, data, config.seed)
    trainer = Trainer(config, heads, data, device, join_processes(torch.device(device)))
    if start == "restart":
        trainer.restore(read_state(str(model)))
    return trainer


def train(  # noqa: PLR0913  # the options of the command
    settings: str | Path,
    *,
    restart: str | Path | None = None,
    init_model: str | Path | None = None,
    finetune: str | Path | None = None,
    head: str | None = None,
    device: str = "cpu",
    quiet: bool = False,
) -> Trainer:
    """Train as a settings file says; outputs go to the current folder.

    Parameters
    ----------
    settings
        YAML of this package or ``input.json`` of DeePMD-kit.
    restart, init_model, finetune
        A checkpoint to start from, one at most; see `make_trainer`.
    head
        Head of the pretrained model to fine-tune.
    """
    config = read_settings(settings)
    if device == "cuda" and "LOCAL_RANK" in os.environ:  # one device for each process of torchrun
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    chosen: dict[Start, str | Path | None] = {"restart": restart, "init-model": init_model, "finetune": finetune}
    given = [(start, path) for start, path in chosen.items() if path is not None]
    if len(given) > 1:
        raise ValueError(f"give one of {', '.join('--' + start for start, _ in given)}, not all")
    start: Start
    start, model = given[0] if given else ("new", None)
    if head is not None and start != "finetune":
        raise ValueError("--head chooses the head of a pretrained model; it needs --finetune")
    try:
        trainer = make_trainer(config, start=start, model=model, head=head, device=device)
        trainer.run(quiet=quiet)
    finally:
        leave_processes()
    return trainer
