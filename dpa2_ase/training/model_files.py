"""Model files of a training: all heads as they are, with what is known of their data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint.writing import HeadNotes, write_checkpoint
from .schedules import learning_rate

if TYPE_CHECKING:
    from .trainer import Trainer


def write_model(
    trainer: Trainer,
    path: Path,
    *,
    info: Mapping[str, Mapping[str, Any]] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the model a training has now; the file is complete or not there.

    Parameters
    ----------
    info
        What the file says of heads beside what the settings have it say, by head.
    extra
        Tables to store beside the model, see `write_checkpoint`.
    """
    config, step = trainer.config, trainer.step_number
    notes = {
        name: HeadNotes(
            observed=trainer.data[name].train.elements,
            aliases=head.aliases,
            info={**head.info, **(info or {}).get(name, {})},
        )
        for name, head in config.heads.items()
    }
    rate = learning_rate(config.learning_rate, max(step - 1, 0), config.steps)
    write_checkpoint(path, dict(trainer.heads.items()), step=step, learning_rate=rate, notes=notes, extra=extra)
