"""What computes here, and why."""

from __future__ import annotations

import os
from pathlib import Path


def system_facts() -> dict[str, str]:
    """Versions, threads, devices, and the path that ``mode="auto"`` takes on each kind of device."""
    import torch

    from .. import __version__
    from ..device_search import search_device
    from ..kernels import choose_mode
    from ..kernels.cpu import describe

    has_cuda = torch.cuda.is_available()
    cards = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if has_cuda else []
    facts = {
        "dpa2-ase": __version__,
        "torch": torch.__version__,
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "CUDA": ", ".join(cards) or "no device",
    }
    facts |= describe()
    for device in ("cpu", *["cuda"] * has_cuda):
        path, reason = choose_mode("auto", torch.device(device))
        facts[f"mode auto on {device}"] = f"{path}: {reason}"
        if device == "cuda":
            on_device = search_device(torch.device(device)) is not None
            facts["neighbor lists"] = "vesin, on cuda" if on_device else "matscipy; on cuda with the extra gpu"
    return facts


def model_facts(path: Path) -> dict[str, str]:
    """What every block of a model runs on in ``mode="auto"``, by its place in the model; of its first head."""
    from ..checkpoint import heads
    from ..interfaces.loading import open_evaluator

    evaluator, _ = open_evaluator(path, head=next(iter(heads(path))))
    engine = evaluator.engine
    return engine.fast | {name: f"reference: {reason}" for name, reason in engine.slow.items()}
